import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from learners import differences, draw
from nestling.core.errors import (
    DataError,
    ForeignSnapshot,
    MismatchedParameters,
    NonFiniteInput,
    SettingError,
    ShapeMismatch,
    UnknownLabel,
)
from nestling.protect.routing import (
    Growth,
    LearnedRouter,
    LikelihoodRouter,
    ModuleBank,
    Router,
    TaskRouter,
    TreeRouter,
    learn_held,
    learn_routed,
    merge_contexts,
    predict_routed,
)


def make_bank(num: int = 3, slots: int = 4, spine: nn.Module | None = None) -> ModuleBank:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ModuleBank(
            spine or nn.Identity(), lambda _: nn.Linear(4, 2), num_modules=num, max_modules=slots
        )


def make_router(*means: float, slots: int = 4) -> LikelihoodRouter:
    router = LikelihoodRouter(4, slots)
    for context, mean in enumerate(means):
        router.observe(draw(60, 4, seed=context) + mean, context)
    return router


def take(bank: ModuleBank, router: Router, x: Tensor, growth: Growth | None = None) -> object:
    optimizer = torch.optim.SGD(bank.parameters(), 0.1)
    return learn_routed(bank, router, optimizer, (x, (x[:, 0] > 0).long()), growth=growth)


def test_a_bank_mixes_by_weights_and_differentiates_them() -> None:
    bank, x = make_bank(), draw(5, 4)
    weights = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    weights[:, 3] = 0.0
    weights[1] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    weights.requires_grad_()
    expected = torch.stack([bank(x, context=c) for c in range(3)], 1)
    mixed = bank(x, weights)
    torch.testing.assert_close(mixed, (weights[:, :3, None] * expected).sum(1))
    torch.testing.assert_close(mixed[1], expected[1, 1])
    mixed.square().sum().backward()
    assert weights.grad is not None
    assert float(weights.grad[:, 0].abs().sum()) > 0
    assert bank.parts[3].weight.grad is None
    assert bank(x[:0], weights[:0]).shape == (0, 2)


def test_only_what_is_chosen_is_computed() -> None:
    bank, rows = make_bank(), []
    for slot, part in enumerate(bank.parts):
        part.register_forward_hook(lambda _m, _i, o, slot=slot: rows.append((slot, len(o))))
    bank(draw(3, 4), torch.tensor([[0.0, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]))
    assert rows == [(0, 1), (1, 2)]


def test_the_spine_learns_when_it_is_told_to() -> None:
    spine = nn.Linear(4, 4)
    bank, x = make_bank(spine=spine), draw(8, 4)
    optimizer = torch.optim.SGD(
        [{"params": spine.parameters(), "lr": 0.01}, {"params": bank.parts.parameters()}], 0.1
    )
    before = copy.deepcopy(bank)
    y = (x[:, 0] > 0).long()
    learn_routed(bank, make_router(0.0), optimizer, (x, y), inputs=x)
    assert torch.equal(spine.weight, before.spine.weight)
    assert not torch.equal(bank.parts[0].weight, before.parts[0].weight)
    assert spine.weight.grad is None
    learn_routed(bank, make_router(0.0), optimizer, (x, y), inputs=x, learn_spine=True)
    assert not torch.equal(spine.weight, before.spine.weight)
    assert torch.equal(bank.parts[1].weight, before.parts[1].weight)


def test_a_step_is_the_plain_torch_step_on_one_module() -> None:
    bank, x = make_bank(), draw(8, 4, seed=7) + 9.0
    y = (x[:, 1] > 9.0).long()
    twin = copy.deepcopy(bank.parts[1])
    optimizers = [torch.optim.AdamW(m.parameters(), 0.1) for m in (bank, twin)]
    router = make_router(0.0, 9.0, -9.0)
    for _ in range(3):
        step = learn_routed(bank, router, optimizers[0], (x, y))
        loss = nn.functional.cross_entropy(twin(x), y)
        assert (step.context, step.loss) == (1, loss.item())
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
    assert torch.equal(bank.parts[1].weight, twin.weight)
    learned = learn_routed(bank, router, optimizers[0], (x, y), context=2)  # told, not found
    assert learned.context == 2
    assert router.count_examples() == [60, 84, 68, 0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), num=st.integers(2, 40), cut=st.integers(1, 39))
