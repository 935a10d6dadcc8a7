"""Delta gradient descent against its closed form, from real layers."""

from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import NonFiniteInput, SettingError, ShapeMismatch
from nestling.levels import Level, NestedOptimizer, Plan
from nestling.optim.deep import DGD, DGDOptimizer, dgd, dgd_update, record_layers
from nestling.optim.deep.layer_record import get_moment

DRAW = torch.Generator().manual_seed(0)
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(4, 3), (5, 4)),
    "tokens": (nn.Linear(4, 3, bias=False), (2, 6, 4)),
    "conv1d": (nn.Conv1d(2, 3, 3, padding=1, stride=2), (4, 2, 9)),
    "conv2d": (nn.Conv2d(2, 4, 3, padding="same", dilation=2), (3, 2, 6, 7)),
    "circular": (nn.Conv2d(2, 4, (3, 2), padding=1, padding_mode="circular"), (3, 2, 6, 7)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (3, 4, 5, 5)),
    "depthwise": (nn.Conv1d(4, 4, 3, groups=4), (3, 4, 8)),
    "one example": (nn.Conv2d(2, 4, 3), (2, 6, 7)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_give_back_outputs_and_weight_gradients(name: str) -> None:
    layer, shape = LAYERS[name]
    layer = layer.double()
    layer.zero_grad()
    x = torch.randn(shape, generator=DRAW, dtype=torch.float64)
    with record_layers(layer, rows=True) as record:
        layer(x)  # no backward: adds nothing
        with torch.no_grad():
            layer(x)
        layer(x).square().sum().backward()
        (rows,), (gradients,) = record[""].inputs, record[""].output_gradients
        moment = layer.weight.input_moment  # type: ignore[union-attr]
        torch.testing.assert_close(moment.total_gii, rows.mT @ rows)  # type: ignore[union-attr]
    assert not hasattr(layer.weight, "input_moment")
    weight = layer.weight
    assert isinstance(weight, Tensor)
    assert weight.grad is not None
    torch.testing.assert_close((gradients.mT @ rows).reshape(weight.shape), weight.grad)


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("lr", [0.01, 1.0, 50.0])
def test_equals_its_closed_form(size: float, lr: float) -> None:
    """The corrected rate for any length of the input; the minimiser by solving."""
    draw = [torch.randn(s, generator=DRAW, dtype=torch.float64) for s in ((3, 4), (3,), (4,))]
    w, d, x = draw[0], draw[1], size * draw[2]
    g, c = torch.outer(d, x), torch.outer(x, x)
    rate = lr / (1 + lr * x @ x)
    closed = w @ (torch.eye(4, dtype=torch.float64) - rate * c) - rate * g
    for form in ("exact", "step"):
        found = dgd_update(w, g, c, lr=lr, form=form)  # type: ignore[arg-type]
        torch.testing.assert_close(found, closed, rtol=1e-9, atol=1e-9)
    # It is the minimiser: the objective's gradient vanishes there.
    assert torch.allclose(
        (closed @ x + d).outer(x) + (closed - w) / lr, torch.zeros_like(w), atol=1e-7
    )
    literal = dgd_update(w, g, c, lr=lr, form="paper")
    if lr * size > 1e-2:
        assert not torch.allclose(literal, closed, rtol=1e-3)


def test_the_proximal_step_of_a_linear_loss_is_gradient_descent() -> None:
    """argmin over V of <V x, d> + |V - W|^2 / (2 lr), d = dL/dy; with the printed -d it climbs."""
    layer = nn.Linear(4, 3, bias=False).double()
    w = layer.weight.detach().clone()
    x = torch.randn(4, generator=DRAW, dtype=torch.float64)
    goal = torch.randn(3, generator=DRAW, dtype=torch.float64)
    loss = (layer(x) - goal).square().sum() / 2
    loss.backward()
    d = (w @ x - goal).detach()
    nl.sgd(lr=0.01).build(layer.parameters()).step()
    moved = layer.weight.detach()
    # The objective's gradient vanishes there.
    torch.testing.assert_close(torch.outer(d, x) + (moved - w) / 0.01, torch.zeros_like(w))
    printed = w + 0.01 * torch.outer(d, x)
    losses = [float((one @ x - goal).square().sum() / 2) for one in (moved, printed)]
    assert losses[0] < loss.item() < losses[1]


def test_printed_rate_is_right_for_inputs_of_length_1_and_overshoots_for_long_ones() -> None:
    w = torch.ones(1, 2)
    x = torch.tensor([0.6, 0.8])
    for form in ("exact", "step", "paper"):
        now = dgd_update(w, torch.zeros(1, 2), torch.outer(x, x), lr=3.0, form=form)  # type: ignore[arg-type]
        torch.testing.assert_close(now, w - 0.75 * (w @ x).outer(x))
    long = 10 * x
    sizes = {}
    for form in ("exact", "step", "paper"):
        now = w
        for _ in range(5):
            now = dgd_update(now, torch.zeros(1, 2), torch.outer(long, long), lr=3.0, form=form)  # type: ignore[arg-type]
        sizes[form] = float((now @ long).abs())
    assert sizes["exact"] < 1e-3 > sizes["step"]
    assert sizes["paper"] > 1e6


@pytest.mark.parametrize("form", ["exact", "step"])
def test_mini_batch_never_overshoots(form: str) -> None:
    x = 10 * torch.randn(8, 4, generator=DRAW, dtype=torch.float64)
    c = x.mT @ x / 8
    w = torch.randn(3, 4, generator=DRAW, dtype=torch.float64)
    now = dgd_update(w, torch.zeros_like(w), c, lr=1e3, form=form)  # type: ignore[arg-type]
    assert float((now @ x.mT).norm()) < float((w @ x.mT).norm())
    exact = torch.linalg.solve(torch.eye(4, dtype=torch.float64) + 1e3 * c, w.mT).mT
    if form == "exact":
        torch.testing.assert_close(now, exact)


def test_trains_a_net_as_a_levels_optimizer() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 6, 3, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(24, 1))
    x = torch.randn(64, 2, 6)
    y = x[:, 0, :1].tanh()
    plan = Plan(Level("all", match=["*"], period=2, optimizer=dgd(lr=0.2, other=nl.sgd(lr=0.2))))
    rule = NestedOptimizer(net, Plan.from_toml(plan.to_toml()))
    losses = []
    with record_layers(net):
        for _ in range(300):
            rule.zero_grad()
            loss = (net(x) - y).square().mean()
            loss.backward()
            rule.step()
            losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_goes_on_bit_for_bit_from_a_snapshot() -> None:
    x = torch.randn(8, 3, generator=DRAW)
    plan = Plan(Level("all", match=["*"], optimizer=dgd()))
    nets = [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)) for _ in range(2)]
    rules = [NestedOptimizer(net, plan) for net in nets]

    def step(index: int) -> None:
        rules[index].zero_grad()
        (nets[index](x) - x.flip(1)).square().mean().backward()
        rules[index].step()

    with record_layers(nets[0]), record_layers(nets[1]):
        for _ in range(5):
            step(0)
        nets[1].load_state_dict(nets[0].state_dict())
        rules[1].load_state_dict(rules[0].state_dict())
        for _ in range(5):
            step(0)
            step(1)
    assert all(map(torch.equal, nets[0].parameters(), nets[1].parameters()))


