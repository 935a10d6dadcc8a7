"""Ridge on random features whose strength is chosen on a part held out of the stream.

Letters: N examples of a block, D inputs, F random features, K classes, G strengths.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.core.seeds import make_generator
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

STRENGTHS = tuple(10.0**power for power in range(-8, 10))
# Which part of its range a hash falls in is told this finely.
HASH_STEPS = 1 << 20
SUMS = ("fit_gram", "fit_cross", "fit_counts", "held_gram", "held_cross", "held_counts")


class RandomProjectionRidge:
    """Ridge classifier on ReLU random features (RanPAC), updated online.

    h(x) = relu(x W),  G = sum_i h_i h_i^T,  C = sum_i h_i y_i^T,  s(x) = h(x) (G + lambda I)^-1 C

    [McDonnell 2023, Eq. 5-7]. A fifth of the examples is held out; lambda has the least squared
    error there, of a solution on the others; the answer then uses all.

    Order-free: any order and any cutting into blocks give the same up to rounding in float64.
    Inputs of a mean beyond 1e5 in the first block (Unix times) are measured from that mean, and a
    constant is one more feature; for those alone it matters which examples came first.

    Differs: the paper holds out a fifth of each task at hand and needs its examples; here sums of
    both parts are kept instead, over the whole stream. Which part an example belongs to is a hash
    of its inputs, so that neither order nor blocks matter and copies stay together.

    Args:
        num_inputs: D, width of x, best of about unit size: random features have no bias.
        num_features: F; memory grows with F^2, solving with F^3.
        strengths: lambdas tried, each > 0, in squared units of h; one lambda is just used.
        held_share: of the examples, in [0, 1); 0 needs a single strength.
        seed: which features.

    Raises:
        SettingError: an argument outside its range.

    >>> x, y = torch.eye(4).repeat(5, 1), torch.tensor([0, 1, 1, 3]).repeat(5)
    >>> ridge = RandomProjectionRidge(4, 32, strengths=[0.1], seed=1)
    >>> ridge.add(x, y)
    >>> ridge.predict(torch.eye(4)).argmax(1)
    tensor([0, 1, 1, 3])
    """

    def __init__(
        self,
        num_inputs: int,
        num_features: int = 1000,
        *,
        strengths: Sequence[float] = STRENGTHS,
        held_share: float = 0.2,
        seed: int = 0,
    ) -> None:
        strengths = [float(strength) for strength in strengths]
        if not strengths or not all(0.0 < strength < math.inf for strength in strengths):
            raise SettingError(f"strengths {strengths}; one or more finite numbers above 0 work")
        if not 0.0 <= held_share < 1.0 or (held_share == 0.0 and len(strengths) > 1):
            raise SettingError(
                f"held share {held_share} for {len(strengths)} strengths; [0, 1) works, and 0 for "
                "a single strength only: nothing else could choose between them"
            )
        self.num_inputs = check_width(num_inputs)
        if num_features < 1:
            raise SettingError(f"{num_features} random features; 1 or more works")
        self.features = RandomFeatures(num_inputs, num_features, kind="relu", seed=seed)
        self.strengths = sorted(strengths)
        self.held_share = float(held_share)
        generator = make_generator(seed, "held-out hash", num_inputs)
        span = torch.iinfo(torch.int64)
        odd_D = torch.randint(span.min, span.max, (num_inputs,), generator=generator, device="cpu")
        self._factors_D = odd_D | 1
        self._sums = _make_sums(num_features)
        self._origin_D = torch.zeros(num_inputs, dtype=torch.float64, device="cpu")
        self._solution: tuple[Tensor, float] | None = None

    @property
    def num_classes(self) -> int:
        """K, the largest label so far + 1."""
        return len(self._sums["fit_counts"])

    @property
    def counts(self) -> Tensor:
        """Examples seen of each class, both parts, (K,) float64."""
        return self._sums["fit_counts"] + self._sums["held_counts"]

    @property
    def num_held(self) -> int:
        """Examples in the held-out part."""
        return int(self._sums["held_counts"].sum())

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
        h_NF, held_N = self._compute_features(x_ND, origin_D), self._hold_out(x_ND)
        before = self._sums if self.num_classes else _make_sums(h_NF.shape[1])
        sums: dict[str, Tensor] = {}
        for part, mask_N in (("fit", ~held_N), ("held", held_N)):
            rows_RF, one_hot_RK = h_NF[mask_N], encode_block(y_N[mask_N], num_classes)
            for name, values in (
                ("gram", rows_RF.T @ rows_RF),
                ("cross", one_hot_RK.T @ rows_RF),
                ("counts", one_hot_RK.sum(0)),
            ):
                sums[f"{part}_{name}"] = values + grow_rows(before[f"{part}_{name}"], len(values))
        check_sums(sums.values())
        self._sums, self._origin_D, self._solution = sums, origin_D, None

    def predict(self, x: Tensor) -> Tensor:
        """Scores (N, K), near 1 for the likely class; -inf for one never seen.

        Raises:
            NotFitted: empty.
            ShapeMismatch, NonFiniteInput: as in `add`.
        """
        x_ND = check_query(x, self.num_inputs, self.counts)
        return mask_unseen(
            self._compute_features(x_ND, self._origin_D) @ self.solve()[0], self.counts
        )

    def solve(self) -> tuple[Tensor, float]:
        """Weights (F, K) float64 and the chosen lambda; kept until something is learned."""
        if self._solution is None:
            sums, strength = self._sums, self.strengths[0]
            if len(self.strengths) > 1:
                strength = choose_on_held(
                    sums["fit_gram"],
                    sums["fit_cross"],
                    sums["held_gram"],
                    sums["held_cross"],
                    sums["held_counts"],
                    self.strengths,
                )
            gram_FF = sums["fit_gram"] + sums["held_gram"]
            cross_FK = (sums["fit_cross"] + sums["held_cross"]).T
            self._solution = solve_gram(gram_FF, cross_FK, strength), strength
        return self._solution

    def count_bytes(self) -> int:
        """Size of the sums: 16 (F^2 + K (F + 1)); features come back from their seed."""
        return count_tensors(self._sums.values())

    def state_dict(self) -> dict[str, Any]:
        """All that it knows and how it was built."""
        sums = {name: values.clone() for name, values in self._sums.items()}
        return {"config": self._read_config(), "origin": self._origin_D.clone(), **sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the classifier that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._read_config(), "random projection ridge")
        saved = copy_sums(state, (*SUMS, "origin"))
        self._origin_D = saved.pop("origin")
        self._sums, self._solution = saved, None

    def _compute_features(self, x_ND: Tensor, origin_D: Tensor) -> Tensor:
        return add_constant(self.features(x_ND - origin_D), origin_D)

    def _hold_out(self, x_ND: Tensor) -> Tensor:
        """Which examples (N,) are held out: a hash of each one's own bits, in exact arithmetic."""
        bits_ND = (x_ND + 0.0).contiguous().view(torch.int64)  # + 0.0: -0 is 0
        hash_N = (bits_ND * self._factors_D).sum(1)  # wraps around; sums of integers are exact
        for _ in range(2):  # float32 inputs have zeros in their low bits: mix high ones down
            hash_N = (hash_N ^ (hash_N >> 32)) * self._factors_D[0]
        return (hash_N >> 40).remainder(HASH_STEPS) < self.held_share * HASH_STEPS

    def _read_config(self) -> dict[str, object]:
        return {
            "features": self.features.read_config(),
            "strengths": list(self.strengths),
            "held_share": self.held_share,
        }


