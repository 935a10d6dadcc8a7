"""Fresh answers equal solving from scratch, with the same ridge and scales."""

import math

import pytest
import torch
from torch import Tensor

from nestling.core.errors import DataError, ShapeMismatch
from nestling.memory import MemoryBank, RandomFeatures, RidgeMemory
from nestling.memory.checks import encode_one_hot
from nestling.memory.coded.coded_features import CodedFeatures, choose_coded_features
from nestling.memory.exact import fresh as fresh_file
from nestling.memory.exact.fresh import FreshSolution
from nestling.memory.exact.solve import solve_ridge
from nestling.memory.exact.statistics import decay_factor, decay_weights
from nestling.memory.ridge import Task

Digits = tuple[Tensor, Tensor, Tensor, Tensor]


def solve_by_rows(memory: RidgeMemory, fresh: FreshSolution) -> Tensor:
    """Weights from all sums, with the ridge and scales that `fresh` holds."""
    stats, inverse = memory.statistics, fresh.solution.inverse_scale
    upper = stats.scatter.triu()
    scatter = upper + upper.T - torch.diag(upper.diagonal())
    R = scatter * inverse[:, None] * inverse / stats.weight
    R.diagonal().add_(fresh.solution.strength)
    r = stats.cross * inverse[:, None] / stats.weight
    return torch.linalg.solve(R, r) * inverse[:, None]


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("half_life", [math.inf, 150.0])
@pytest.mark.parametrize("num_features", [60, 450])  # eigenvalues, then a factor
def test_rows_beside_a_factor_equal_all_rows(
    digits: Digits, task: Task, half_life: float, num_features: int
) -> None:
    x, labels, _, _ = digits
    y = labels if task == "classification" else x[:, 20:22].double()
    features = RandomFeatures(64, num_features)
    memory = RidgeMemory(64, task=task, features=features, half_life=half_life)
    memory.add(x[:300], y[:300])
    fresh = memory.make_fresh()
    for rows in torch.arange(300, 350).split(7):
        memory.add(x[rows], y[rows])
        dense = y[rows]
        if task == "classification":
            dense = encode_one_hot(y[rows], memory.num_classes)
        ones = torch.ones(len(rows), dtype=torch.float64)
        aged = decay_weights(ones, 0, half_life)
        factor = decay_factor(len(rows), half_life)
        fresh.add(features(x[rows]), dense, ones, aged, factor)
    torch.testing.assert_close(fresh.solution.weights, solve_by_rows(memory, fresh))
    stats = memory.statistics
    for name in ("weight", "mean", "target_sum", "cross", "target_scatter"):
        torch.testing.assert_close(getattr(fresh.statistics, name), getattr(stats, name))
    assert fresh.num_effective == pytest.approx(stats.num_effective)
    if half_life == math.inf:
        # Everything else of the answer, too: freedom, residuals, calibration.
        full = solve_ridge(stats, fresh.solution.strength, None, task == "regression")
        assert fresh.solution.freedom == pytest.approx(full.freedom, rel=0.02)


def test_probabilities_after_a_surprising_example_equal_the_exact_solution(
    digits: Digits,
) -> None:
    """A zero that is called a nine: the answer to it turns at once, and by as much as it should."""
    x, y, _, _ = digits
    features = choose_coded_features(x[:256])
    bank = MemoryBank(64, half_lives=(math.inf,), features=features, block=256)
    bank.add(x[:700], y[:700])
    odd = x[y == 0][-1:]
    before = bank.predict(odd)
    bank.add(odd, torch.tensor([9]))
    after = bank.predict(odd)
    exact = RidgeMemory(64, features=features)
    exact.add(x[:700], y[:700])
    exact.add(odd, torch.tensor([9]))
    assert float(after[0, 9]) > float(before[0, 9]) + 0.01
    torch.testing.assert_close(after, exact.predict(odd), rtol=0.0, atol=1e-5)


def test_codes_answer_alike_in_any_order_and_whenever_they_are_asked(digits: Digits) -> None:
    x, y, x_test, _ = digits
    features = choose_coded_features(x[:256])
    exact = RidgeMemory(64, features=features, num_outputs=10)
    exact.add(x, y)
    wanted = exact.predict(x_test)
    for seed, size in ((0, 1), (1, 37), (2, 400)):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        asked = MemoryBank(64, half_lives=(math.inf,), features=features, num_outputs=10)
        silent = MemoryBank(64, half_lives=(math.inf,), features=features, num_outputs=10)
        rows_of = order[:60].split(size) + order[60:].split(400)
        for rows in rows_of:
            asked.add(x[rows], y[rows])
            asked.predict(x_test[:1])
            silent.add(x[rows], y[rows])
        for bank in (asked, silent):
            torch.testing.assert_close(bank.predict(x_test), wanted, rtol=0.0, atol=1e-6)


def test_asking_changes_no_bit_of_the_state(digits: Digits) -> None:
    x, y, x_test, _ = digits
    features = choose_coded_features(x[:256])
    asked, silent = (
        MemoryBank(64, half_lives=(30.0, math.inf), features=features, block=32) for _ in range(2)
    )
    for rows in torch.arange(200).split(9):
        for bank in (asked, silent):
            bank.add(x[rows], y[rows])
        asked.predict(x_test[:3])
    for mine, theirs in zip(asked.gate.weights, silent.gate.weights, strict=True):
        assert torch.equal(mine, theirs)
    for one, other in zip(asked.memories, silent.memories, strict=True):
        assert torch.equal(one.statistics.scatter, other.statistics.scatter)


