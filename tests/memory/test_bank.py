import math

import pytest
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor

from nestling.core.errors import DataError, NotFitted, SettingError, UnknownLabel
from nestling.memory import MemoryBank, Mixture, RandomFeatures, RidgeMemory, mix_experts
from nestling.memory.coded.coded_features import choose_coded_features

Digits = tuple[Tensor, Tensor, Tensor, Tensor]
HALF_LIVES = (20.0, 200.0, math.inf)


def accuracy(answer: Tensor, y: Tensor) -> float:
    return float((answer.argmax(dim=1) == y).double().mean())


def stream_into(bank: MemoryBank, x: Tensor, y: Tensor) -> None:
    for rows in torch.arange(len(x)).split(10):
        bank.add(x[rows], y[rows])


def test_members_are_ridge_memories_of_the_same_examples(digits: Digits) -> None:
    x, y, x_test, _ = digits
    features = RandomFeatures(64, 50, seed=2)
    bank = MemoryBank(64, half_lives=HALF_LIVES, features=features, ridge=0.1)
    stream_into(bank, x[:333], y[:333])
    for half_life, answer in zip(HALF_LIVES, bank.predict_experts(x_test), strict=True):
        alone = RidgeMemory(64, features=features, half_life=half_life, ridge=0.1)
        alone.add(x[:333], y[:333])
        torch.testing.assert_close(answer, alone.predict(x_test), rtol=0.0, atol=1e-8)


def test_the_gate_equals_a_loop_over_events(digits: Digits) -> None:
    """block=1: each example is answered by memories that know all before it, then learned."""
    x, y, _, _ = digits
    x, y = x[:120], y[:120]
    bank = MemoryBank(64, half_lives=HALF_LIVES, ridge=0.3, switch_rate=0.01, block=1, mix="all")
    stream_into(bank, x, y)
    members = [RidgeMemory(64, half_life=h, ridge=0.3) for h in HALF_LIVES]
    gate = Mixture(torch.full((1, 3), 1 / 3).double(), slow=2, switch_rate=0.01)
    solved_at, answers = [0, 0, 0], [None, None, None]
    for i in range(len(x)):
        if i:
            for k, member in enumerate(members):
                # The bank renews a solution when a twentieth of what it holds is new.
                if i - solved_at[k] >= 0.05 * member.statistics.weight or answers[k] is None:
                    answers[k], solved_at[k] = member.copy(), i  # type: ignore[call-overload]
            p = torch.stack(
                [torch.nn.functional.pad(a.predict(x[i : i + 1]), (0, 10))[:, :10] for a in answers]  # type: ignore[attr-defined]
            )
            # A class that no memory has seen speaks for nobody.
            gate.observe(p, y[i : i + 1], heard_N=(p[2, :, y[i]] > 0.0).double())
        for member in members:
            member.add(x[i : i + 1], y[i : i + 1])
    for one, other in zip(bank.gate.weights, gate.weights, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-6)


def test_classes_one_after_the_other_are_not_forgotten(digits: Digits) -> None:
    x, y, x_test, y_test = digits
    order = y.argsort(stable=True)
    bank = MemoryBank(64, half_lives=HALF_LIVES, features=RandomFeatures(64, 200, passthrough=True))
    stream_into(bank, x[order], y[order])
    experts = bank.predict_experts(x_test)
    assert accuracy(experts[0], y_test) < 0.5  # the fast one has forgotten
    assert accuracy(bank.predict(x_test), y_test) > accuracy(experts[2], y_test) - 0.01
    assert accuracy(bank.predict(x_test), y_test) > 0.94


def test_when_labels_change_meaning_the_fast_memory_takes_over(digits: Digits) -> None:
    x, y, x_test, y_test = digits
    bank = MemoryBank(64, half_lives=HALF_LIVES, block=16)
    stream_into(bank, x[:900], y[:900])
    assert float(bank.gate.shares[0, 0]) < 0.1
    stream_into(bank, x[900:], 9 - y[900:])
    assert float(bank.gate.shares[0, 2]) < 0.1
    fixed = accuracy(bank.memories[2].predict(x_test), 9 - y_test)
    assert accuracy(bank.predict(x_test), 9 - y_test) > fixed + 0.2


