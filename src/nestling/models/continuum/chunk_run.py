"""Many windows of chunked writes in a row: forwards, and their gradients written out.

Axes: B samples, R windows, N tokens of a window, H width of a key, D width of a target.
Autograd would spend more time on slices than on products; whatever does not wait for the window
before is done for all windows at once.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def run_windows(
    keys_BTH: Tensor,
    targets_BTD: Tensor,
    rates_BT1: Tensor,
    initial_DH: Tensor,
    in_force_BDH: Tensor | None,
    num_windows: int,
    chunk: int,
    *,
    first_order: bool,
    keep_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """Outputs of equal windows of whole chunks, and what is in force after them.

    With E = (I + A)^-1 (P - V), P what the weights before a window read of it, and A the masked
    products of `mask_earlier_chunks`: outputs V + E, then W <- W - E^T diag(eta) K.

    Args:
        keys_BTH: (B, R N, H).
        targets_BTD: (B, R N, D).
        rates_BT1: (B, R N, 1).
        initial_DH: (D, H) initial weights.
        in_force_BDH: added to the initial weights when the run begins; None for zeros.
        num_windows: R, which divides the tokens into windows of whole chunks.
        chunk: C.
        first_order: hold states and written keys constant in the gradient.
        keep_state: whether the last window's writes are asked for.

    Returns: (B, R N, D) outputs, differentiable once; (B, D, H) what is in force, or None.
    """
    found: tuple[Tensor, Tensor | None] = _WindowRun.apply(  # type: ignore[no-untyped-call]
        keys_BTH,
        targets_BTD,
        rates_BT1,
        initial_DH,
        in_force_BDH,
        num_windows,
        chunk,
        first_order,
        keep_state,
    )
    return found


def mask_earlier_chunks(size: int, chunk: int, like: Tensor) -> Tensor:
    """(N, N) of ones where the column's token lies in a chunk before the row's, else zeros.

    >>> mask_earlier_chunks(3, 2, torch.zeros(1)).tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    """
    chunks_N = torch.arange(size, device=like.device) // chunk
    return (chunks_N[:, None] > chunks_N[None, :]).to(like.dtype)


class _WindowRun(torch.autograd.Function):
    """Equal windows of chunked writes, differentiable once."""

    @staticmethod
    def forward(
        ctx: Any,
        keys_BTH: Tensor,
        targets_BTD: Tensor,
        rates_BT1: Tensor,
        initial_DH: Tensor,
        in_force_BDH: Tensor | None,
        num_windows: int,
        chunk: int,
        first_order: bool,
        keep_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        keys_BRNH = keys_BTH.unflatten(1, (num_windows, -1))
        rates_BRN1 = rates_BT1.unflatten(1, (num_windows, -1))
        errors_BTD = torch.addmm(
            targets_BTD.flatten(0, 1), keys_BTH.flatten(0, 1), initial_DH.mT, beta=-1
        ).unflatten(0, keys_BTH.shape[:2])
        errors_BRND = errors_BTD.unflatten(1, (num_windows, -1))
        size = keys_BRNH.shape[2]
        gram_BRNN = inverse_BRNN = None
        if size > chunk:  # something comes into force within a window
            gram_BRNN = (keys_BRNH @ keys_BRNH.mT).mul_(mask_earlier_chunks(size, chunk, keys_BTH))
            one_NN = torch.eye(size, dtype=keys_BTH.dtype, device=keys_BTH.device)
            inverse_BRNN = torch.linalg.solve_triangular(
                gram_BRNN * rates_BRN1.mT,
                one_NN.expand_as(gram_BRNN),
                upper=False,
                unitriangular=True,
            )
        starts: list[Tensor | None] = []
        for index in range(num_windows):
            starts.append(in_force_BDH)
            keys_BNH, errors_BND = keys_BRNH[:, index], errors_BRND[:, index]
            if in_force_BDH is not None:
                errors_BND.baddbmm_(keys_BNH, in_force_BDH.mT)
            if inverse_BRNN is not None:
                errors_BND.copy_(inverse_BRNN[:, index] @ errors_BND)
            if index + 1 == num_windows and not keep_state:
                in_force_BDH = None
                continue
            writes_BDN = (errors_BND * rates_BRN1[:, index]).mT
            if in_force_BDH is None:
                in_force_BDH = (writes_BDN @ keys_BNH).neg_()
            else:
                in_force_BDH = torch.baddbmm(in_force_BDH, writes_BDN, keys_BNH, alpha=-1)
        ctx.save_for_backward(
            keys_BTH, rates_BT1, initial_DH, errors_BTD, gram_BRNN, inverse_BRNN, *starts
        )
        ctx.plan = (num_windows, chunk, first_order)
        return errors_BTD + targets_BTD, in_force_BDH

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_outputs_BTD: Tensor | None, of_force_BDH: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        num_windows, chunk, first_order = ctx.plan
        keys_BTH, rates_BT1, initial_DH, errors_BTD, gram_BRNN, inverse_BRNN, *starts = (
            ctx.saved_tensors
        )
        if of_force_BDH is not None:
            of_force_BDH = of_force_BDH.clone()  # it is added to, and others may hold it
        if of_outputs_BTD is None:
            of_outputs_BTD = torch.zeros_like(errors_BTD)
        saved = (
            keys_BTH.unflatten(1, (num_windows, -1)),
            rates_BT1.unflatten(1, (num_windows, -1)),
            initial_DH,
            errors_BTD.unflatten(1, (num_windows, -1)),
            gram_BRNN,
            starts,
        )
        of_outputs_BRND = of_outputs_BTD.unflatten(1, (num_windows, -1))
        if first_order:
            grads = _go_back_first_order(*saved, of_outputs_BRND, of_force_BDH, chunk)
        else:
            grads = _go_back_fully(*saved, inverse_BRNN, of_outputs_BRND, of_force_BDH, chunk)
        of_keys, of_targets, of_rates, of_reads_BRND, of_force_BDH = grads
        of_initial_DH = of_reads_BRND.flatten(0, 2).mT @ keys_BTH.flatten(0, 1)
        return (
            of_keys.flatten(1, 2),
            of_targets.flatten(1, 2),
            of_rates.flatten(1, 2),
            of_initial_DH,
            of_force_BDH,
            None,
            None,
            None,
            None,
        )


def _go_back_first_order(
    keys_BRNH: Tensor,
    rates_BRN1: Tensor,
    initial_DH: Tensor,
    errors_BRND: Tensor,
    gram_BRNN: Tensor | None,
    starts: list[Tensor | None],
    of_outputs_BRND: Tensor,
    of_force_BDH: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of keys, targets, rates, reads and the first state; states held constant.

    o = P - A e with e = stop(o) - v, and A made of read keys and constant written keys.
    """
    of_keys_BRNH = of_outputs_BRND @ initial_DH
    if gram_BRNN is None:
        of_writes_BRND = torch.empty_like(errors_BRND)  # with the other sign, here and below
    else:
        mask_NN = mask_earlier_chunks(keys_BRNH.shape[2], chunk, keys_BRNH)
        of_links_BRNN = of_outputs_BRND @ errors_BRND.mT
        of_links_BRNN.mul_(rates_BRN1.mT * mask_NN)
        of_keys_BRNH.flatten(0, 1).baddbmm_(
            of_links_BRNN.flatten(0, 1), keys_BRNH.flatten(0, 1), alpha=-1
        )
        of_writes_BRND = gram_BRNN.mT @ of_outputs_BRND
    for index in reversed(range(len(starts))):
        keys_BNH, of_output_BND = keys_BRNH[:, index], of_outputs_BRND[:, index]
        if of_force_BDH is not None:
            # beta = 0: what stands there is not read.
            beta = 0 if gram_BRNN is None else 1
            of_writes_BRND[:, index].baddbmm_(keys_BNH, of_force_BDH.mT, beta=beta)
        elif gram_BRNN is None:  # nobody reads what the last window writes
            of_writes_BRND[:, index] = 0
        of_force_BDH = _pass_through_read(
            keys_BNH, of_output_BND, starts[index], of_force_BDH, of_keys_BRNH[:, index]
        )
    of_rates_BRN1 = _dot(errors_BRND, of_writes_BRND).neg_()
    of_targets_BRND = of_writes_BRND.mul_(rates_BRN1)
    return of_keys_BRNH, of_targets_BRND, of_rates_BRN1, of_outputs_BRND, of_force_BDH