@pytest.mark.parametrize("is_recording", [False, True])
def test_goes_on_bit_for_bit_from_within_a_period(is_recording: bool) -> None:
    """The inputs gathered so far are in the state, also if recording begins after its return."""
    x = torch.randn(20, 8, 3, generator=DRAW)
    plan = Plan(Level("all", match=["*"], period=3, optimizer=dgd()))
    nets = [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)) for _ in range(2)]
    rules = [NestedOptimizer(net, plan) for net in nets]

    def step(index: int, now: int) -> None:
        rules[index].zero_grad()
        (nets[index](x[now]) - x[now].flip(1)).square().mean().backward()
        rules[index].step()

    with record_layers(nets[0]), ExitStack() as stack:
        for now in range(8):  # two steps into the third period
            step(0, now)
        if is_recording:
            stack.enter_context(record_layers(nets[1]))
            step(1, 19)  # what it gathered itself goes
        nets[1].load_state_dict(nets[0].state_dict())
        saved = rules[0].state_dict()
        rules[1].load_state_dict(saved)
        if not is_recording:
            stack.enter_context(record_layers(nets[1]))
        for now in range(8, 14):
            step(0, now)
            step(1, now)
        assert all(map(torch.equal, nets[0].parameters(), nets[1].parameters()))
        # The snapshot is a copy, which what came after did not touch.
        rules[1].load_state_dict(saved)
        assert get_moment(nets[1][0].weight).num_rows == 16  # type: ignore[union-attr,arg-type]


