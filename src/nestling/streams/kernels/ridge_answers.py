"""Ridge memories of a stream: random features, held solutions, examples that wait to be solved.

Axes: D inputs, U random units, P features of a memory, K classes, M examples that may wait,
S concept slots. The sums and the solutions are made in `experts.solving`.
"""

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.compiled import compiled
from nestling.streams.kernels.network import softmax_into
from nestling.streams.kernels.views import LARGEST

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# columns_U16 (-1: none), weights_U16, biases_U
SparseUnits = tuple[Ints, Floats, Floats]
# weights_UD, biases_U
DenseUnits = tuple[Floats, Floats]
# weights_KP, waiting_MP, targets_M, weights_M, temper_3 (ln tau, mean g^2, count),
# counts_2 (waiting, seen), by_class_K
Ridge = tuple[Floats, Floats, Floats, Floats, Floats, Ints, Floats]
# weights_SKP, waiting_SMP, targets_SM, weights_SM, counts_S3 (waiting, seen, when last
# in force), shares_S (the blank's last), state_2 (slots used, event at which the last opened),
# squares_S running squared errors
Slots = tuple[Floats, Floats, Floats, Floats, Ints, Floats, Ints, Floats]

LARGEST_LN_TAU = 3.5
LEAST_SCORE, LARGEST_SCORE = -1.0, 2.0
# Once a class has so many examples, a memory is solved anew at once.
TELLING_COUNTS = (4.0, 16.0)
SHARPNESS, BLUR = 8.0, 0.05
STAY, LEAK, BLANK = 0.989, 0.01, 0.001
LEAST_BETWEEN = 20
SURE_NOVEL = 0.9
# Of values: how fast a slot's squared error is followed, its floor, and how many squared
# deviations count at most.
SQUARES_RATE, LEAST_VARIANCE, MOST_SPREADS = 0.02, 0.01, 9.0


@compiled
def hash_weight(unit: int, code: int) -> float:
    """A number in +-sqrt(3), evenly spread, that only unit and code decide: its variance is 1."""
    mixed = np.uint64(unit) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(code + 1)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    unit_interval = float(mixed >> np.uint64(11)) * (1.0 / 9007199254740992.0)
    return 3.4641016151377544 * (unit_interval - 0.5)


@compiled
def write_sparse_units(
    units: SparseUnits,
    x_C: Floats,
    kinds_C: Ints,
    place_C: Ints,
    view_V: Floats,
    phi_U: Floats,
) -> None:
    """Write relu(2 w.z + b), each unit on at most 16 columns; a category's weight is hashed."""
    columns_UJ, weights_UJ, biases_U = units
    for u in range(phi_U.shape[0]):
        total = biases_U[u]
        for j in range(columns_UJ.shape[1]):
            c = columns_UJ[u, j]
            if c < 0:
                break
            if kinds_C[c] == 0:
                total += weights_UJ[u, j] * view_V[place_C[c]]
            elif x_C[c] >= 0.0:  # not NaN
                total += weights_UJ[u, j] * hash_weight(u * 65536 + c, int(x_C[c]))
        phi_U[u] = max(total, 0.0)


@compiled
def write_dense_units(units: DenseUnits, view_D: Floats, phi_U: Floats) -> None:
    """Write relu(2 w.z + b); the factor lies in the weights."""
    weights_UD, biases_U = units
    for u in range(phi_U.shape[0]):
        total = 0.0
        row = weights_UD[u]
        for d in range(view_D.shape[0]):
            total += row[d] * view_D[d]
        phi_U[u] = max(total + biases_U[u], 0.0)


@compiled
def answer_scores(weights_KP: Floats, phi_P: Floats, classify: bool, s_K: Floats) -> None:
    """Write the scores W phi, within [-1, 2] for classes and +-8 deviations for values."""
    least, largest = (LEAST_SCORE, LARGEST_SCORE) if classify else (-LARGEST, LARGEST)
    for k in range(s_K.shape[0]):
        total = 0.0
        row = weights_KP[k]
        for p in range(phi_P.shape[0]):
            total += row[p] * phi_P[p]
        s_K[k] = min(max(total, least), largest)