def test_likelihoods_do_not_depend_on_the_order_and_merge_exactly(
    seed: int, num: int, cut: int
) -> None:
    x = draw(num, 4, seed=seed).double() * 3.0 + 5.0
    cut = min(cut, num - 1)
    whole, shuffled, merged = (LikelihoodRouter(4, 3) for _ in range(3))
    whole.observe(x, 0)
    for rows in torch.randperm(num, generator=torch.Generator().manual_seed(seed)).split(7):
        shuffled.observe(x[rows], 0)
    merged.observe(x[:cut], 1)
    merged.observe(x[cut:], 0)
    merged.merge(0, 1)
    probe = draw(9, 4, seed=seed + 1) + 5.0
    expected = whole.measure_log_likelihoods(probe)[:, 0]
    assert merged.count_examples() == [num, 0, 0]
    for other in (shuffled, merged):
        found = other.measure_log_likelihoods(probe)
        torch.testing.assert_close(found[:, 0], expected, rtol=1e-7, atol=1e-6)
        assert bool((found[:, 1:] == -math.inf).all())


def test_soft_weights_are_the_posterior_of_the_gaussians() -> None:
    router = LikelihoodRouter(2, 3, hard=False)
    for context, mean in enumerate((0.0, 1.0)):
        router.observe(draw(400, 2, seed=context) + mean, context)
    x = draw(200, 2, seed=5)
    weights = router.route(x)
    torch.testing.assert_close(weights.sum(1), torch.ones(200))
    assert float(weights[:, 2].max()) == 0.0
    exact = torch.sigmoid(1.0 - x.sum(1))  # log N(x; 0) - log N(x; 1)
    assert float((weights[:, 0] - exact).abs().max()) < 0.15
    divergence = router.compare_contexts()
    assert float(divergence[0, 1]) == pytest.approx(1.0, abs=0.3)  # |d|^2 / D
    assert bool(divergence[2].isinf().all())


def test_a_context_of_one_example_or_of_constants_is_no_trouble() -> None:
    router = LikelihoodRouter(4, 3, half_life=10.0)
    router.observe(torch.ones(1, 4), 0)
    router.observe(torch.full((50, 4), 3.0), 1)
    assert router.route(torch.tensor([[1.1] * 4, [2.9] * 4])).argmax(1).tolist() == [0, 1]
    assert bool(router.compare_contexts()[0, 1].isfinite())
    wide = LikelihoodRouter(300, 2, num_directions=16)
    for context in (0, 1):
        wide.observe(draw(100, 300, seed=context) + 2.0 * context, context)
    shares = [float(wide.route(draw(99, 300, seed=9) + 2.0 * c)[:, c].mean()) for c in (0, 1)]
    assert min(shares) > 0.95


def test_equal_contexts_are_merged_and_others_are_not() -> None:
    bank, growth = make_bank(3), Growth()
    router = make_router(0.0, 7.0)
    router.observe(draw(60, 4, seed=8), 2)
    kept = [copy.deepcopy(part.weight) for part in bank.parts]
    for context in (0, 0, 0, 1, 2):
        growth.record(context, 1.0)
    shares = growth.measure_shares()
    share = shares[2] / (shares[0] + shares[2])
    assert share == pytest.approx(0.25, abs=0.01)
    generous = Growth(max_divergence=0.5)
    generous.records, generous.clock = growth.records, growth.clock
    assert merge_contexts(bank, router, generous) == ((0, 2),)
    torch.testing.assert_close(bank.parts[0].weight, (1 - share) * kept[0] + share * kept[2])
    assert torch.equal(bank.parts[1].weight, kept[1])
    assert bank.list_active() == [0, 1]
    assert router.count_examples() == [120, 60, 0, 0]
    assert router.route(draw(9, 4, seed=3)).argmax(1).tolist() == [0] * 9
    # A slot that was used before starts as a copy, a new one may start as it was made.
    assert bank.find_free() == 3
    assert bank.grow() == 3
    with pytest.raises(SettingError, match="module 2 was in use before"):
        bank.grow()
    assert bank.grow(like=1) == 2
    assert torch.equal(bank.parts[2].weight, kept[1])
    assert bank.grow(like=1) is None


