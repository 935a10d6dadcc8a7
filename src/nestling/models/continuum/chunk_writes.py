"""Exact writes of a linear memory in chunks, by triangular solves (WY form), and their gradients.

Axes: B samples, T tokens, N tokens of one window, H width of a key, D width of a target.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nestling.models.continuum.chunk_run import mask_earlier_chunks, run_windows
from nestling.models.continuum.chunk_windows import Window, WriteClock, plan_windows

GradientMode = Literal["full", "first"]


class Written(NamedTuple):
    """What one level has written in the current sequences, per sample; None stands for zero.

    Args:
        in_force: (B, D, H) what has been added to the initial weights and is read now.
        waiting: (B, D, H) writes of the chunk that is under way, not yet in force.
        start: (B, D, H) what the context that is under way began from, over the initial weights;
            only a level whose start is consolidated has it.
    """

    in_force: Tensor | None = None
    waiting: Tensor | None = None
    start: Tensor | None = None


def write_chunks(
    keys_BTH: Tensor,
    targets_BTD: Tensor,
    rates_BT: Tensor,
    initial_DH: Tensor,
    written: Written,
    clock: WriteClock,
    *,
    position: int = 0,
    consolidation: Tensor | None = None,
    gradient: GradientMode = "full",
    keep_state: bool = True,
) -> tuple[Tensor, Written]:
    """Read and write a linear associative memory whose updates come into force chunk by chunk.

    o_t = W_t k_t with W_t = W_0 - sum over s in chunks before t's of eta_s (o_s - v_s) k_s^T
    [NL, eq. 71, with the gradient of |W k_s - v_s|^2 / 2 at the weights in force, summed]

    Within a window of several chunks the errors e_s = o_s - v_s solve (I + A) e = W k - v, with
    A_ts = eta_s k_t.k_s where s lies in a chunk before t's, else 0. `write_chunks_slowly` is the
    definition. With keys of norm 1 and rates of at most 2 / C no update grows without bound.

    Args:
        keys_BTH: (B, T, H), norm 1 or 0.
        targets_BTD: (B, T, D) v.
        rates_BT: (B, T) eta, in [0, 2 / C].
        initial_DH: (D, H) W_0, shared by the samples; differentiated.
        written: what the samples have written before; its tensors are not changed.
        clock: when updates come into force and when the level is reset.
        position: tokens read before, the same for all samples.
        consolidation: scalar () in [0, 1]: how far a start moves to where its context ended; None
            for resets to W_0 itself.
        gradient: "full" differentiates through all writes; "first" holds the state and the keys
            that a write is made of constant (no second derivatives), so that the initial state
            learns as if its writes were constants, and targets and rates learn all the same.
        keep_state: False where nobody reads on: writes that come into force after the last token
            are not made, and nothing is returned as written.

    Returns: (B, T, D) o, and what is written now.
    """
    if not keys_BTH.shape[1]:
        return targets_BTD, written
    runs = _split_runs(plan_windows(clock, position, keys_BTH.shape[1]))
    sizes = [sum(window.size for window in run) for run in runs]
    # Split once: the gradients of many slices would each fill a tensor of full length.
    pieces = zip(
        runs,
        _split(keys_BTH, sizes),
        _split(targets_BTD, sizes),
        _split(rates_BT.unsqueeze(-1), sizes),
        strict=True,
    )
    in_force_BDH, waiting_BDH, start_BDH = written
    outputs = []
    for index, (run, keys_BNH, targets_BND, rates_BN1) in enumerate(pieces):
        keep = keep_state or index + 1 < len(runs)
        if len(run) > 1:
            output_BND, in_force_BDH = run_windows(
                keys_BNH,
                targets_BND,
                rates_BN1,
                initial_DH,
                in_force_BDH,
                len(run),
                clock.chunk,
                first_order=gradient == "first",
                keep_state=keep,
            )
        else:
            output_BND, in_force_BDH, waiting_BDH = _run_window(
                keys_BNH,
                targets_BND,
                rates_BN1,
                initial_DH,
                in_force_BDH,
                waiting_BDH,
                run[0],
                clock.chunk,
                gradient,
                keep,
            )
        outputs.append(output_BND)
        # Cut before a start moves, so that how far it moves is learned all the same.
        if run[-1].ends_cut and in_force_BDH is not None:
            in_force_BDH = in_force_BDH.detach()
            start_BDH = None if start_BDH is None else start_BDH.detach()
        if run[-1].ends_context:
            in_force_BDH = start_BDH = _restart(in_force_BDH, start_BDH, consolidation)
    output_BTD = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
    return output_BTD, Written(in_force_BDH, waiting_BDH, start_BDH) if keep_state else Written()


def _split(tensor: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """Pieces along the tokens."""
    if len(sizes) == 1:
        return (tensor,)
    return torch.split(tensor, sizes, 1)


def _split_runs(windows: Sequence[Window]) -> list[list[Window]]:
    """Windows in runs: equal ones of whole chunks without a reset between them; others alone."""
    runs: list[list[Window]] = []
    for window in windows:
        last = runs[-1][-1] if runs else None
        if (
            last is not None
            and last.size == last.complete == window.size == window.complete
            and not (last.ends_context or last.ends_cut)
            and not last.begun
        ):
            runs[-1].append(window)
        else:
            runs.append([window])
    return runs


def _run_window(
    keys_BNH: Tensor,
    targets_BND: Tensor,
    rates_BN1: Tensor,
    initial_DH: Tensor,
    in_force_BDH: Tensor | None,
    waiting_BDH: Tensor | None,
    window: Window,
    chunk: int,
    gradient: GradientMode,
    keep_state: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Outputs of one window of any kind, what is in force and what waits after it."""
    read_BND = functional.linear(keys_BNH, initial_DH)
    if in_force_BDH is not None:
        read_BND = torch.baddbmm(read_BND, keys_BNH, in_force_BDH.mT)
    if not keep_state and window.size <= chunk:  # nobody will read what is written
        return read_BND, None, None
    solve = _solve_fully if gradient == "full" else _solve_first_order
    output_BND, writes_BND = solve(keys_BNH, targets_BND, rates_BN1, read_BND, chunk)
    if not keep_state:
        return output_BND, None, None
    if gradient == "first":
        keys_BNH = keys_BNH.detach()
    done = window.complete
    if not done:
        return output_BND, in_force_BDH, _add_writes(waiting_BDH, writes_BND, keys_BNH)
    if waiting_BDH is not None:
        in_force_BDH = waiting_BDH if in_force_BDH is None else in_force_BDH + waiting_BDH
    in_force_BDH = _add_writes(in_force_BDH, writes_BND[:, :done], keys_BNH[:, :done])
    waiting_BDH = (
        None if done == window.size else _add_writes(None, writes_BND[:, done:], keys_BNH[:, done:])
    )
    return output_BND, in_force_BDH, waiting_BDH