def test_as_a_plain_torch_optimizer_it_resumes_from_between_two_backward_passes() -> None:
    x = torch.randn(2, 8, 3, generator=DRAW)
    nets = [nn.Linear(3, 3) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    rules = [DGDOptimizer(net.parameters()) for net in nets]
    with record_layers(nets[0]), record_layers(nets[1]):
        nets[0](x[0]).square().mean().backward()
        rules[1].load_state_dict(rules[0].state_dict())
        for mine, other in zip(nets[1].parameters(), nets[0].parameters(), strict=True):
            assert other.grad is not None
            mine.grad = other.grad.clone()
        for net, rule in zip(nets, rules, strict=True):
            net(x[1]).square().mean().backward()
            rule.step()
    assert all(map(torch.equal, nets[0].parameters(), nets[1].parameters()))


def test_inputs_of_a_pass_whose_gradient_does_not_count_do_not_count_either() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3))
    with record_layers(net):
        net[0].weight.requires_grad_(requires_grad=False)
        net(torch.ones(5, 3)).sum().backward()
        assert get_moment(net[0].weight) is None  # type: ignore[arg-type]
        assert get_moment(net[1].weight) is not None  # type: ignore[arg-type]


def test_a_convolution_with_groups_moves_as_so_many_linear_layers_on_its_patches() -> None:
    conv = nn.Conv1d(4, 6, 3, groups=2).double()
    x = torch.randn(5, 4, 9, generator=DRAW, dtype=torch.float64)
    parts = [nn.Conv1d(2, 3, 3).double() for _ in range(2)]
    with torch.no_grad():
        for index, part in enumerate(parts):
            part.weight.copy_(conv.weight[3 * index : 3 * index + 3])
            part.bias.copy_(conv.bias[3 * index : 3 * index + 3])  # type: ignore[union-attr,index]
    with record_layers(conv):
        conv(x).square().mean().backward()
        dgd(lr=0.3).build(conv.parameters()).step()
    for index, part in enumerate(parts):
        with record_layers(part):
            (part(x[:, 2 * index : 2 * index + 2]).square().mean() / 2).backward()
            dgd(lr=0.3).build(part.parameters()).step()
        torch.testing.assert_close(conv.weight[3 * index : 3 * index + 3], part.weight)


def test_without_inputs_in_a_second_group_moves_nothing_in_the_first() -> None:
    seen, unseen = nn.Linear(2, 1), nn.Linear(2, 1)
    rule = DGDOptimizer([{"params": seen.parameters()}, {"params": unseen.parameters()}])
    before = seen.weight.detach().clone()
    with record_layers(seen):
        (seen(torch.ones(1, 2)) + unseen(torch.ones(1, 2))).sum().backward()
        with pytest.raises(SettingError, match="no inputs"):
            rule.step()
    assert torch.equal(seen.weight, before)