def test_what_is_no_longer_used_is_merged_and_new_modules_are_spared() -> None:
    bank, router = make_bank(2, 3), make_router(0.0, 9.0, slots=3)
    growth = Growth(half_life=20.0, min_share=0.05, merge_every=10)
    growth.record(1, None)
    growth.record(1, None)
    for _num in range(200):
        growth.record(0, None)
        merged = merge_contexts(bank, router, growth)
        if merged:
            break
    assert merged == ((0, 1),)
    assert 20 <= _num < 200
    assert growth.measure_shares() == {0: 1.0}
    for _ in range(200):
        growth.record(0, None)
    # Young: one batch in a long life is a tiny share, but it has only begun.
    assert bank.grow() == 2
    router.observe(draw(5, 4) + 40.0, 2)
    growth.record(2, None)
    assert growth.measure_shares()[2] < 0.05
    for _ in range(19):
        growth.record(0, None)
        assert merge_contexts(bank, router, growth) == ()
    growth.record(0, None)  # as old as the half-life, and still unused
    assert merge_contexts(bank, router, growth) == ((0, 2),)


def test_a_false_growth_is_mended_by_itself() -> None:
    bank = make_bank(1)
    growth = Growth(merge_every=40, max_divergence=0.5, half_life=1000.0)
    router = LikelihoodRouter(4, 4)
    for step in range(20):
        take(bank, router, draw(16, 4, seed=step), growth)
    bank.grow(like=0)
    router.observe(draw(16, 4, seed=99), 1)
    growth.record(1, None)
    results = [take(bank, router, draw(16, 4, seed=step), growth) for step in range(20, 160)]
    assert [pair for r in results for pair in r.merged] == [(0, 1)]  # type: ignore[attr-defined]
    assert bank.num_modules == 1


def test_an_isolated_outlier_grows_nothing_and_is_learned_later() -> None:
    bank, router, growth = make_bank(1), LikelihoodRouter(4, 4), Growth(patience=2)
    optimizer = torch.optim.SGD(bank.parameters(), 0.1)
    for step in range(30):
        x = draw(16, 4, seed=step) + (30.0 if step == 25 else 0.0)
        result = learn_routed(bank, router, optimizer, (x, (x[:, 0] > 0).long()), growth=growth)
        assert result.is_held == (step == 25)
        assert router.count_examples()[0] == 16 * (step + (step != 25))
    assert bank.num_modules == 1
    # At the end of a stream what waits is learned on demand.
    x = draw(16, 4, seed=50) + 300.0
    assert learn_routed(bank, router, optimizer, (x, (x[:, 0] > 0).long()), growth=growth).is_held
    assert learn_held(bank, router, optimizer, growth) == [0]
    assert (len(growth.held), router.count_examples()[0]) == (0, 31 * 16)


def test_what_is_usual_moves_with_a_surprise_that_was_taken_in() -> None:
    bank, router, growth = make_bank(1), LikelihoodRouter(4, 4), Growth(patience=2)
    batches = [draw(16, 4, seed=step) + (30.0 if step == 25 else 0.0) for step in range(27)]
    for x in batches[:26]:
        take(bank, router, x, growth)
    assert len(growth.held) == 1
    before, learned, twin = (copy.deepcopy(one) for one in (router, router, growth))

    def surprise(one: LikelihoodRouter) -> float:
        found = one.explain(batches[26], None, lambda: torch.zeros(4)).surprise
        assert found is not None
        return found

    learned.observe(batches[25], 0)
    change = surprise(learned) - surprise(before)
    assert abs(change) > 0.1
    twin.record(0, None)
    twin.shift(0, change)
    twin.record(0, surprise(learned))
    take(bank, router, batches[26], growth)
    assert growth.records[0].mean == pytest.approx(twin.records[0].mean, rel=1e-6)
    assert growth.records[0].variance == pytest.approx(twin.records[0].variance, rel=1e-6)


