"""Rules by which rows of one source are held: pure functions of what was heard before.

Axis letters: N rows, D features, K classes.
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from nestling.core.batches import IGNORE_INDEX, match_values, move_classes


def measure_distances(x_ND: Tensor, centre_D: Tensor) -> Tensor:
    """||x - centre|| of each row, (N,)."""
    distance_N: Tensor = torch.linalg.vector_norm(x_ND - centre_D, dim=1)
    return distance_N


def find_far_rows(distances: Sequence[float], median: float, norm: float) -> list[bool]:
    """Which rows lie too far out: ||x - centre|| > norm x the median distance.

    Args:
        distances: of N rows from the robust centre of the rows before.
        median: of the distances of the rows before; 0 judges nothing.
        norm: times.

    >>> find_far_rows([1.0, 9.0], 1.0, 4.0)
    [False, True]
    """
    limit = norm * median if median > 0.0 else math.inf
    return [distance > limit for distance in distances]


def move_centre(
    centre_D: Tensor, x_ND: Tensor, distances: Sequence[float], median: float, rate: float
) -> Tensor:
    """Running robust centre: towards the rows, each by the median distance at most.

    c <- c + rate mean_n min(1, median / ||x_n - c||) (x_n - c)   [Huber 1964, as one step]

    Args:
        centre_D: c.
        x_ND: rows that were admitted.
        distances: ||x_n - c||, of the N rows.
        median: of the distances; 0 for no limit.
        rate: in [0, 1].

    >>> x = torch.tensor([[1.0], [9.0]])
    >>> move_centre(torch.zeros(1), x, [1.0, 9.0], median=1.0, rate=0.5)
    tensor([0.5000])
    """
    most = rate / len(distances)
    weights = [
        most if median <= 0.0 or distance <= median else most * median / distance
        for distance in distances
    ]
    weight_N = torch.tensor(weights, dtype=x_ND.dtype, device=x_ND.device)
    return torch.addmv(centre_D, x_ND.T, weight_N, beta=1.0 - sum(weights))


def find_surplus(
    sources: Sequence[Hashable],
    last: Sequence[Hashable],
    counts: Mapping[Hashable, int],
    rate: float,
    window: int,
) -> list[bool]:
    """Which rows are more than one source may have of the last `window` rows.

    A source may have `rate` of them, but always twice its even share, so that few sources, and
    those that come one after the other, are heard.

    Args:
        sources: of the rows, in their order.
        last: sources of the rows in the window, the oldest first.
        counts: source -> its rows in the window.
        rate: in (0, 1].
        window: rows.

    >>> last = ["b", "a", "a", "c", "d"]
    >>> find_surplus(["a", "b", "a"], last, {"a": 2, "b": 1, "c": 1, "d": 1}, rate=0.2, window=5)
    [True, False, False]
    """
    fresh = Counter(sources)
    num_most = len(counts) + len(fresh)
    cap = max(rate, 2.0 / num_most) * window
    if all(counts.get(source, 0) + num <= cap for source, num in fresh.items()):
        return [False] * len(sources)
    seen, entered = dict(counts), list[Hashable]()
    found = []
    for source in sources:
        place = len(last) + len(entered) - window
        oldest = None
        if place >= 0:
            oldest = last[place] if place < len(last) else entered[place - len(last)]
        count = seen.get(source, 0) + (source != oldest)
        num_sources = len(seen) + (source not in seen)
        is_surplus = count > max(rate, 2.0 / num_sources) * window
        found.append(is_surplus)
        if is_surplus:
            continue
        entered.append(source)
        seen[source] = seen.get(source, 0) + 1
        if oldest is not None:
            seen[oldest] -= 1
            if not seen[oldest]:
                del seen[oldest]
    return found


def wilson_low(share: float, num: float, z: float) -> float:
    """Lower bound of a share, one-sided   [Wilson 1927].

    Args:
        share: observed, in [0, 1].
        num: rows that it was observed on, > 0.
        z: standard deviations; 3 is missed by chance 1 time in 741.

    >>> round(wilson_low(0.9, 50, 3.0), 2)
    0.71
    """
    middle = share + z * z / (2.0 * num)
    spread = z * math.sqrt(share * (1.0 - share) / num + z * z / (4.0 * num * num))
    return (middle - spread) / (1.0 + z * z / num)


def find_disagreement(
    errors: float, expected: float, num: float, least: int, margin: float, z: float
) -> bool:
    """Whether a source disagrees with the answers far more than the others did meanwhile.

    Its share of errors must be above theirs by `margin`, beyond what chance explains.

    Args:
        errors: of its rows, before they were learned, added up.
        expected: what the others' share of errors at those moments adds up to.
        num: its rows.
        least: rows before it is judged.
        margin: of the share of errors.
        z: see `wilson_low`.

    >>> find_disagreement(45.0, 10.0, 50, 50, 0.2, 3.0)
    True
    >>> find_disagreement(20.0, 10.0, 50, 50, 0.2, 3.0)
    False
    """
    if num < least or errors <= expected + margin * num:
        return False
    return wilson_low(min(errors / num, 1.0), num, z) > expected / num + margin


def measure_row_errors(output: Tensor, target: Tensor) -> Tensor:
    """How wrong each answer is: the share of wrong classes, or the mean absolute residual.

    Args:
        output: logits or probabilities (N, K), (N, T, K), (N, K, H, W); or values.
        target: classes (N,), (N, T), (N, H, W), -100 ignored; or values.

    Returns: (N,), on the CPU.

    >>> measure_row_errors(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    tensor([0., 1.])
    """
    output, target = output.detach().cpu(), target.detach().cpu()
    if target.is_floating_point():
        residual = (output - match_values(output, target)).abs()
        return residual.reshape(len(residual), -1).mean(dim=1)
    wrong = move_classes(output, target).argmax(dim=1) != target
    counts = target != IGNORE_INDEX
    wrong, counts = (wrong & counts).reshape(len(target), -1), counts.reshape(len(target), -1)
    return wrong.sum(dim=1) / counts.sum(dim=1).clamp(min=1)