def test_without_inputs_is_an_error_and_nothing_moves() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    rule = DGD().build(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    before = [param.detach().clone() for param in net.parameters()]
    with pytest.raises(SettingError, match=r"no inputs for a weight of shape \(2, 2\)"):
        rule.step()
    assert all(map(torch.equal, net.parameters(), before))
    # A kernel of three axes is recorded by nobody.
    deep = nn.Sequential(nn.Conv3d(1, 1, 1), nn.Flatten(), nn.Linear(1, 1))
    with record_layers(deep):
        deep(torch.ones(1, 1, 1, 1, 1)).sum().backward()
        with pytest.raises(SettingError, match="Conv1d"):
            DGD().build(deep.parameters()).step()


def test_inputs_that_are_not_finite_are_refused_and_nothing_moves() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    rule = NestedOptimizer(net, Plan(Level("all", match=["*"], optimizer=dgd())))
    before = [param.detach().clone() for param in net.parameters()]
    with record_layers(net):
        net(torch.tensor([[1.0, torch.nan]])).sum().backward()
        with pytest.raises(NonFiniteInput, match=r"weight of shape \(2, 2\) hold NaN"):
            rule.step()
        assert all(map(torch.equal, net.parameters(), before))
        rule.zero_grad()
        net(torch.ones(1, 2)).sum().backward()
        rule.step()
    assert all(bool(param.isfinite().all()) for param in net.parameters())


def test_wrong_records() -> None:
    with pytest.raises(SettingError, match=r"ReLU has no nn\.Linear"), record_layers(nn.ReLU()):
        pass
    net = nn.Linear(1, 1)
    with (
        record_layers(net),
        pytest.raises(SettingError, match="recorded already"),
        record_layers(net),
    ):
        pass
    with pytest.raises(ShapeMismatch, match=r"a moment \(3, 3\)"):
        dgd_update(torch.ones(1, 2), torch.ones(1, 2), torch.ones(3, 3), lr=0.1)


def test_a_level_that_skips_steps_counts_the_inputs_of_its_own_steps_only() -> None:
    x = torch.randn(12, 8, 3, generator=DRAW)
    plan = Plan(
        Level("first", match=["0.*"], period=3, between="skip", optimizer=dgd()),
        Level("rest", match=["*"], optimizer=nl.sgd(lr=0.0)),
    )
    nets = [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    nested = NestedOptimizer(nets[0], plan)
    plain = dgd().build(nets[1][0].parameters())
    with record_layers(nets[0]), record_layers(nets[1]):
        for step in range(12):
            nested.prepare_step()
            nested.zero_grad()
            (nets[0](x[step]) - x[step].flip(1)).square().mean().backward()
            nested.step()
            if step % 3 == 2:
                plain.zero_grad()
                (nets[1](x[step]) - x[step].flip(1)).square().mean().backward()
                plain.step()
    assert nested.read_levels()[0].num_updates == 4
    assert torch.equal(nets[0][0].weight, nets[1][0].weight)  # type: ignore[arg-type]


def test_cleared_gradients_take_their_inputs_with_them() -> None:
    """As where a GradScaler leaves a step out, and the next one begins anew."""
    first, second = torch.randn(2, 5, 4, generator=DRAW)
    left_out, alone = nn.Linear(4, 3), nn.Linear(4, 3)
    alone.load_state_dict(left_out.state_dict())
    for layer, batches in ((left_out, [first, second]), (alone, [second])):
        rule = dgd().build(layer.parameters())
        with record_layers(layer):
            for x in batches:
                rule.zero_grad()
                layer(x).square().mean().backward()
            rule.step()
    assert torch.equal(left_out.weight, alone.weight)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_within_a_period_inputs_stay_when_gradients_are_cleared(set_to_none: bool) -> None:
    layer = nn.Linear(4, 3)
    optimizer = NestedOptimizer(layer, Plan(Level("all", match=["*"], period=3, optimizer=dgd())))
    with record_layers(layer):
        for _ in range(2):
            optimizer.zero_grad(set_to_none)
            layer(torch.randn(5, 4, generator=DRAW)).square().mean().backward()
            optimizer.step()
        optimizer.zero_grad(set_to_none)
        moment = get_moment(layer.weight)
        assert moment is not None
        assert moment.num_rows == 10


def test_a_weight_that_two_layers_share_goes_on_from_what_was_saved() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    rule = dgd().build(net.parameters())
    with record_layers(net):
        net(torch.randn(5, 4, generator=DRAW)).sum().backward()
        saved = rule.state_dict()
    again = dgd().build(net.parameters())
    again.load_state_dict(saved)
    with record_layers(net):
        moment = get_moment(net[0].weight)  # type: ignore[arg-type]
        assert moment is not None
        assert moment.num_rows == 10


def test_a_layer_that_is_called_by_keyword_is_recorded() -> None:
    layer = nn.Linear(4, 3)
    with record_layers(layer, rows=True) as record:
        layer(input=torch.ones(2, 4)).sum().backward()
    assert record[""].inputs[0].shape == (1, 2, 4)