def test_the_prior_expert_wins_where_only_runs_of_labels_can_be_known() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 3, generator=generator)
    y = (torch.arange(2000) // 50) % 3
    bank = MemoryBank(
        3, half_lives=(100.0, math.inf), prior_half_life=5.0, block=16, mix="all", switch_rate=0.01
    )
    stream_into(bank, x, y)
    assert float(bank.gate.shares[0, 2]) > 0.5
    assert bank.predict_experts(x[:5]).shape == (3, 5, 3)


def test_regression_follows_the_memory_that_fits() -> None:
    x, y = (torch.tensor(part) for part in load_diabetes(return_X_y=True))
    bank = MemoryBank(10, half_lives=(5.0, math.inf), task="regression", block=16)
    stream_into(bank, x[:400], y[:400])
    assert float(bank.gate.shares[0, 1]) > 0.8
    error = (bank.predict(x[400:])[:, 0] - y[400:]).square().mean()
    assert float(error) < 0.6 * float(y.var())


def test_removed_examples_leave_memories_and_the_unfinished_block(digits: Digits) -> None:
    x, y, x_test, _ = digits
    bank = MemoryBank(64, half_lives=(math.inf,), ridge=0.1)
    never = MemoryBank(64, half_lives=(math.inf,), ridge=0.1)
    stream_into(bank, x[:100], y[:100])
    clock = bank.add(x[100:120], y[100:120])
    stream_into(never, x[:100], y[:100])
    assert clock == 100
    bank.remove(x[100:120], y[100:120], clock=clock)
    assert bank.clock == 120
    torch.testing.assert_close(bank.predict(x_test), never.predict(x_test), rtol=0.0, atol=1e-8)
    assert bank.state_dict()["pending"] == {}
    before = bank.predict(x_test)
    with pytest.raises(DataError, match="class"):
        bank.remove(x[:90], torch.full((90,), 3), clock=0)
    assert torch.equal(bank.predict(x_test), before)


def test_removed_examples_leave_the_class_prior(digits: Digits) -> None:
    x, y, x_test, _ = digits
    gone = (y == 9).nonzero()[:6, 0]
    rest = (y[:110] != 9).nonzero()[:100, 0]
    bank, never = (
        MemoryBank(64, half_lives=HALF_LIVES, ridge=0.1, prior_half_life=20.0, block=200)
        for _ in range(2)
    )
    for one, weight in ((bank, torch.ones(6)), (never, torch.zeros(6))):
        one.add(x[rest[:60]], y[rest[:60]])
        clock = one.add(x[gone], y[gone], weight)
        one.add(x[rest[60:]], y[rest[60:]])
    assert bool(bank.present()[9])
    bank.remove(x[gone], y[gone], clock=clock)
    torch.testing.assert_close(bank.prior.counts, never.prior.counts, rtol=0.0, atol=1e-12)
    assert bank.present().tolist() == never.present().tolist()
    assert not bool(bank.present()[9])
    torch.testing.assert_close(
        bank.predict_experts(x_test), never.predict_experts(x_test), rtol=0.0, atol=1e-6
    )


@pytest.mark.parametrize("half_life", [50.0, math.inf])
def test_removed_examples_leave_what_foresees(digits: Digits, half_life: float) -> None:
    x, y, x_test, _ = digits
    bank, never = (MemoryBank(64, half_lives=(half_life,), foresees=True) for _ in range(2))
    stream_into(bank, x[:100], y[:100])
    clock = bank.add(x[100:120], y[100:120])
    bank.renew_held()
    assert bank.foresee(x_test) is not None
    bank.remove(x[100:120], y[100:120], clock=clock)
    never.add(x[:100], y[:100])
    never.add(x[100:120], y[100:120], torch.zeros(20))
    assert bank.foresee(x_test) is None
    for one in (bank, never):
        one.renew_held()
    found, wanted = bank.foresee(x_test), never.foresee(x_test)
    assert found is not None
    assert wanted is not None
    torch.testing.assert_close(found.answers, wanted.answers, rtol=0.0, atol=1e-8)
    before = bank.state_dict()["scout"]
    with pytest.raises(DataError, match="class"):
        bank.remove(x[:90], torch.full((90,), 3), clock=0)
    after = bank.state_dict()["scout"]
    assert repr(before) == repr(after)


def test_a_new_class_does_not_move_the_gate(digits: Digits) -> None:
    x, y, _, _ = digits
    bank = MemoryBank(64, half_lives=HALF_LIVES, block=16)
    stream_into(bank, x[y < 5][:160], y[y < 5][:160])
    before = bank.gate.weights
    bank.add(x[y == 7][:16], y[y == 7][:16])
    assert bank.gate.num_heard == 160
    for one, other in zip(before, bank.gate.weights, strict=True):
        assert torch.equal(one, other)


def test_what_is_foreseen_is_what_would_be_answered(digits: Digits) -> None:
    x, y, x_test, y_test = digits
    for half_lives in ((math.inf,), HALF_LIVES):
        bank = MemoryBank(64, half_lives=half_lives, foresees=True)
        assert bank.foresee(x_test) is None
        stream_into(bank, x[:800], y[:800])
        bank.renew_held()
        foreseen = bank.foresee(x_test)
        assert foreseen is not None
        assert foreseen.known is not None
        assert bool(foreseen.known.all())
        alike = foreseen.answers.argmax(dim=1) == bank.predict(x_test).argmax(dim=1)
        assert float(alike.double().mean()) > 0.95
        assert accuracy(foreseen.answers, y_test) > 0.85


@pytest.mark.parametrize("kind", ["one", "codes", "half-lives", "half-lives of codes", "prior"])
def test_it_foresees_as_it_stood_before_it_learned(digits: Digits, kind: str) -> None:
    x, y, x_test, _ = digits
    bank, twin = (
        MemoryBank(
            64,
            half_lives=HALF_LIVES if "lives" in kind else (math.inf,),
            features=choose_coded_features(x[:256]) if "codes" in kind else None,
            prior_half_life=20.0 if kind == "prior" else None,
            block=16,
            foresees=True,
            compares=True,
        )
        for _ in range(2)
    )
    stream_into(bank, x[:150], y[:150])
    bank.renew_held()
    before = bank.foresee(x_test)
    assert before is not None
    bank.add(x[150:170], y[150:170])
    twin.load_state_dict(bank.state_dict())
    for one in (bank, twin):
        # They would be believed if they were known; one class is new.
        one.add(x[170:300], y[170:300] + 1)
        found = one.foresee(x_test)
        assert found is not None
        torch.testing.assert_close(found.answers[:, :10], before.answers, rtol=0.0, atol=1e-12)
        assert not found.answers[:, 10:].any()
        assert found.novelty is not None
        assert before.novelty is not None
        assert torch.equal(found.novelty, before.novelty)
    for one in (bank, twin):
        one.renew_held()
    after, resumed = bank.foresee(x_test), twin.foresee(x_test)
    assert after is not None
    assert resumed is not None
    assert torch.equal(after.answers, resumed.answers)
    assert not torch.equal(after.answers[:, :10], before.answers)


def test_a_bank_of_one_endless_memory_knows_no_order(digits: Digits) -> None:
    x, y, x_test, _ = digits
    one, other = (MemoryBank(64, half_lives=(math.inf,)) for _ in range(2))
    stream_into(one, x, y)
    order = y.argsort(stable=True)
    stream_into(other, x[order], y[order])
    torch.testing.assert_close(one.predict(x_test), other.predict(x_test), rtol=0.0, atol=1e-8)


def test_the_answer_is_the_mixture_it_says(digits: Digits) -> None:
    x, y, x_test, _ = digits
    bank = MemoryBank(64, half_lives=HALF_LIVES, block=32)
    stream_into(bank, x[:500], y[:500])
    experts = bank.predict_experts(x_test)
    one_zone = torch.ones(len(x_test), 1, dtype=torch.float64)
    wanted = mix_experts(
        experts, one_zone, bank.gate.weights, 2, classifies=True, present_K=bank.present()
    )
    assert torch.equal(bank.predict(x_test), wanted)


def test_a_class_that_comes_late_is_known_at_once(digits: Digits) -> None:
    x, y, _, _ = digits
    bank = MemoryBank(64, half_lives=HALF_LIVES, block=64)
    stream_into(bank, x[y < 9][:200], y[y < 9][:200])
    assert bank.predict(x).shape == (1200, 9)
    bank.add(x[y == 9][:3], y[y == 9][:3])
    assert bank.predict(x[y == 9][:3]).argmax(dim=1).tolist() == [9, 9, 9]


def test_wrong_use_is_named(digits: Digits) -> None:
    x, y, x_test, _ = digits
    with pytest.raises(NotFitted, match="empty"):
        MemoryBank(64, half_lives=HALF_LIVES).predict(x_test)
    with pytest.raises(SettingError, match="half-life"):
        MemoryBank(64, half_lives=())
    with pytest.raises(SettingError, match="half-life 0"):
        MemoryBank(64, half_lives=(0.0,))
    with pytest.raises(UnknownLabel, match="label 9"):
        MemoryBank(64, half_lives=HALF_LIVES, num_outputs=9).add(x, y)


def test_finite_input_that_would_overflow_is_refused_whole() -> None:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = (x[:, 0] > 0).long()
    for half_lives in ((math.inf,), (math.inf, 10.0)):
        bank = MemoryBank(4, half_lives=half_lives)
        bank.add(x, y)
        before = bank.predict(x)
        with pytest.raises(DataError, match="squares overflow"):
            bank.add(x * 1e160, y)
        with pytest.raises(UnknownLabel, match="label 250000"):
            bank.add(x, y.index_fill(0, torch.tensor(0), 250_000))
        assert torch.equal(bank.predict(x), before)