def test_a_slot_that_was_used_before_starts_without_moments() -> None:
    bank, router, growth = make_bank(2, 2), make_router(0.0, 30.0, slots=2), Growth(patience=1)
    optimizer = torch.optim.Adam(bank.parameters(), 0.01)

    def learn(shift: float, seed: int, one: Growth | None, context: int | None = None) -> object:
        x = draw(16, 4, seed=seed) + shift
        batch = (x, (x[:, 0] > shift).long())
        return learn_routed(bank, router, optimizer, batch, growth=one, context=context)

    for seed in range(5):
        learn(30.0, seed, None, context=1)
    assert int(optimizer.state[bank.parts[1].weight]["step"]) == 5
    bank.merge(0, 1, share=0.0)
    router = make_router(0.0, slots=2)
    for seed in range(20):
        learn(0.0, seed, growth)
    kept = int(optimizer.state[bank.parts[0].weight]["step"])
    assert learn(90.0, 50, growth).grown == 1  # type: ignore[attr-defined]
    assert int(optimizer.state[bank.parts[1].weight]["step"]) == 1
    assert int(optimizer.state[bank.parts[0].weight]["step"]) == kept


def test_a_new_module_starts_from_the_nearest_where_that_helps() -> None:
    starts = []
    for relabel in (False, True):
        bank, router, growth = make_bank(1, 2), LikelihoodRouter(4, 2), Growth(patience=1)
        optimizer = torch.optim.SGD(bank.parameters(), 0.5)
        for step in range(30):
            x = draw(32, 4, seed=step)
            learn_routed(bank, router, optimizer, (x, (x[:, 0] > 0).long()), growth=growth)
        made, near = (copy.deepcopy(bank.parts[slot].weight) for slot in (1, 0))
        optimizer.param_groups[0]["lr"] = 0.0  # show where it starts
        x = draw(32, 4, seed=99) * torch.tensor([9.0, 9.0, 9.0, 9.0])
        y = ((x[:, 0] > 0) != relabel).long()
        assert learn_routed(bank, router, optimizer, (x, y), growth=growth).grown == 1
        starts.append(
            (torch.equal(bank.parts[1].weight, near), torch.equal(bank.parts[1].weight, made))
        )
    assert starts == [(True, False), (False, True)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), num=st.integers(0, 20), hard=st.booleans())
def test_a_trees_weights_multiply_and_sum_to_one(seed: int, num: int, hard: bool) -> None:
    parent = LikelihoodRouter(3, 2, hard=hard)
    children = [LikelihoodRouter(3, size, hard=False) for size in (2, 3)]
    inner = TreeRouter(parent, children)
    tree = TreeRouter(TaskRouter(["a", "b"]), [inner, LikelihoodRouter(3, 1)])
    for context in range(5):
        tree.observe(draw(12, 3, seed=seed + context) + context, context)
    x = draw(num, 3, seed=seed + 9) + 2.0
    weights = tree.route(x, task="a")
    assert weights.shape == (num, 6)
    torch.testing.assert_close(weights.sum(1), torch.ones(num))
    assert float(weights[:, 5].sum()) == 0.0
    gates = parent.route(x)
    torch.testing.assert_close(weights[:, :2], gates[:, :1] * children[0].route(x))
    torch.testing.assert_close(weights[:, 2:5], gates[:, 1:] * children[1].route(x))
    tree.observe(draw(5, 3), 5)
    mixed = tree.route(x, task=["b" if k % 2 else "a" for k in range(num)])
    assert mixed[1::2, 5].tolist() == [1.0] * (num // 2)
    torch.testing.assert_close(mixed[::2], weights[::2])


def test_a_tree_learns_the_path_alone_and_resumes() -> None:
    def make() -> TreeRouter:
        return TreeRouter(LikelihoodRouter(4, 2), [LearnedRouter(4, 2), LikelihoodRouter(4, 2)])

    tree, bank = make(), make_bank(4)
    for context in range(4):
        tree.observe(draw(40, 4, seed=context) + 5.0 * context, context)
    before = copy.deepcopy(tree.children[0].state_dict())
    x = draw(16, 4, seed=9) + 15.0
    optimizer = torch.optim.SGD(bank.parameters(), 0.1)
    assert learn_routed(bank, tree, optimizer, (x, (x[:, 0] > 15).long())).context == 3
    assert differences(tree.children[0].state_dict(), before) == []
    # Inside the first group the learned router goes by the modules' losses.
    x = draw(16, 4, seed=10)
    losses = [
        nn.functional.cross_entropy(bank(x, context=c), (x[:, 0] > 0).long()).item() for c in (0, 1)
    ]
    near = learn_routed(bank, tree, optimizer, (x, (x[:, 0] > 0).long()))
    assert (near.context, near.loss) == (losses.index(min(losses)), min(losses))
    other = make()
    other.load_state_dict(copy.deepcopy(tree.state_dict()))
    assert differences(other.state_dict(), tree.state_dict()) == []
    assert torch.equal(other.route(draw(30, 4) + 7.0), tree.route(draw(30, 4) + 7.0))


def test_labels_choose() -> None:
    router = TaskRouter(["spring", "autumn"])
    assert router.route(torch.zeros(2, 3), ["autumn", "spring"]).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(UnknownLabel, match="did you mean 'autumn'"):
        router.route(torch.zeros(2, 3), "autum")
    with pytest.raises(ShapeMismatch, match="1 task labels for 2 examples"):
        router.route(torch.zeros(2, 3), ["autumn"])
    with pytest.raises(DataError, match="task=LABEL"):
        router.route(torch.zeros(2, 3))
    with pytest.raises(SettingError, match="each once"):
        TaskRouter(["a", "a"])


def test_sizes_and_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingError, match="num_modules=0"):
        make_bank(0)
    with pytest.raises(SettingError, match="max_modules=2 below num_modules=3"):
        make_bank(3, 2)
    with pytest.raises(MismatchedParameters, match=r"module 1 .* \(2, 4\)"):
        ModuleBank(nn.Identity(), lambda slot: nn.Linear(3 + slot, 2))
    for bad in ({"patience": 0}, {"threshold": 0.0}, {"min_share": 1.0}, {"threshold": math.nan}):
        with pytest.raises(SettingError, match=next(iter(bad))):
            Growth(**bad)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="max_contexts=0"):
        LikelihoodRouter(4, 0)
    with pytest.raises(SettingError, match="lr=0"):
        LearnedRouter(4, 2, lr=0.0)
    with pytest.raises(SettingError, match="1 child routers under a parent of 2"):
        TreeRouter(TaskRouter("ab"), [TaskRouter("c")])
    with pytest.raises(SettingError, match="2 contexts for a bank of 4"):
        take(make_bank(), LikelihoodRouter(4, 2), draw(3, 4))
    with pytest.raises(ForeignSnapshot, match="seed"):
        LearnedRouter(4, 2).load_state_dict(LearnedRouter(4, 2, seed=1).state_dict())
    with pytest.raises(ForeignSnapshot, match="patience"):
        Growth().load_state_dict(Growth(patience=9).state_dict())


