"""Recursive ridge: the solution itself is carried along, block by block.

Letters: N examples of a block, D inputs, F features, K classes.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import DataError, SettingError
from nestling.memory.checks import check_saved
from nestling.memory.closed.closed_form import (
    add_constant,
    check_block,
    check_query,
    check_sums,
    check_width,
    choose_origin,
    copy_sums,
    count_tensors,
    encode_block,
    grow_rows,
    mask_unseen,
)
from nestling.memory.features import RandomFeatures

# Rows folded in at once: a block costs N F (N + F), so larger blocks are cut.
MAX_ROWS = 256


class RecursiveRidge:
    """Recursive least squares classifier: ridge regression updated block by block.

    R <- R - R X^T (I + X R X^T)^-1 X R,   R_0 = I / lambda
    W <- W + R X^T (Y - X W),              W_0 = 0

    [Zhuang 2022, Eq. 10-12], with Woodbury's identity on blocks. W equals the batch solution
    (X^T X + lambda I)^-1 X^T Y of everything so far; a new class is a new zero column of W.

    Order-free: any order and any cutting into blocks give the same up to rounding, which here
    grows with |X|^2 / lambda: a strength that is tiny beside the data loses digits.
    Inputs of a mean beyond 1e5 in the first block (Unix times) are measured from that mean, and a
    constant is one more feature; for those alone it matters which examples came first.

    Args:
        num_inputs: D, width of x.
        features: made of x before anything is learned, as the paper's buffer layer; None: x.
        strength: lambda > 0, in squared units of the features. It cannot be changed afterwards.

    Raises:
        SettingError: an argument outside its range, or features of another width.

    >>> ridge = RecursiveRidge(2, strength=1.0)
    >>> ridge.add(torch.eye(2), torch.tensor([0, 1]))
    >>> ridge.predict(torch.eye(2))
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]], dtype=torch.float64)
    """

    def __init__(
        self,
        num_inputs: int,
        *,
        features: RandomFeatures | None = None,
        strength: float = 1.0,
    ) -> None:
        if not 0.0 < strength < math.inf:
            raise SettingError(f"strength {strength}; a finite number above 0 works")
        self.num_inputs = check_width(num_inputs)
        if features is not None and features.num_inputs != num_inputs:
            raise SettingError(f"features of {features.num_inputs} inputs for {num_inputs} inputs")
        self.features = features
        self.strength = float(strength)
        width = features.num_outputs if features is not None else num_inputs
        self._inverse_FF = torch.eye(width, dtype=torch.float64, device="cpu") / self.strength
        self._weights_KF = torch.zeros(0, width, dtype=torch.float64, device="cpu")
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

    @property
    def weights(self) -> Tensor:
        """W, (F, K) float64."""
        return self._weights_KF.T.clone()

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
        phi_NF, y_NK = self._compute_features(x_ND, origin_D), encode_block(y_N, num_classes)
        check_sums([phi_NF.square().sum(1)])
        inverse_FF, weights_KF = self._inverse_FF, self._weights_KF
        if not self.num_classes:
            inverse_FF = (
                torch.eye(phi_NF.shape[1], dtype=torch.float64, device="cpu") / self.strength
            )
            weights_KF = weights_KF.new_zeros(0, phi_NF.shape[1])
        weights_KF = grow_rows(weights_KF, num_classes)
        for start in range(0, len(y_N), MAX_ROWS):
            rows = slice(start, start + MAX_ROWS)
            inverse_FF, weights_KF = fold_block(inverse_FF, weights_KF, phi_NF[rows], y_NK[rows])
        check_sums([inverse_FF, weights_KF])
        self._inverse_FF, self._weights_KF, self._origin_D = inverse_FF, weights_KF, origin_D
        self._counts_K = grow_rows(self._counts_K, num_classes) + y_NK.sum(0)

    def predict(self, x: Tensor) -> Tensor:
        """Scores (N, K), near 1 for the likely class; -inf for one never seen.

        Raises:
            NotFitted: empty.
            ShapeMismatch, NonFiniteInput: as in `add`.
        """
        x_ND = check_query(x, self.num_inputs, self._counts_K)
        return mask_unseen(
            self._compute_features(x_ND, self._origin_D) @ self._weights_KF.T, self._counts_K
        )

    def count_bytes(self) -> int:
        """Size of R, W and the counts: 8 (F^2 + K (F + 1))."""
        return count_tensors([self._inverse_FF, self._weights_KF, self._counts_K])

    def state_dict(self) -> dict[str, Any]:
        """All that it knows and how it was built."""
        return {
            "config": self._read_config(),
            "inverse": self._inverse_FF.clone(),
            "weights": self._weights_KF.clone(),
            "counts": self._counts_K.clone(),
            "origin": self._origin_D.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the classifier that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._read_config(), "recursive ridge")
        saved = copy_sums(state, ("inverse", "weights", "counts", "origin"))
        self._inverse_FF, self._weights_KF = saved["inverse"], saved["weights"]
        self._counts_K, self._origin_D = saved["counts"], saved["origin"]

    def _compute_features(self, x_ND: Tensor, origin_D: Tensor) -> Tensor:
        x_ND = x_ND - origin_D
        phi_NF = self.features(x_ND) if self.features is not None else x_ND
        return add_constant(phi_NF, origin_D)

    def _read_config(self) -> dict[str, object]:
        return {
            "num_inputs": self.num_inputs,
            "features": self.features.read_config() if self.features is not None else None,
            "strength": self.strength,
        }


def fold_block(
    inverse_FF: Tensor, weights_KF: Tensor, phi_NF: Tensor, y_NK: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of recursive least squares; see `RecursiveRidge` for the equation.

    Args:
        inverse_FF: (F, F) R, symmetric positive definite.
        weights_KF: (K, F) W transposed.
        phi_NF: (N, F) features of the block.
        y_NK: (N, K) its targets.

    Returns: the new R and W transposed.
    """
    projected_NF = phi_NF @ inverse_FF
    middle_NN = phi_NF @ projected_NF.T
    middle_NN.diagonal().add_(1.0)
    factor_NN, failed = torch.linalg.cholesky_ex(middle_NN)
    if int(failed):
        raise DataError("inputs too large for this strength; scale them down or raise it")
    # R - P^T M^-1 P as a product with its own transpose: symmetric without being made so.
    half_NF = torch.linalg.solve_triangular(factor_NN, projected_NF, upper=False)
    residual_NK = y_NK - phi_NF @ weights_KF.T
    # R_new X^T = P^T M^-1, so that R_new is not needed for W.
    gain_NF = torch.cholesky_solve(projected_NF, factor_NN)
    return inverse_FF - half_NF.T @ half_NF, weights_KF + residual_NK.T @ gain_NF
