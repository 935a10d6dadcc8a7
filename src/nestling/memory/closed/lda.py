"""Streaming linear discriminant analysis: class means and one covariance for all.

Letters: N examples of a block, D inputs, K classes, B classes of a block.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.memory.checks import check_saved
from nestling.memory.closed.closed_form import (
    check_block,
    check_query,
    check_sums,
    check_width,
    copy_sums,
    count_tensors,
    grow_rows,
    mask_unseen,
    measure_block,
)

# Less would be lost in the rounding of a float64 factorisation.
MIN_SHRINKAGE = 1e-8


class StreamingLDA:
    """Streaming linear discriminant analysis (SLDA): Gaussian classes of a shared covariance.

    mu_k <- (n_k mu_k + x) / (n_k + 1)
    Sigma = (1/n) sum_i (x_i - mu_{y_i})(x_i - mu_{y_i})^T
    w_k = Lambda mu_k,  b_k = -1/2 mu_k . Lambda mu_k,  Lambda = [(1 - e) Sigma + e s I]^-1

    [Hayes & Kanan 2020, Eq. 1-3]. All classes are equally likely beforehand, so that the softmax
    of the scores is the posterior of that model. Scores are measured about the mean m of all
    inputs, with x - m and mu_k - m for x and mu_k: that shifts all scores of an example alike.

    Order-free: any order and any cutting into blocks give the same up to rounding in float64.

    Differs: the paper measures each example against its class's mean *before* the update, which
    makes Sigma depend on the order; here the exact within-class scatter is kept [Chan 1979, Eq.
    2.1b]. The paper shrinks towards I, here towards s I with s = trace(Sigma)/D, so that the
    units of x do not matter. While nothing has varied, s = 1: the nearest mean answers.

    Args:
        num_inputs: D, width of x.
        shrinkage: e in [1e-8, 1]; 1 is the nearest class mean.

    Raises:
        SettingError: an argument outside its range.

    >>> lda = StreamingLDA(2)
    >>> lda.add(torch.tensor([[0.0, 1.0], [0.0, 3.0], [1.0, 1.0]]), torch.tensor([0, 0, 1]))
    >>> lda.predict(torch.tensor([[0.9, 3.0]])).argmax(1)  # only the first input tells
    tensor([1])
    """

    def __init__(self, num_inputs: int, *, shrinkage: float = 1e-4) -> None:
        if not MIN_SHRINKAGE <= shrinkage <= 1.0:
            raise SettingError(f"shrinkage {shrinkage}; {MIN_SHRINKAGE} to 1 works, e.g. 1e-4")
        self.num_inputs = check_width(num_inputs)
        self.shrinkage = float(shrinkage)
        self._means_KD = torch.zeros(0, num_inputs, dtype=torch.float64, device="cpu")
        self._counts_K = torch.zeros(0, dtype=torch.float64, device="cpu")
        self._scatter_DD = torch.zeros(num_inputs, num_inputs, dtype=torch.float64, device="cpu")
        self._solution: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def num_classes(self) -> int:
        """K, the largest label so far + 1."""
        return len(self._counts_K)

    @property
    def counts(self) -> Tensor:
        """Examples seen of each class, (K,) float64."""
        return self._counts_K.clone()

    @property
    def covariance(self) -> Tensor:
        """Sigma, (D, D), not shrunk, in squared units of x; zero while empty."""
        return self._scatter_DD / self._counts_K.sum().clamp_min(1.0)

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
        block = measure_block(x_ND, y_N)
        labels_B = block.labels
        num_classes = max(self.num_classes, int(labels_B[-1]) + 1)
        counts_K = grow_rows(self._counts_K, num_classes)
        means_KD = grow_rows(self._means_KD, num_classes)
        before_B = counts_K[labels_B]
        share_B = block.counts / (before_B + block.counts)
        shift_BD = block.means - means_KD[labels_B]
        within_ND = x_ND - block.means[block.index]
        between_BD = shift_BD * (before_B * share_B).sqrt()[:, None]
        rows_RD = torch.cat((within_ND, between_BD))
        scatter_DD = torch.addmm(self._scatter_DD, rows_RD.T, rows_RD)
        means_KD[labels_B] += shift_BD * share_B[:, None]
        counts_K[labels_B] += block.counts
        check_sums([scatter_DD, means_KD.square()])
        self._scatter_DD, self._means_KD, self._counts_K = scatter_DD, means_KD, counts_K
        self._solution = None

    def predict(self, x: Tensor) -> Tensor:
        """Scores (N, K), -inf for a class never seen; NotFitted while empty.

        Their softmax is the posterior probability of each class seen.
        """
        x_ND = check_query(x, self.num_inputs, self._counts_K)
        centre_D, weights_DK, offset_K = self.solve()
        return mask_unseen(torch.addmm(offset_K, x_ND - centre_D, weights_DK), self._counts_K)

    def solve(self) -> tuple[Tensor, Tensor, Tensor]:
        """Centre m (D,), weights (D, K) and offsets (K,), float64: scores are (x - m) W + b.

        Kept until something is learned.
        """
        if self._solution is None:
            covariance_DD = self.covariance
            scale = float(covariance_DD.diagonal().mean())
            share = self.shrinkage if scale > 0.0 else 1.0
            shrunk_DD = (1.0 - share) * covariance_DD
            shrunk_DD.diagonal().add_(share * (scale if scale > 0.0 else 1.0))
            factor_DD = torch.linalg.cholesky(shrunk_DD)
            shares_K = self._counts_K / self._counts_K.sum()
            centre_D = shares_K @ self._means_KD
            # About zero, a common offset of the inputs would use up all digits.
            means_DK = (self._means_KD - centre_D).T.contiguous()
            weights_DK = torch.cholesky_solve(means_DK, factor_DD)
            self._solution = centre_D, weights_DK, -0.5 * (means_DK * weights_DK).sum(0)
        return self._solution

    def count_bytes(self) -> int:
        """Size of the statistics: 8 (D^2 + K (D + 1))."""
        return count_tensors([self._scatter_DD, self._means_KD, self._counts_K])

    def state_dict(self) -> dict[str, Any]:
        """All that it knows and how it was built."""
        return {
            "config": self._read_config(),
            "means": self._means_KD.clone(),
            "counts": self._counts_K.clone(),
            "scatter": self._scatter_DD.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the classifier that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._read_config(), "streaming LDA")
        saved = copy_sums(state, ("means", "counts", "scatter"))
        self._means_KD, self._counts_K = saved["means"], saved["counts"]
        self._scatter_DD, self._solution = saved["scatter"], None

    def _read_config(self) -> dict[str, object]:
        return {"num_inputs": self.num_inputs, "shrinkage": self.shrinkage}
