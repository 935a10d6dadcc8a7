import pytest
import torch
from torch import nn

from learners import make_batch, make_mlp
from nestling.core.batches import Batch
from nestling.core.errors import SettingError
from nestling.protect import take_step
from nestling.protect.penalties import L2SP


def measure(method: L2SP, model: nn.Module) -> float:
    x, y = make_batch(9)
    loss = method.compute_loss(model, Batch((x,), target=y), model(x))
    assert loss is not None
    return loss.item()


def test_pulls_the_backbone_to_its_start_and_decays_the_head() -> None:
    model, method = make_mlp(), L2SP(0.8, 0.3)
    start = {name: param.detach().clone() for name, param in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(4):
        take_step(model, optimizer, make_batch(step), [method])
    method.end_experience(model)  # the starting point stays
    expected = 0.0
    for name, param in model.named_parameters():
        for now, then in zip(param.flatten().tolist(), start[name].flatten().tolist(), strict=True):
            is_new = name.startswith("2.")
            expected += 0.5 * (0.3 * now**2 if is_new else 0.8 * (now - then) ** 2)
    assert measure(method, model) == pytest.approx(expected, rel=1e-5)


def test_alone_it_leads_back_to_the_start_with_an_empty_head() -> None:
    model, method = make_mlp(), L2SP(1.0, 1.0)
    start = model[0].weight.detach().clone()
    measure(method, model)
    with torch.no_grad():
        model[0].weight += 1.0
    x, y = make_batch(0)
    for _ in range(60):
        model.zero_grad()
        loss = method.compute_loss(model, Batch((x,), target=y), model(x))
        assert loss is not None
        loss.backward()
        with torch.no_grad():
            for param in model.parameters():
                param -= 0.2 * param.grad
    torch.testing.assert_close(model[0].weight.detach(), start, rtol=0, atol=1e-4)
    assert float(model[2].weight.detach().abs().max()) < 1e-4


def test_which_part_is_the_head() -> None:
    model = make_mlp()
    with torch.no_grad():
        norms = [float(sum(p.square().sum() for p in model[i].parameters())) for i in (0, 2)]
    for head, expected in ((None, norms[1]), ("0", norms[0]), ("2", norms[1]), ("", 0.0)):
        assert measure(L2SP(1.0, 2.0, head=head), model) == pytest.approx(expected, rel=1e-5)
    only_weight = float(model[2].weight.detach().square().sum())
    assert measure(L2SP(1.0, 2.0, head="2.weight"), model) == pytest.approx(only_weight, rel=1e-5)
    single = nn.Linear(4, 2)
    whole = float(sum(p.detach().square().sum() for p in single.parameters()))
    assert measure(L2SP(1.0, 2.0), single) == pytest.approx(whole, rel=1e-5)
    with pytest.raises(SettingError, match=r"head 'layer2' .*known: \['0', '2'\]"):
        measure(L2SP(1.0, 1.0, head="layer2"), model)
    with pytest.raises(SettingError, match="head_strength=-1"):
        L2SP(1.0, -1.0)


def test_a_head_that_cannot_be_found_is_to_be_named() -> None:
    model, x = nn.Conv1d(1, 1, 1), torch.ones(1, 1, 1)
    with pytest.raises(SettingError, match=r"Conv1d has no linear layer; .*head='' where nothing"):
        L2SP(1.0, 1.0).compute_loss(model, x, x, model(x))
    assert L2SP(1.0, 1.0, head="").compute_loss(model, x, x, model(x)) is not None


def test_what_is_unfrozen_later_starts_then_and_new_rows_are_free() -> None:
    model, method = make_mlp(), L2SP(1.0, 0.0)
    model[0].weight.requires_grad_(False)
    assert measure(method, model) == 0.0
    with torch.no_grad():
        model[0].weight += 5.0
    model[0].weight.requires_grad_(True)
    assert measure(method, model) == 0.0
    with torch.no_grad():
        model[0].weight += 1.0
    assert measure(method, model) == pytest.approx(0.5 * model[0].weight.numel(), rel=1e-4)

    model, method = make_mlp(), L2SP(1.0, 0.0, head="")
    measure(method, model)
    wider = nn.Linear(16, 3)
    with torch.no_grad():
        wider.weight[:2], wider.bias[:2] = model[2].weight, model[2].bias
    model[2] = wider
    assert measure(method, model) == 0.0