@pytest.mark.parametrize("make", [LikelihoodRouter, LearnedRouter])
def test_bad_batches_change_nothing(
    make: type[LikelihoodRouter] | type[LearnedRouter],
) -> None:
    bank, router, growth = make_bank(1), make(4, 4), Growth()
    optimizer = torch.optim.Adam(bank.parameters(), 0.1)
    x, y = draw(6, 4), torch.tensor([0, 1, 0, 1, 0, 1])
    for _ in range(12):
        learn_routed(bank, router, optimizer, (x, y), growth=growth)

    def read() -> dict[str, object]:
        parts = (bank.state_dict(), router.state_dict(), growth.state_dict())
        return copy.deepcopy({str(k): dict(part) for k, part in enumerate(parts)})

    before = read()
    spoiled = x.clone()
    spoiled[2, 1] = math.nan
    cases: list[tuple[type[Exception], Tensor, Tensor, dict[str, Tensor]]] = [
        (NonFiniteInput, spoiled, y, {}),
        (NonFiniteInput, spoiled, y, {"inputs": x}),
        (NonFiniteInput, x, y, {"inputs": spoiled}),
        (ShapeMismatch, x[:4], y, {}),
        (ShapeMismatch, x[:0], y[:0], {}),
        (ShapeMismatch, x, y, {"inputs": x[:, :3]}),
        (DataError, x, y, {"inputs": x[:3]}),
        (UnknownLabel, x, y + 1, {}),
        (ShapeMismatch, x, torch.zeros(6), {}),
    ]
    for error, bad_x, bad_y, more in cases:
        with pytest.raises(error):
            learn_routed(
                bank, router, optimizer, (bad_x, bad_y), growth=growth, inputs=more.get("inputs")
            )
    with pytest.raises(SettingError, match="module 3 is not in use"):
        learn_routed(bank, router, optimizer, (x, y), context=3)
    assert differences(read(), before) == []


