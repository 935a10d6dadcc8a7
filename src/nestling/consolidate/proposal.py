"""Change slow weights only by proposal: tried on a copy, judged, then committed or refused."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

from nestling.core.errors import IdlePattern, ProposalError, suggest
from nestling.core.modes import copy_module, eval_mode
from nestling.core.params import Params, relative_change


@dataclass(frozen=True)
class Verdict:
    """Result of judging a model: passed or not, what was measured, and why.

    Args:
        passed: whether the model may be used.
        figures: what was measured, by name.
        reason: one line for the record.
    """

    passed: bool
    figures: dict[str, float] = field(default_factory=dict)
    reason: str = ""


# Judge of a model: a function to a `Verdict`, a bool, or a score of which more is better.
Judge = Callable[[nn.Module], Verdict | bool | float]
Status = Literal["open", "committed", "refused"]


@dataclass
class Proposal:
    """Proposed change of a model, tried on a copy and judged, to be committed or refused.

    Made by `propose`. Until `commit` the model has not changed in a single bit.

    Args:
        model: the live model.
        values: name -> new value of every parameter and buffer that the change altered.
        verdict: of the changed copy; its figures are those after the change.
        figures_before: the judge's figures of the unchanged copy.
        change_size: ||after - before|| / ||before|| over the altered floating tensors.
        digests: name -> sha256 of every parameter and buffer before the change.
        status: "open" until it is committed or refused.
        reason: why it was settled so.
    """

    model: nn.Module
    values: dict[str, Tensor]
    verdict: Verdict
    figures_before: dict[str, float]
    change_size: float
    digests: dict[str, str] = field(repr=False)
    status: Status = "open"
    reason: str = ""

    def commit(self) -> None:
        """Copy the new values into the model's own parameters and buffers, all or none.

        Raises:
            ProposalError: judged as failed, settled already, or the model has changed since
                the trial; the model is then untouched.
        """
        self._check_open("commit")
        if not self.verdict.passed:
            raise ProposalError(
                f"cannot commit a proposal that failed: {self.verdict.reason}; refuse() it"
            )
        live = read_tensors(self.model)
        for name in sorted(live.keys() | self.digests.keys()):
            if name not in live or digest_tensor(live[name]) != self.digests.get(name):
                raise ProposalError(
                    f"{name!r} has changed since the trial, so the verdict is out of date; "
                    "propose again"
                )
        with torch.no_grad():
            before = {name: live[name].clone() for name in self.values}
            try:
                for name, value in self.values.items():
                    live[name].copy_(value)
            except BaseException:
                for name, value in before.items():
                    live[name].copy_(value)
                raise
        self.status, self.reason = "committed", self.verdict.reason

    def refuse(self, reason: str = "") -> None:
        """Give the change up; the model stays as it is.

        Args:
            reason: for the record; the verdict's own if empty.

        Raises:
            ProposalError: settled already.
        """
        self._check_open("refuse")
        self.status, self.reason = "refused", reason or self.verdict.reason
        self.values = {}

    def settle(self) -> "Proposal":
        """Commit if the verdict passed, refuse if not."""
        if self.verdict.passed:
            self.commit()
        else:
            self.refuse()
        return self

    def read_record(self) -> dict[str, object]:
        """What was proposed, measured and decided, as JSON-ready values for a ledger."""
        return {
            "status": self.status,
            "passed": self.verdict.passed,
            "reason": self.reason or self.verdict.reason,
            "figures_before": dict(self.figures_before),
            "figures_after": dict(self.verdict.figures),
            "change_size": self.change_size,
        }

    def _check_open(self, verb: str) -> None:
        if self.status != "open":
            raise ProposalError(f"cannot {verb} a proposal that is {self.status}; propose again")


def propose(
    model: nn.Module,
    change: Callable[[nn.Module], object],
    judge: Judge,
    *,
    only: Sequence[str] | None = None,
    tolerance: float = 0.0,
) -> Proposal:
    """Try a change on a copy of the model and judge it before and after.

    Args:
        model: left untouched here, whatever happens.
        change: alters the values (not the names or shapes) of the copy it is given.
        judge: called twice, in evaluation mode. Returns a `Verdict`; or a bool; or a score, higher
            is better, which passes if after >= before - `tolerance`.
        only: globs over the names of the parameters and buffers that may change; None: all.
        tolerance: how much score may be lost, in units of the score.

    Returns: an open proposal; `settle()` commits or refuses it by the verdict. A change to
        non-finite values fails without being judged.

    Raises:
        IdlePattern: a glob of `only` matches nothing.
        ProposalError: the change altered names, shapes, dtypes, or what `only` excludes.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> proposal = propose(model, lambda m: nn.init.ones_(m.weight), lambda m: m.weight.item())
    >>> proposal.settle().status, model.weight.item()
    ('committed', 1.0)
    """
    trial = copy_module(model)
    before = {name: tensor.clone() for name, tensor in read_tensors(trial).items()}
    allowed = _match_names(before, only)
    digests = {name: digest_tensor(tensor) for name, tensor in before.items()}
    first = _judge(judge, trial, None, tolerance)
    _restore(trial, before)  # a judge may leave traces, e.g. in buffers
    change(trial)
    after = {name: tensor.clone() for name, tensor in read_tensors(trial).items()}
    values = _find_changes(before, after, digests)
    if outside := sorted(values.keys() - allowed):
        raise ProposalError(
            f"the change altered {outside[0]!r} ({len(outside)} in all), which "
            f"only={list(only or [])} excludes; widen it or restrict the change"
        )
    wrong = [name for name, value in values.items() if not bool(torch.isfinite(value).all())]
    if wrong:
        verdict = Verdict(False, {}, f"{wrong[0]!r} would become non-finite")
    else:
        verdict = _judge(judge, trial, first, tolerance)
    floats = [name for name in values if values[name].dtype.is_floating_point]
    size = relative_change({n: before[n] for n in floats}, {n: after[n] for n in floats})
    return Proposal(model, values, verdict, first.figures, size, digests)


def read_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, persistent or not, detached but not copied."""
    named = {name: tensor.detach() for name, tensor in model.named_parameters()}
    return named | {name: tensor.detach() for name, tensor in model.named_buffers()}


