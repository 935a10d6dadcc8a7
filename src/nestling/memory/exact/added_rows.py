"""Rows that came after a matrix was factored: what the Woodbury identity needs of them.

Letters: D features, N new rows, P rows so far, M columns of errors or of probes.
"""

import copy

import torch
from torch import Tensor


class AddedRows:
    """Rows v_1..v_P beside a factor A = U^T U, grown at a cost that does not touch A.

    (A + V^T V)^-1 = A^-1 - A^-1 V^T (I + V A^-1 V^T)^-1 V A^-1    [Woodbury 1950]

    Args:
        width: D.

    >>> rows = AddedRows(1)  # A = 4, so that U = 2; then a row 3
    >>> three = torch.tensor([[3.0]], dtype=torch.float64)
    >>> rows.add(three / 2.0, three / 4.0)
    >>> inverse = 1.0 / 4.0 - rows.whiten(rows.whole).square().sum()
    >>> round(float(inverse), 6) == round(1.0 / (4.0 + 9.0), 6)
    True
    """

    def __init__(self, width: int) -> None:
        self.num = 0
        self._half_PD = torch.zeros(0, width, dtype=torch.float64, device="cpu")
        self._whole_PD = torch.zeros(0, width, dtype=torch.float64, device="cpu")
        self._core_PP = torch.zeros(0, 0, dtype=torch.float64, device="cpu")
        self._lower_PP: Tensor | None = None

    @property
    def half(self) -> Tensor:
        """V U^-1, (P, D)."""
        return self._half_PD[: self.num]

    @property
    def whole(self) -> Tensor:
        """V A^-1, (P, D)."""
        return self._whole_PD[: self.num]

    def add(self, half_ND: Tensor, whole_ND: Tensor) -> None:
        """Append rows.

        Args:
            half_ND: (N, D), rows U^-1.
            whole_ND: (N, D), rows A^-1.
        """
        before, num = self.num, self.num + len(half_ND)
        self._half_PD = _put(self._half_PD, before, half_ND)
        self._whole_PD = _put(self._whole_PD, before, whole_ND)
        beside_NP = half_ND @ self._half_PD[:num].T
        core_PP = torch.eye(num, dtype=torch.float64, device="cpu")
        core_PP[:before, :before] = self._core_PP
        core_PP[before:, :before] = beside_NP[:, :before]
        core_PP[:before, before:] = beside_NP[:, :before].T
        core_PP[before:, before:] += beside_NP[:, before:]
        self._core_PP, self._lower_PP, self.num = core_PP, None, num

    def hold_still(self) -> "AddedRows":
        """These rows as they are, whatever is added later: no row that is there is ever written to
        again, so nothing is copied."""
        if self.num:
            self._find_lower()
        return copy.copy(self)

    def whiten(self, columns_PM: Tensor) -> Tensor:
        """L^-1 of columns, L L^T = I + V A^-1 V^T: (P, M)."""
        white_PM: Tensor = torch.linalg.solve_triangular(
            self._find_lower(), columns_PM, upper=False
        )
        return white_PM

    def solve(self, columns_PM: Tensor) -> Tensor:
        """(I + V A^-1 V^T)^-1 of columns: (P, M)."""
        return torch.cholesky_solve(columns_PM, self._find_lower())

    def _find_lower(self) -> Tensor:
        if self._lower_PP is None:
            self._lower_PP = torch.linalg.cholesky(self._core_PP)
        return self._lower_PP


def _put(room_RD: Tensor, start: int, rows_ND: Tensor) -> Tensor:
    """Rows written behind the first `start` of the room, which doubles if it is too small."""
    stop = start + len(rows_ND)
    if stop > len(room_RD):
        larger_RD = room_RD.new_empty(max(stop, 2 * len(room_RD)), room_RD.shape[1])
        larger_RD[:start] = room_RD[:start]
        room_RD = larger_RD
    room_RD[start:stop] = rows_ND
    return room_RD