def _go_back_fully(
    keys_BRNH: Tensor,
    rates_BRN1: Tensor,
    initial_DH: Tensor,
    errors_BRND: Tensor,
    gram_BRNN: Tensor | None,
    starts: list[Tensor | None],
    inverse_BRNN: Tensor | None,
    of_outputs_BRND: Tensor,
    of_force_BDH: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of keys, targets, rates, reads and the first state, through all writes."""
    of_reads_BRND = torch.empty_like(errors_BRND)
    of_keys_BRNH = torch.zeros_like(keys_BRNH)
    of_rates_BRN1 = torch.zeros_like(rates_BRN1)
    for index in reversed(range(len(starts))):
        keys_BNH, rates_BN1 = keys_BRNH[:, index], rates_BRN1[:, index]
        of_read_BND = of_outputs_BRND[:, index]
        if of_force_BDH is not None:
            errors_BND = errors_BRND[:, index]
            of_writes_BND = keys_BNH @ of_force_BDH.mT  # with the other sign
            of_rates_BRN1[:, index] = -_dot(errors_BND, of_writes_BND)
            of_keys_BRNH[:, index].baddbmm_(errors_BND * rates_BN1, of_force_BDH, alpha=-1)
            of_read_BND = torch.addcmul(of_read_BND, rates_BN1, of_writes_BND, value=-1)
        if inverse_BRNN is not None:
            of_read_BND = inverse_BRNN[:, index].mT @ of_read_BND
        of_reads_BRND[:, index] = of_read_BND
        of_force_BDH = _pass_through_read(
            keys_BNH, of_read_BND, starts[index], of_force_BDH, of_keys_BRNH[:, index]
        )
    of_keys_BRNH += of_reads_BRND @ initial_DH
    if gram_BRNN is not None:
        mask_NN = mask_earlier_chunks(keys_BRNH.shape[2], chunk, keys_BRNH)
        of_links_BRNN = (of_reads_BRND @ errors_BRND.mT).mul_(mask_NN)
        of_rates_BRN1 -= (of_links_BRNN * gram_BRNN).sum(-2).unsqueeze(-1)
        of_links_BRNN *= rates_BRN1.mT
        of_keys_BRNH -= (of_links_BRNN + of_links_BRNN.mT) @ keys_BRNH
    of_targets_BRND = of_outputs_BRND - of_reads_BRND
    return of_keys_BRNH, of_targets_BRND, of_rates_BRN1, of_reads_BRND, of_force_BDH


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Products of last axes, which stay as axes of one."""
    return (one * other).sum(-1, keepdim=True)


def _pass_through_read(
    keys_BNH: Tensor,
    of_read_BND: Tensor,
    start_BDH: Tensor | None,
    of_force_BDH: Tensor | None,
    of_keys_BNH: Tensor,
) -> Tensor | None:
    """Gradient of the state before a window; it and what reads owe to keys are added in place."""
    if start_BDH is None:
        return None
    of_keys_BNH.baddbmm_(of_read_BND, start_BDH)
    if of_force_BDH is None:
        return of_read_BND.mT @ keys_BNH
    return of_force_BDH.baddbmm_(of_read_BND.mT, keys_BNH)