def digest_tensor(tensor: Tensor) -> str:
    """sha256 of a tensor's dtype, shape and bytes.

    >>> digest_tensor(torch.zeros(1)) == digest_tensor(-torch.zeros(1))
    False
    """
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(content.data)
    return digest.hexdigest()


def _judge(judge: Judge, model: nn.Module, first: Verdict | None, tolerance: float) -> Verdict:
    with eval_mode(model):
        answer = judge(model)
    if isinstance(answer, Verdict):
        return answer
    if isinstance(answer, bool):
        return Verdict(answer, {"passed": float(answer)}, "passed" if answer else "failed")
    score = float(answer)
    if first is None:
        return Verdict(math.isfinite(score), {"score": score})
    least = first.figures["score"] - tolerance
    passed = score >= least
    sign = ">=" if passed else "is not >="
    return Verdict(passed, {"score": score}, f"score {score:.6g} {sign} {least:.6g}")


def _match_names(tensors: Params, only: Sequence[str] | None) -> set[str]:
    if only is None:
        return set(tensors)
    allowed: set[str] = set()
    for pattern in only:
        matched = {name for name in tensors if fnmatchcase(name, pattern)}
        if not matched:
            raise IdlePattern(f"only={pattern!r} matches nothing; " + suggest(pattern, tensors))
        allowed |= matched
    return allowed


def _find_changes(before: Params, after: Params, digests: dict[str, str]) -> dict[str, Tensor]:
    if renamed := sorted(before.keys() ^ after.keys()):
        raise ProposalError(
            f"the change added or removed {renamed[0]!r}; a proposal changes values, not names"
        )
    for name, old in before.items():
        new = after[name]
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise ProposalError(
                f"the change made {name!r} {tuple(new.shape)} {new.dtype} out of "
                f"{tuple(old.shape)} {old.dtype}; a proposal changes values only"
            )
    return {name: new for name, new in after.items() if digest_tensor(new) != digests[name]}


def _restore(model: nn.Module, values: Params) -> None:
    with torch.no_grad():
        for name, tensor in read_tensors(model).items():
            tensor.copy_(values[name])