@compiled
def answer_ridge(ridge: Ridge, phi_P: Floats, classify: bool, s_K: Floats, p_K: Floats) -> None:
    """Write scores, and probabilities softmax(tau s) of classes."""
    answer_scores(ridge[0], phi_P, classify, s_K)
    if not classify:
        p_K[:] = s_K
        return
    tau = np.exp(ridge[4][0])
    for k in range(s_K.shape[0]):
        p_K[k] = tau * s_K[k]
    softmax_into(p_K, p_K)


@compiled
def move_temper(temper_3: Floats, s_K: Floats, p_K: Floats, label: int) -> None:
    """One step of ln tau up the log-likelihood, each step divided by the usual size of a slope."""
    slope = s_K[label]
    for k in range(s_K.shape[0]):
        slope -= p_K[k] * s_K[k]
    temper_3[1] = 0.99 * temper_3[1] + 0.01 * slope * slope
    rate = 0.3 * max(0.01, 0.3 / np.sqrt(temper_3[2] + 10.0))
    moved = temper_3[0] + rate * slope / np.sqrt(temper_3[1] + 0.1)
    temper_3[0] = min(max(moved, 0.0), LARGEST_LN_TAU)
    temper_3[2] += 1.0


@compiled
def is_due(num_waiting: int, num_seen: int, most_waiting: int) -> bool:
    """Whether a memory is to be solved: early often, later each `most_waiting` examples."""
    return num_waiting >= min(most_waiting, max(1, num_seen // 8))


@compiled
def learn_ridge(
    ridge: Ridge,
    phi_P: Floats,
    s_K: Floats,
    p_K: Floats,
    target: float,
    weight: float,
    classify: bool,
) -> bool:
    """Let an example wait to be solved, and move the temperature; whether a solution is due.

    Args:
        ridge: the memory.
        phi_P: features of the example.
        s_K, p_K: what the memory answered to it.
        target: its class, or its value.
        weight: how often it counts.
        classify: whether targets are classes.
    """
    _, waiting_MP, targets_M, weights_M, temper_3, counts_2, by_class_K = ridge
    m = counts_2[0]
    waiting_MP[m, :] = phi_P
    targets_M[m], weights_M[m] = target, weight
    counts_2[0] += 1
    counts_2[1] += 1
    if classify:
        label = int(target)
        move_temper(temper_3, s_K, p_K, label)
        before = by_class_K[label]
        by_class_K[label] += 1.0
        for telling in TELLING_COUNTS:
            if before < telling <= by_class_K[label]:
                return True
    return is_due(counts_2[0], counts_2[1], waiting_MP.shape[0])


@compiled
def answer_slots(
    slots: Slots,
    phi_P: Floats,
    classify: bool,
    scores_SK: Floats,
    p_SK: Floats,
    mixed_K: Floats,
) -> None:
    """Write what each slot answers, and the mean by their shares.

    Of classes .95 softmax(8 s) + .05 / K; the last share is the blank's, which knows nothing: 1/K,
    or the mean value 0.
    """
    weights_SKP, shares_S, state_2 = slots[0], slots[5], slots[6]
    num_slots, num_classes = weights_SKP.shape[0], mixed_K.shape[0]
    mixed_K[:] = shares_S[num_slots] / num_classes if classify else 0.0
    for s in range(state_2[0]):
        answer_scores(weights_SKP[s], phi_P, classify, scores_SK[s])
        if classify:
            for k in range(num_classes):
                p_SK[s, k] = SHARPNESS * scores_SK[s, k]
            softmax_into(p_SK[s], p_SK[s])
            for k in range(num_classes):
                p_SK[s, k] = (1.0 - BLUR) * p_SK[s, k] + BLUR / num_classes
        else:
            p_SK[s, 0] = scores_SK[s, 0]
        for k in range(num_classes):
            mixed_K[k] += shares_S[s] * p_SK[s, k]


@compiled
def _root_density(error: float, variance: float) -> float:
    """Square root of a normal density, up to a factor that all share."""
    spreads = min(error * error / variance, MOST_SPREADS)
    return float(np.exp(-0.25 * spreads) * variance**-0.25)


@compiled
def _weigh_slots(slots: Slots, p_SK: Floats, target: float, classify: bool) -> None:
    """r_c ~ pi_c p_c(y)^.5; of values a normal density of each slot's running squared error."""
    counts_S3, shares_S, state_2, squares_S = slots[4], slots[5], slots[6], slots[7]
    num_slots = shares_S.shape[0] - 1
    for s in range(state_2[0]):
        if classify:
            shares_S[s] *= np.sqrt(p_SK[s, int(target)])
        else:
            error = target - p_SK[s, 0]
            variance = max(squares_S[s] if counts_S3[s, 1] > 8 else 1.0, LEAST_VARIANCE)
            shares_S[s] *= _root_density(error, variance)
    blank = np.sqrt(1.0 / p_SK.shape[1]) if classify else _root_density(target, 1.0)
    shares_S[num_slots] *= blank
    shares_S /= shares_S.sum()


@compiled
def learn_slots(
    slots: Slots,
    phi_P: Floats,
    p_SK: Floats,
    target: float,
    weight: float,
    now: int,
    classify: bool,
) -> int:
    """Update which concept is in force; only the most probable slot learns.

    Filter: r_c ~ pi_c p_c(y)^.5, pi_c <- .989 r_c + .01 / n, blank <- .989 r + .001. Where the
    blank wins with r > .9 and 20 events have passed, a new slot takes its share.

    Args:
        slots: the concepts.
        phi_P: features of the example.
        p_SK: what the slots answered to it.
        target: its class, or its value.
        weight: how often it counts.
        now: number of the event.
        classify: whether targets are classes.

    Returns:
        2 s + opened, where s is the slot whose solution is due; -1 - opened where none is.
    """
    _, waiting_SMP, targets_SM, weights_SM, counts_S3, shares_S, state_2, squares_S = slots
    num_slots = waiting_SMP.shape[0]
    used = state_2[0]
    _weigh_slots(slots, p_SK, target, classify)
    best = np.argmax(shares_S[:used]) if used else 0
    opened = 0
    blank = shares_S[num_slots]
    if used == 0 or (blank > SURE_NOVEL and now - state_2[1] >= LEAST_BETWEEN):
        opened = 1
        if used < num_slots:
            best = used
            state_2[0] += 1
            used += 1
        else:
            best = np.argmin(counts_S3[:, 2])
        slots[0][best] = 0.0
        counts_S3[best, :2] = 0
        squares_S[best] = 1.0
        shares_S[best] = blank
        shares_S[num_slots] = 0.0
        state_2[1] = now
    for s in range(used):
        shares_S[s] = STAY * shares_S[s] + LEAK / used
    shares_S[num_slots] = STAY * shares_S[num_slots] + BLANK
    if not classify and not opened:
        error = target - p_SK[best, 0]
        squares_S[best] += SQUARES_RATE * (error * error - squares_S[best])
    counts_S3[best, 2] = now
    m = counts_S3[best, 0]
    waiting_SMP[best, m, :] = phi_P
    targets_SM[best, m], weights_SM[best, m] = target, weight
    counts_S3[best, 0] += 1
    counts_S3[best, 1] += 1
    if is_due(counts_S3[best, 0], counts_S3[best, 1], waiting_SMP.shape[1]):
        return 2 * int(best) + opened
    return -1 - opened