def test_weights_that_do_not_fit_are_refused() -> None:
    bank, x = make_bank(), draw(2, 4)
    with pytest.raises(ShapeMismatch, match=r"weights of shape \(2, 3\)"):
        bank(x, torch.ones(2, 3))
    with pytest.raises(DataError, match="module 3, which is not in use"):
        bank(x, torch.eye(4)[2:])
    with pytest.raises(DataError, match="all zero"):
        bank(x, torch.zeros(2, 4))
    with pytest.raises(SettingError, match="either"):
        bank(x)
    with pytest.raises(SettingError, match="in use"):
        bank(x, context=-1)
    with pytest.raises(SettingError, match="with itself"):
        bank.merge(1, 1, 0.5)


def test_before_anything_was_learned_the_first_module_answers() -> None:
    bank, x = make_bank(), draw(3, 4)
    for router in (LikelihoodRouter(4, 4), LearnedRouter(4, 4)):
        assert torch.equal(predict_routed(bank, router, x), bank(x, context=0))


def test_values_are_learned_by_squared_error() -> None:
    bank, x = make_bank(1), draw(64, 4)
    optimizer = torch.optim.Adam(bank.parameters(), 0.1)
    y = x[:, :2] - x[:, 2:]
    losses = [
        learn_routed(bank, LikelihoodRouter(4, 4), optimizer, (x, y)).loss for _ in range(100)
    ]
    assert losses[-1] < 0.01 < losses[0]


class TwoInputs(nn.Module):
    """A spine of two named inputs that answers as Hugging Face's do."""

    def forward(self, *, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"logits": torch.cat([left, right], 1)}


def test_batches_of_any_form_are_routed_and_wait() -> None:
    def learn(spine: nn.Module, shape: Callable[[Tensor], Any]) -> dict[str, Any]:
        torch.manual_seed(0)
        bank = ModuleBank(spine, lambda _: nn.Linear(4, 2), max_modules=2)
        router, growth = LikelihoodRouter(4, 2), Growth(patience=2, warm_up=5)
        optimizer = torch.optim.Adam(bank.parameters(), 0.1)
        for step in range(12):
            x = draw(16, 4, seed=step) + (40.0 if step == 11 else 0.0)
            y, inputs = (x[:, 0] > 0).long(), shape(x)
            batch = {**inputs, "labels": y} if isinstance(inputs, dict) else (inputs, y)
            taken = learn_routed(bank, router, optimizer, batch, growth=growth)
        assert taken.is_held
        again = Growth(patience=2, warm_up=5)
        again.load_state_dict(growth.state_dict())
        learn_held(bank, router, optimizer, again)
        answers = predict_routed(bank, router, shape(draw(3, 4)))
        return {"bank": dict(bank.state_dict()), "router": router.state_dict(), "answers": answers}

    plain = learn(nn.Identity(), lambda x: x)
    named = learn(TwoInputs(), lambda x: {"left": x[:, :2], "right": x[:, 2:]})
    assert differences(named, plain) == []


def test_a_step_with_a_gradient_that_is_not_finite_is_refused() -> None:
    bank, router = make_bank(1), LikelihoodRouter(4, 4)
    optimizer = torch.optim.SGD(bank.parameters(), 0.1)
    before = copy.deepcopy(dict(bank.state_dict()))

    def spoil(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target) + (0.0 * output).abs().sum().sqrt()

    batch = (draw(6, 4), torch.tensor([0, 1, 0, 1, 0, 1]))
    step = learn_routed(bank, router, optimizer, batch, loss=spoil)
    assert step.note == "step refused: a gradient is not finite"
    assert differences(dict(bank.state_dict()), before) == []
    assert router.count_examples()[0] == 0


@pytest.mark.parametrize("offset", [0.0, 1e8, 1.7e9])
def test_contexts_that_differ_in_spread_are_told_apart_at_any_offset(offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    router = LikelihoodRouter(4, 2)
    drawn = [
        offset + scale * torch.randn(300, 4, generator=generator, dtype=torch.float64)
        for scale in (0.5, 2.0)
    ]
    for context, z in enumerate(drawn):
        router.observe(z, context)
    for context, z in enumerate(drawn):
        assert float(router.route(z)[:, context].mean()) > 0.85
