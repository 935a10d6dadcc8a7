"""Gated consolidation: a change is committed only if anchors show that it forgets too little.

Letters: N anchors, one label each.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nestling.consolidate.anchors import compare_on_anchors, share_confidence
from nestling.consolidate.proposal import Proposal, Verdict, propose
from nestling.core.errors import DataError, SettingError, ShapeMismatch
from nestling.memory.checks import check_saved

BLOCK = 512  # anchors answered at once


class AnchorGate:
    """Accept a change of a model only if accuracy on anchor examples falls within a tolerance.

    Every comparison that was seen is a use of the anchors: choosing by them again and again
    would in time let a bad change through by luck. So each use is judged at a confidence that
    keeps the stated one over all, and the record says which use it was. That covers changes made
    without the anchors; one that was fitted to the figures of earlier uses needs new anchors.

    Args:
        x: (N, ...) anchors: held out, never trained on.
        y: (N,) their labels.
        tolerance: the fall that is allowed, a share of accuracy in [0, 1). With less than what
            `promise` gives for N even harmless changes are mostly refused.
        confidence: one-sided, over all uses, in [0.5, 1).
        num_uses: how often the anchors will be used, then they are spent; None for endlessly,
            at ever higher confidence.
        predict: (model, x) -> labels (N,); None for the largest logit.

    Raises:
        SettingError: an argument outside its range.
        DataError: no anchors.
        ShapeMismatch: not one integer label for each.

    >>> x = torch.linspace(-1, 1, 400)[:, None]
    >>> model = nn.Linear(1, 2).requires_grad_(False)
    >>> _ = model.weight.copy_(torch.tensor([[-1.0], [1.0]])), model.bias.zero_()
    >>> gate = AnchorGate(x, (x[:, 0] > 0).long(), tolerance=0.02, num_uses=2)
    >>> gate.propose(model, lambda trial: trial.weight.mul_(2)).settle().status
    'committed'
    >>> gate.propose(model, lambda trial: trial.weight.neg_()).settle().reason
    'accuracy fell by at most 100.0 points, 2.0 allowed (97.5 %: use 2 of 2 of 400 anchors)'
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        tolerance: float,
        confidence: float = 0.95,
        num_uses: int | None = None,
        predict: Callable[[nn.Module, Tensor], Tensor] | None = None,
    ) -> None:
        if not 0.0 <= tolerance < 1.0 or (num_uses is not None and num_uses < 1):
            raise SettingError(
                f"tolerance {tolerance} and {num_uses} uses; a share in [0, 1) and 1 or more "
                "uses (or None) work"
            )
        if not 0.5 <= confidence < 1.0:
            raise SettingError(f"confidence {confidence}; a number in [0.5, 1) works")
        self.tolerance = tolerance
        self.confidence = confidence
        self.num_uses = num_uses
        self.num_used = 0
        self._predict = predict if predict is not None else _predict_largest
        self.renew(x, y)

    @property
    def is_spent(self) -> bool:
        """Whether the anchors were used as often as planned; `renew` them then."""
        return self.num_uses is not None and self.num_used >= self.num_uses

    def renew(self, x: Tensor, y: Tensor) -> None:
        """Take new anchors, never used before; the count of uses starts again."""
        if not len(y):
            raise DataError("no anchors; hold some examples out of training")
        if y.ndim != 1 or len(x) != len(y) or y.is_floating_point():
            raise ShapeMismatch(
                f"anchors {tuple(x.shape)} with labels {tuple(y.shape)} {y.dtype}; (N, ...) and "
                "integers (N,) work"
            )
        self.x, self.y = x.detach().clone(), y.detach().clone()
        self.num_used = 0

    def propose(
        self,
        model: nn.Module,
        change: Callable[[nn.Module], object],
        *,
        only: Sequence[str] | None = None,
    ) -> Proposal:
        """Try a change on a copy and judge it on the anchors, as `propose` with a judge.

        Args:
            model: left untouched here.
            change: alters the values of the copy it is given.
            only: globs over the names that may change; None: all.

        Returns: an open proposal; it has failed without a comparison, and without a use, if the
            anchors are spent or the change is not finite.

        Raises:
            IdlePattern, ProposalError: as `propose`.
        """
        before: list[Tensor] = []

        def judge(trial: nn.Module) -> Verdict:
            if self.is_spent:
                reason = f"all {self.num_uses} uses of the {len(self.y)} anchors are spent; renew"
                return Verdict(False, {"use": float(self.num_used)}, reason)
            is_right = self._answer(trial)
            if not before:
                before.append(is_right)
                return Verdict(True, {"accuracy": float(is_right.double().mean())})
            return self._compare(before[0], is_right)

        return propose(model, change, judge, only=only)

    def state_dict(self) -> dict[str, Any]:
        """The anchors and how often they were used: the count must outlive the process."""
        return {
            "config": self._describe(),
            "x": self.x.clone(),
            "y": self.y.clone(),
            "num_used": self.num_used,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the anchors and their count.

        Raises:
            ForeignSnapshot: of a gate that shares its confidence out otherwise, since the two
                would add up to more risk than either states; nothing changed.
        """
        check_saved(state["config"], self._describe(), "anchor gate")
        num_used = int(state["num_used"])
        self.renew(state["x"], state["y"])
        self.num_used = num_used

    def _describe(self) -> dict[str, object]:
        return {"confidence": self.confidence, "num_uses": self.num_uses}

    def _compare(self, before: Tensor, after: Tensor) -> Verdict:
        self.num_used += 1
        each = share_confidence(self.confidence, self.num_used, self.num_uses)
        found = compare_on_anchors(before, after, each)
        passed = found.fall_at_most <= self.tolerance
        of = "" if self.num_uses is None else f" of {self.num_uses}"
        reason = (
            f"accuracy fell by at most {100 * found.fall_at_most:.1f} points, "
            f"{100 * self.tolerance:.1f} allowed ({100 * each:.4g} %: use {self.num_used}{of} of "
            f"{found.num_anchors} anchors)"
        )
        figures = {
            "accuracy": float(after.double().mean()),
            "fall": found.fall,
            "fall_at_most": found.fall_at_most,
            "num_worse": float(found.num_worse),
            "num_better": float(found.num_better),
            "confidence": each,
            "use": float(self.num_used),
        }
        return Verdict(passed, figures, reason)

    def _answer(self, model: nn.Module) -> Tensor:
        """Which anchors (N,) the model gets right."""
        with torch.no_grad():
            labels = [self._predict(model, x) for x in self.x.split(BLOCK)]
        return torch.cat(labels).to(self.y.device) == self.y


def _predict_largest(model: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = model(x)
    return logits.argmax(dim=-1)