@pytest.mark.parametrize("is_coded", [False, True])
def test_nothing_is_solved_from_scratch_between_two_answers(
    digits: Digits, monkeypatch: pytest.MonkeyPatch, is_coded: bool
) -> None:
    x, y, x_test, _ = digits
    features = choose_coded_features(x[:256]) if is_coded else RandomFeatures(64, 450)
    bank = MemoryBank(64, half_lives=(math.inf,), features=features)
    bank.add(x[:400], y[:400])
    bank.predict(x_test[:1])
    solved = []

    def solve(*args: object, **settings: object) -> object:
        solved.append(bank.clock)
        return solve_ridge(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("nestling.memory.ridge.solve_ridge", solve)
    for i in range(400, 440):
        bank.add(x[i : i + 1], y[i : i + 1])
        before = len(solved)
        bank.predict(x_test[:1])
        assert len(solved) == before  # never while answering
    # While learning it may be once: the ridge of codes moves when n has grown by four tenths.
    assert len(solved) <= is_coded


def test_a_new_class_is_answered_at_once(digits: Digits) -> None:
    x, y, _, _ = digits
    old, new = y < 9, y == 9
    bank = MemoryBank(64, half_lives=(math.inf,), features=RandomFeatures(64, 300))
    bank.add(x[old][:300], y[old][:300])
    bank.predict(x[:1])
    bank.add(x[new][:20], y[new][:20])
    found = bank.predict(x[new][:20])
    assert found.shape[1] == 10
    assert float((found.argmax(dim=1) == 9).double().mean()) > 0.8


def test_a_factor_is_made_anew_when_too_many_rows_stand_beside_it(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, x_test, _ = digits
    monkeypatch.setattr(fresh_file, "MOST_ROWS", 10)
    features = choose_coded_features(x[:256])
    assert isinstance(features, CodedFeatures)
    bank = MemoryBank(64, half_lives=(math.inf,), features=features, ridge=0.1)
    bank.add(x[:600], y[:600])
    first = bank.find_fresh()[0]
    bank.add(x[600:605], y[600:605])
    assert bank.find_fresh()[0] is first
    bank.add(x[605:615], y[605:615])
    assert bank.find_fresh()[0] is not first
    exact = RidgeMemory(64, features=features, ridge=0.1)
    exact.add(x[:615], y[:615])
    torch.testing.assert_close(bank.predict(x_test), exact.predict(x_test), rtol=0.0, atol=1e-9)


def test_novelty_is_fresh_too(digits: Digits) -> None:
    x, y, _, _ = digits
    bank = MemoryBank(64, half_lives=(math.inf,), features=RandomFeatures(64, 300), foresees=True)
    old = y < 5
    bank.add(x[old][:400], y[old][:400])
    strange = x[~old][:1]
    before = float(bank.novelty(strange))
    bank.add(strange, y[~old][:1])
    after = float(bank.novelty(strange))
    alone = RidgeMemory(64, features=RandomFeatures(64, 300))
    alone.add(torch.cat((x[old][:400], strange)), torch.cat((y[old][:400], y[~old][:1])))
    assert after < before
    assert after == pytest.approx(float(alone.novelty(strange)), abs=0.05)


def test_a_memory_that_has_faded_away_does_not_learn_twice(digits: Digits) -> None:
    """While a fast memory is empty the slow one stands in for it, and is no other object."""
    x, y, x_test, _ = digits
    bank = MemoryBank(64, half_lives=(0.01, math.inf), features=RandomFeatures(64, 50), ridge=0.1)
    alone = RidgeMemory(64, features=RandomFeatures(64, 50), ridge=0.1)
    nothing = torch.zeros(40)
    for rows in torch.arange(200).split(20):
        for memory in (bank, alone):
            memory.add(x[rows], y[rows])
        bank.add(x[:40], y[:40], nothing)  # all of the fast one's fades away
        answer = bank.predict_experts(x_test[:5])[1]
        torch.testing.assert_close(answer, alone.predict(x_test[:5]), rtol=0.0, atol=1e-4)


def test_codes_are_taken_away_again_from_a_bank(digits: Digits) -> None:
    x, y, x_test, _ = digits
    features = choose_coded_features(x[:256])
    bank, other = (MemoryBank(64, half_lives=(math.inf,), features=features) for _ in range(2))
    bank.add(x[:300], y[:300])
    bank.predict(x_test[:1])
    bank.remove(x[100:150], y[100:150], clock=100)
    other.add(x[:100], y[:100])
    other.add(x[150:300], y[150:300])
    torch.testing.assert_close(bank.predict(x_test), other.predict(x_test), rtol=0.0, atol=1e-9)
    found, wanted = (one.memories[0].read_sums() for one in (bank, other))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_what_are_no_codes_is_refused() -> None:
    memory = RidgeMemory(4, takes_codes=True)
    with pytest.raises(ShapeMismatch, match="int8"):
        memory.add(torch.rand(3, 4), torch.tensor([0, 1, 0]))
    with pytest.raises(DataError, match="a code of -1"):
        memory.add(torch.full((3, 4), -1, dtype=torch.int8), torch.tensor([0, 1, 0]))
    assert memory.is_empty
