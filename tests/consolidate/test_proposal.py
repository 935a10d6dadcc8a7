"""A refused proposal changes no bit; a committed one changes exactly what was judged."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nestling.consolidate import Verdict, propose
from nestling.consolidate.proposal import digest_tensor, read_tensors
from nestling.core.errors import IdlePattern, ProposalError


def make_model() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def bits(model: nn.Module) -> dict[str, str]:
    return {name: digest_tensor(tensor) for name, tensor in read_tensors(model).items()}


def add_noise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in read_tensors(model).values():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.add_((noise * 3).to(tensor.dtype))


def approve(_: nn.Module) -> bool:
    return True


def train(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()


def test_a_refused_proposal_changes_no_bit() -> None:
    """Parameters, buffers, gradients, modes, identities and optimizer state stay as they were."""
    model = make_model().train()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    before, identities = bits(model), [id(p) for p in model.parameters()]
    grads = [digest_tensor(p.grad) for p in model.parameters() if p.grad is not None]
    moments = [digest_tensor(s["exp_avg"]) for s in optimizer.state.values()]

    proposal = propose(model, train, lambda _: Verdict(False, {"acc": 0.1}, "too low"))
    assert bits(model) == before
    assert proposal.settle().status == "refused"
    assert proposal.reason == "too low"
    assert bits(model) == before
    assert [id(p) for p in model.parameters()] == identities
    assert [digest_tensor(p.grad) for p in model.parameters() if p.grad is not None] == grads
    assert [digest_tensor(s["exp_avg"]) for s in optimizer.state.values()] == moments
    assert all(module.training for module in model.modules())


def test_a_committed_proposal_is_what_was_judged_in_the_same_parameters() -> None:
    model, judged = make_model(), []
    identities = [id(p) for p in model.parameters()]

    def judge(trial: nn.Module) -> bool:
        assert not trial.training
        judged.append(bits(trial))
        return True

    proposal = propose(model, train, judge)
    proposal.commit()
    assert proposal.status == "committed"
    assert bits(model) == judged[1] != judged[0]
    assert [id(p) for p in model.parameters()] == identities


@settings(deadline=None, max_examples=25)
@given(st.floats(-3, 3), st.floats(0, 2), st.floats(-3, 3))
def test_a_score_passes_within_its_tolerance(before: float, tolerance: float, after: float) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, before)
    start = model.weight.item()
    proposal = propose(
        model,
        lambda m: nn.init.constant_(m.weight, after),
        lambda m: m.weight.item(),
        tolerance=tolerance,
    ).settle()
    end = torch.tensor(after).item()
    assert (proposal.status == "committed") == (end >= start - tolerance)
    assert model.weight.item() == (end if proposal.status == "committed" else start)
    assert proposal.figures_before == {"score": start}
    assert proposal.verdict.figures == {"score": end}


def test_the_record_is_json_and_says_why() -> None:
    scores = iter([0.9, 0.5])
    proposal = propose(make_model(), train, lambda _: next(scores))
    record = json.loads(json.dumps(proposal.settle().read_record()))
    assert record["reason"] == "score 0.5 is not >= 0.9"
    assert record["figures_before"] == {"score": 0.9}
    assert record["figures_after"] == {"score": 0.5}
    assert record["status"] == "refused"
    assert record["change_size"] > 0


def test_a_nan_score_never_passes() -> None:
    for pair in ([math.nan, 0.5], [0.5, math.nan]):
        scores = iter(pair)
        assert not propose(make_model(), train, lambda _, s=scores: next(s)).verdict.passed


def test_non_finite_values_fail_unjudged() -> None:
    calls = []
    proposal = propose(
        make_model(),
        lambda m: nn.init.constant_(m[0].weight, math.nan),
        lambda m: bool(calls.append(m)) or True,
    )
    assert proposal.verdict.reason == "'0.weight' would become non-finite"
    assert len(calls) == 1
    with pytest.raises(ProposalError, match="cannot commit a proposal that failed"):
        proposal.commit()


@pytest.mark.parametrize("raiser", ["change", "judge"])
def test_an_error_on_the_way_leaves_the_model(raiser: str) -> None:
    model = make_model()
    before = bits(model)

    def fail(trial: nn.Module) -> bool:
        add_noise(trial)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        propose(model, *((fail, approve) if raiser == "change" else (add_noise, fail)))
    assert bits(model) == before


def test_a_judge_that_leaves_traces_does_not_change_what_is_committed() -> None:
    def judge(trial: nn.Module) -> bool:
        add_noise(trial)
        return True

    model = make_model()
    before = bits(model)
    proposal = propose(model, lambda m: nn.init.zeros_(m[3].bias), judge)
    assert list(proposal.values) == ["3.bias"]
    proposal.commit()
    changed = {name for name, digest in bits(model).items() if digest != before[name]}
    assert changed == {"3.bias"}


@pytest.mark.parametrize("name", ["0.weight", "1.running_mean", "1.num_batches_tracked"])
def test_a_model_that_moved_on_is_not_overwritten(name: str) -> None:
    model = make_model()
    proposal = propose(model, lambda m: nn.init.zeros_(m[3].bias), approve)
    read_tensors(model)[name].view(-1)[0] += 1
    before = bits(model)
    with pytest.raises(ProposalError, match=f"'{name}' has changed since the trial"):
        proposal.commit()
    assert bits(model) == before
    assert proposal.status == "open"


def test_only_what_is_allowed_may_change() -> None:
    model = make_model()
    propose(model, lambda m: nn.init.zeros_(m[3].bias), approve, only=["3.*"]).commit()
    with pytest.raises(ProposalError, match=r"altered '0\.bias' .*only=\['3\.\*'\]"):
        propose(model, add_noise, approve, only=["3.*"])
    with pytest.raises(IdlePattern, match=r"only='3\.wieght' .*did you mean '3\.weight'"):
        propose(model, add_noise, approve, only=["3.wieght"])


def grow(model: nn.Module) -> None:
    model.append(nn.Linear(3, 3))


def reshape(model: nn.Module) -> None:
    model[3].bias = nn.Parameter(torch.zeros(4))


@pytest.mark.parametrize(("change", "message"), [(grow, "added or removed"), (reshape, "(4,)")])
def test_a_change_of_structure_is_refused(change, message: str) -> None:
    model = make_model()
    before = bits(model)
    with pytest.raises(ProposalError, match=message.replace("(", r"\(").replace(")", r"\)")):
        propose(model, change, approve)
    assert bits(model) == before


def test_a_proposal_settles_once() -> None:
    proposal = propose(make_model(), train, approve).settle()
    for settle in (proposal.commit, proposal.refuse, proposal.settle):
        with pytest.raises(ProposalError, match="a proposal that is committed; propose again"):
            settle()


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x))

    model = Tied()
    propose(model, lambda m: nn.init.ones_(m.head.weight), approve).commit()
    assert model.head.weight is model.embed.weight
    assert bool((model.embed.weight == 1).all())


def test_commit_that_breaks_off_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    before = bits(model)
    proposal = propose(model, add_noise, approve)
    last = list(proposal.values)[-1]
    proposal.values[last] = torch.zeros(77)  # copy_ raises after the others were copied
    with pytest.raises(RuntimeError):
        proposal.commit()
    assert bits(model) == before
    assert proposal.status == "open"
