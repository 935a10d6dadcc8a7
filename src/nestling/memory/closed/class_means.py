"""Nearest class mean: the simplest classifier that forgets nothing.

Letters: N examples, D inputs, K classes.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nestling.core.errors import SettingError, suggest
from nestling.memory.checks import check_saved
from nestling.memory.closed.closed_form import (
    check_block,
    check_query,
    check_sums,
    check_width,
    choose_origin,
    copy_sums,
    count_tensors,
    grow_rows,
    mask_unseen,
)

Metric = Literal["cosine", "euclid"]
METRICS = ("cosine", "euclid")


class NearestClassMean:
    """Nearest class mean classifier (NCM), updated online.

    y(x) = argmin_k d(x, mu_k),  mu_k = (1/n_k) sum_{i: y_i = k} x_i   [Mensink 2013, Eq. 1]

    Order-free: any order and any cutting into blocks give the same up to rounding in float64.
    Inputs of a mean beyond 1e5 in the first block (Unix times) are measured from the mean of all
    examples: about zero, all cosines of them would be 1.

    Args:
        num_inputs: D, width of x.
        metric: "cosine" scores cos(x, mu_k), 0 where either is zero; "euclid" scores
            -|x - mu_k|^2, in squared units of x.

    Raises:
        SettingError: no inputs, or an unknown metric.

    >>> means = NearestClassMean(1, metric="euclid")
    >>> means.add(torch.tensor([[0.0], [2.0]]), torch.tensor([0, 2]))
    >>> means.predict(torch.tensor([[1.5]]))
    tensor([[-2.2500,    -inf, -0.2500]], dtype=torch.float64)
    """

    def __init__(self, num_inputs: int, *, metric: Metric = "cosine") -> None:
        if metric not in METRICS:
            raise SettingError(f"metric {metric!r}; {suggest(str(metric), METRICS)}")
        self.num_inputs = check_width(num_inputs)
        self.metric: Metric = metric
        self._sums_KD = torch.zeros(0, num_inputs, dtype=torch.float64, device="cpu")
        self._counts_K = torch.zeros(0, dtype=torch.float64, device="cpu")
        self._origin_D = torch.zeros(num_inputs, dtype=torch.float64, device="cpu")

    @property
    def num_classes(self) -> int:
        """K, the largest label so far + 1."""
        return len(self._counts_K)

    @property
    def counts(self) -> Tensor:
        """Examples seen of each class, (K,) float64."""
        return self._counts_K.clone()

    def add(self, x: Tensor, y: Tensor) -> None:
        """Learn a block of examples.

        Args:
            x: (N, D) finite floats; N = 0 is a no-op.
            y: (N,) integers of 0 or more.

        Raises:
            ShapeMismatch, NonFiniteInput, UnknownLabel, DataError: nothing changed then.
        """
        x_ND, y_N = check_block(x, y, self.num_inputs, self.num_classes)
        if not len(y_N):
            return
        origin_D = self._origin_D if self.num_classes else choose_origin(x_ND)
        num_classes = max(self.num_classes, int(y_N.max()) + 1)
        sums_KD = grow_rows(self._sums_KD, num_classes).index_add_(0, y_N, x_ND - origin_D)
        counts_K = grow_rows(self._counts_K, num_classes)
        counts_K.index_add_(0, y_N, torch.ones_like(y_N, dtype=torch.float64))
        check_sums([sums_KD.square()])
        self._sums_KD, self._counts_K, self._origin_D = sums_KD, counts_K, origin_D

    def predict(self, x: Tensor) -> Tensor:
        """Scores (N, K), -inf for a class never seen; NotFitted while empty."""
        x_ND = check_query(x, self.num_inputs, self._counts_K) - self._origin_D
        means_KD = self._sums_KD / self._counts_K.clamp_min(1.0)[:, None]
        if bool(self._origin_D.any()):
            mean_D = self._sums_KD.sum(0) / self._counts_K.sum()
            mean_D = mean_D.where(self._origin_D != 0.0, 0.0)
            x_ND, means_KD = x_ND - mean_D, means_KD - mean_D
        if self.metric == "cosine":
            scores_NK = functional.normalize(x_ND) @ functional.normalize(means_KD).T
        else:
            # Not |x|^2 - 2 x mu + |mu|^2: that loses the small differences far from zero.
            mode = "donot_use_mm_for_euclid_dist"
            scores_NK = -torch.cdist(x_ND, means_KD, compute_mode=mode).square()
        return mask_unseen(scores_NK, self._counts_K)

    def count_bytes(self) -> int:
        """Size of the sums: 8 K (D + 1)."""
        return count_tensors([self._sums_KD, self._counts_K])

    def state_dict(self) -> dict[str, Any]:
        """All that it knows and how it was built."""
        return {
            "config": self._read_config(),
            "sums": self._sums_KD.clone(),
            "counts": self._counts_K.clone(),
            "origin": self._origin_D.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the classifier that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._read_config(), "nearest class mean")
        saved = copy_sums(state, ("sums", "counts", "origin"))
        self._sums_KD, self._counts_K = saved["sums"], saved["counts"]
        self._origin_D = saved["origin"]

    def _read_config(self) -> dict[str, object]:
        return {"num_inputs": self.num_inputs, "metric": self.metric}