def _make_sums(num_features: int) -> dict[str, Tensor]:
    shapes = {"gram": (num_features, num_features), "cross": (0, num_features), "counts": (0,)}
    return {
        name: torch.zeros(shapes[name.split("_")[1]], dtype=torch.float64, device="cpu")
        for name in SUMS
    }


def choose_on_held(
    gram_FF: Tensor,
    cross_KF: Tensor,
    held_gram_FF: Tensor,
    held_cross_KF: Tensor,
    held_counts_K: Tensor,
    strengths: Sequence[float],
) -> float:
    """Choose the ridge strength by squared error on held-out examples, from sums alone.

    sum_i |y_i - W^T h_i|^2 = n - 2 <W, C_held> + <W, G_held W>,  W = (G + lambda I)^-1 C

    Args:
        gram_FF: (F, F) of the examples that W is fitted to.
        cross_KF: (K, F) of them.
        held_gram_FF: (F, F) of the examples held out.
        held_cross_KF: (K, F) of them.
        held_counts_K: (K,) examples held out of each class; n is their sum.
        strengths: the lambdas to choose from, ascending.

    Returns: one of `strengths`; while one part is empty the one nearest to trace(G)/F.
    """
    F = len(gram_FF)
    if not float(held_counts_K.sum()) or not float(gram_FF.diagonal().sum()):
        mean = float((gram_FF + held_gram_FF).diagonal().sum()) / F
        return min(strengths, key=lambda strength: abs(math.log(strength / max(mean, 1e-300))))
    eigen_F, basis_FF = torch.linalg.eigh(gram_FF)
    eigen_F = eigen_F.clamp_min(0.0)
    fit_FK = basis_FF.T @ cross_KF.T
    held_FK = basis_FF.T @ held_cross_KF.T
    rotated_FF = basis_FF.T @ held_gram_FF @ basis_FF
    errors = []
    for strength in strengths:
        weights_FK = fit_FK / (eigen_F + strength)[:, None]
        error = (weights_FK * (rotated_FF @ weights_FK - 2.0 * held_FK)).sum()
        errors.append(float(error + held_counts_K.sum()))
    return strengths[min(range(len(errors)), key=errors.__getitem__)]


def solve_gram(gram_FF: Tensor, cross_FK: Tensor, strength: float) -> Tensor:
    """(G + lambda I)^-1 C, by Cholesky, or by eigenvalues where rounding made G indefinite.

    Args:
        gram_FF: (F, F) symmetric, positive semi-definite up to rounding.
        cross_FK: (F, K).
        strength: lambda > 0.

    Returns: (F, K).
    """
    shifted_FF = gram_FF.clone()
    shifted_FF.diagonal().add_(strength)
    factor_FF, failed = torch.linalg.cholesky_ex(shifted_FF)
    weights_FK: Tensor
    if not int(failed):
        weights_FK = torch.cholesky_solve(cross_FK, factor_FF)
        return weights_FK
    eigen_F, basis_FF = torch.linalg.eigh(gram_FF)
    shrunk_F = 1.0 / (eigen_F.clamp_min(0.0) + strength)
    weights_FK = basis_FF @ (shrunk_F[:, None] * (basis_FF.T @ cross_FK))
    return weights_FK