def _solve_fully(
    keys_BNH: Tensor, targets_BND: Tensor, rates_BN1: Tensor, read_BND: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Outputs o and writes eta (o - v) of a window, given what the weights before it read."""
    first_errors_BND = read_BND - targets_BND
    if keys_BNH.shape[1] <= chunk:  # nothing comes into force within the window
        return read_BND, rates_BN1 * first_errors_BND
    mask_NN = mask_earlier_chunks(keys_BNH.shape[1], chunk, keys_BNH)
    # The diagonal is zero, and taken for ones.
    links_BNN = keys_BNH @ (rates_BN1 * keys_BNH).mT * mask_NN
    errors_BND = torch.linalg.solve_triangular(
        links_BNN, first_errors_BND, upper=False, unitriangular=True
    )
    return targets_BND + errors_BND, rates_BN1 * errors_BND


def _solve_first_order(
    keys_BNH: Tensor, targets_BND: Tensor, rates_BN1: Tensor, read_BND: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """As `_solve_fully`, with outputs and keys held constant wherever a write is made of them."""
    fixed_keys_BNH = keys_BNH.detach()
    fixed_BND, _ = _solve_fully(
        fixed_keys_BNH, targets_BND.detach(), rates_BN1.detach(), read_BND.detach(), chunk
    )
    writes_BND = rates_BN1 * (fixed_BND - targets_BND)
    if keys_BNH.shape[1] <= chunk:
        return read_BND, writes_BND
    mask_NN = mask_earlier_chunks(keys_BNH.shape[1], chunk, keys_BNH)
    links_BNN = keys_BNH @ fixed_keys_BNH.mT * mask_NN
    return torch.baddbmm(read_BND, links_BNN, writes_BND, alpha=-1), writes_BND


def _add_writes(state_BDH: Tensor | None, writes_BND: Tensor, keys_BNH: Tensor) -> Tensor:
    """State minus the sum of writes times keys."""
    if state_BDH is None:
        return (-writes_BND).mT @ keys_BNH
    return torch.baddbmm(state_BDH, writes_BND.mT, keys_BNH, alpha=-1)


def _restart(
    in_force_BDH: Tensor | None, start_BDH: Tensor | None, consolidation: Tensor | None
) -> Tensor | None:
    """Where the next context starts: the old start, moved towards the end of the old context."""
    if consolidation is None or in_force_BDH is None:
        return None
    if start_BDH is None:
        return consolidation * in_force_BDH
    return torch.lerp(start_BDH, in_force_BDH, consolidation)
