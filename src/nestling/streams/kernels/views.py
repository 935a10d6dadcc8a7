"""Views of an event: where its values stand in the whole stream, in the recent past, among labels.

Axes: C columns, N of them numeric, D inputs (numeric columns and one-hots), K classes,
V = D + N + 3 K.
"""

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.addresses import array_1, array_2
from nestling.streams.kernels.compiled import compiled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# count_C, mean_C, squares_C, recent_C, last_1 (a hash), kinds_C, place_C, rank_C, hot_CG
Scaling = tuple[Floats, Floats, Floats, Floats, Ints, Ints, Ints, Ints, Ints]
# averages_JK of labels by half-life, weights_J they sum to, last_K the last label
TargetPast = tuple[Floats, Floats, Floats]

# What is to be done with an event: view it, have all experts answer, mix what they say; let its
# values move what later ones are viewed by, and its target; let the experts learn, the gate hear.
VIEW, ANSWER, MIX, TAKE_IN, TARGET, LEARN, HEAR = 1, 2, 4, 8, 16, 32, 64
# Beyond this many events the scaling forgets, so that a drift of many years is followed.
MOST_COUNTED = 100_000.0
LARGEST = 8.0
# Larger values are taken for this one: the sum of their squares would not be finite.
LARGEST_VALUE = 1e140
# Share by which the recent past moves: half-life 20.
RECENT = 1.0 - 2.0 ** (-1.0 / 20.0)
# Half-lives of the averages of targets: the first two are views, the last is an expert's.
TARGET_HALF_LIVES = (8.0, 64.0, 20.0)


@compiled
def is_spread(variance: float, mean: float) -> bool:
    """Whether values vary: a smaller spread beside their mean is rounding."""
    return variance > 1e-26 * mean * mean + 1e-300


@compiled
def scale_value(x: float, count: float, mean: float, squares: float) -> tuple[float, float, float]:
    """Where a value stands: ((x - mean) / deviation within +-8, mean, squares), this one included.

    Welford's update; beyond 100,000 values the oldest count less.
    """
    count = min(count, MOST_COUNTED) + 1.0
    x = min(max(x, -LARGEST_VALUE), LARGEST_VALUE)
    difference = x - mean
    new_mean = mean + difference / count
    new_squares = squares + difference * (x - new_mean)
    if count > MOST_COUNTED:
        new_squares *= MOST_COUNTED / count
        count = MOST_COUNTED
    variance = new_squares / count
    if not is_spread(variance, new_mean):
        return 0.0, new_mean, new_squares
    z = (x - new_mean) / np.sqrt(variance)
    return min(max(z, -LARGEST), LARGEST), new_mean, new_squares


@compiled
def view_event(
    scaling: Scaling, past: TargetPast, x_C: Floats, classify: bool, view_V: Floats
) -> None:
    """Write what the experts see of an event: [Z, R, L]; nothing moves.

    Z: running z-scores of numeric columns and one-hots of categories; R = Z - e, e the recent
    average of Z; L: the last known target and averages of targets (half-lives 8 and 64), one-hot
    and less 1/K for classes.

    Args:
        scaling: of the columns.
        past: of the targets.
        x_C: values; a category's code; NaN where missing.
        classify: whether targets are classes.
        view_V: (V,) written.
    """
    count_C, mean_C, squares_C, recent_C, _, kinds_C, place_C, rank_C, hot_CG = scaling
    averages_JK, weights_J, last_K = past
    num_classes = averages_JK.shape[1]
    num_columns = x_C.shape[0]
    num_inputs = view_V.shape[0] - 3 * num_classes
    for c in range(num_columns):
        if kinds_C[c] == 0:
            num_inputs -= 1
    view_V[:] = 0.0
    for c in range(num_columns):
        x = x_C[c]
        if np.isnan(x):
            continue
        if kinds_C[c] == 0:
            z, _, _ = scale_value(x, count_C[c], mean_C[c], squares_C[c])
            view_V[place_C[c]] = z
            view_V[num_inputs + rank_C[c]] = z - recent_C[c]
        elif x >= 0.0:
            view_V[hot_CG[c, int(x)]] = 1.0
    start = view_V.shape[0] - 3 * num_classes
    if weights_J[0] == 0.0:
        return
    share = 1.0 / num_classes if classify else 0.0
    for k in range(num_classes):
        view_V[start + k] = last_K[k] - share
        view_V[start + num_classes + k] = averages_JK[0, k] / weights_J[0] - share
        view_V[start + 2 * num_classes + k] = averages_JK[1, k] / weights_J[1] - share


@compiled
def hash_values(x_C: Floats) -> int:
    """A number for the values of an event: the event itself is not kept. NaN says nothing."""
    bits_C = x_C.view(np.int64)
    mixed = np.uint64(0x9E3779B97F4A7C15)
    for c in range(x_C.shape[0]):
        if not np.isnan(x_C[c]):
            mixed = (mixed ^ np.uint64(bits_C[c])) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(c)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return int(np.int64(mixed))


@compiled
def take_in_values(scaling: Scaling, x_C: Floats) -> None:
    """Let an event move the scaling and the recent past; the same event once more moves nothing.

    A run of identical events says nothing of the spread of the next ones: counted, it would make
    all later values look extreme.
    """
    count_C, mean_C, squares_C, recent_C, last_1, kinds_C, _, _, _ = scaling
    hashed = hash_values(x_C)
    if hashed == last_1[0]:
        return
    last_1[0] = hashed
    for c in range(x_C.shape[0]):
        x = x_C[c]
        if kinds_C[c] != 0 or np.isnan(x):
            continue
        z, mean, squares = scale_value(x, count_C[c], mean_C[c], squares_C[c])
        mean_C[c], squares_C[c] = mean, squares
        count_C[c] = min(count_C[c] + 1.0, MOST_COUNTED)
        recent_C[c] += max(RECENT, 1.0 / count_C[c]) * (z - recent_C[c])


@compiled
def take_in_target(past: TargetPast, target: float, classify: bool) -> None:
    """Let a target that has come move the averages of targets."""
    averages_JK, weights_J, last_K = past
    for j in range(weights_J.shape[0]):
        decay = 2.0 ** (-1.0 / TARGET_HALF_LIVES[j])
        for k in range(averages_JK.shape[1]):
            averages_JK[j, k] *= decay
        if classify:
            averages_JK[j, int(target)] += 1.0 - decay
        else:
            averages_JK[j, 0] += (1.0 - decay) * target
        weights_J[j] = decay * weights_J[j] + 1.0 - decay
    last_K[:] = 0.0
    if classify:
        last_K[int(target)] = 1.0
    else:
        last_K[0] = target


@compiled
def answer_average(past: TargetPast, classify: bool, p_K: Floats) -> None:
    """Write the average of recent targets, half-life 20; of classes (e + .02 / K) / 1.02."""
    averages_JK, weights_J, _ = past
    num_classes = p_K.shape[0]
    if not classify:
        p_K[0] = averages_JK[2, 0] / weights_J[2] if weights_J[2] > 0.0 else 0.0
        return
    for k in range(num_classes):
        share = averages_JK[2, k] / weights_J[2] if weights_J[2] > 0.0 else 1.0 / num_classes
        p_K[k] = (share + 0.02 / num_classes) / 1.02


@compiled
def scale_target(scale_3: Floats, target: float) -> float:
    """Let a value move the running mean and spread of targets; the value in running deviations."""
    z, mean, squares = scale_value(target, scale_3[0], scale_3[1], scale_3[2])
    scale_3[0], scale_3[1], scale_3[2] = min(scale_3[0] + 1.0, MOST_COUNTED), mean, squares
    return z


@compiled
def find_deviation(scale_3: Floats) -> float:
    """Standard deviation of the targets so far; 1 while all are equal."""
    if scale_3[0] <= 0.0 or not is_spread(scale_3[2] / scale_3[0], scale_3[1]):
        return 1.0
    return float(np.sqrt(scale_3[2] / scale_3[0]))


@compiled
def write_recent_columns(
    source_Q: Ints,
    rank_Q: Ints,
    num_inputs: int,
    x_C: Floats,
    view_V: Floats,
    x_Q: Floats,
) -> None:
    """Write the columns of the tree that sees the recent past: raw values, and R of numbers.

    Args:
        source_Q: column that each looks at.
        rank_Q: its place in R; -1 for the raw value.
        num_inputs: D, where R begins in a view.
        x_C, view_V: of the event.
        x_Q: written.
    """
    for q in range(source_Q.shape[0]):
        x = x_C[source_Q[q]]
        if rank_Q[q] >= 0 and not np.isnan(x):
            x = view_V[num_inputs + rank_Q[q]]
        x_Q[q] = x


@compiled
def open_views(table: Ints) -> tuple[Scaling, TargetPast, Floats]:
    """What events are viewed by, of which the table holds the addresses."""
    scaling = (
        array_1(table, 0, np.float64),
        array_1(table, 1, np.float64),
        array_1(table, 2, np.float64),
        array_1(table, 3, np.float64),
        array_1(table, 4, np.int64),
        array_1(table, 5, np.int64),
        array_1(table, 6, np.int64),
        array_1(table, 7, np.int64),
        array_2(table, 8, np.int64),
    )
    past = (
        array_2(table, 9, np.float64),
        array_1(table, 10, np.float64),
        array_1(table, 11, np.float64),
    )
    return scaling, past, array_1(table, 12, np.float64)


@compiled
def step_views(
    mode: int,
    table: Ints,
    row: int,
    learns: int,
    classify: bool,
    x_C: Floats,
    target: float,
    view_V: Floats,
    p_EK: Floats,
) -> float:
    """View an event, and let its values and its target move what later ones are viewed by.

    Args:
        mode: sum of VIEW (the view, and the average of recent targets, are written), TAKE_IN (the
            values move scaling and recent past) and TARGET (the target moves the past).
        table: addresses of scaling, past, and of events, mean and squares of values that are
            foreseen; all move.
        row: of the average of recent targets in the answers, -1 for none.
        learns: 0 where the averages of targets stand still.
        classify: whether targets are classes.
        x_C: values of the event.
        target: class by number, or value.
        view_V, p_EK: written.

    Returns:
        the class; the value, in running deviations where it was taken in.
    """
    scaling, past, scale_3 = open_views(table)
    if mode & VIEW:
        view_event(scaling, past, x_C, classify, view_V)
        if row >= 0:
            answer_average(past, classify, p_EK[row])
    if mode & TAKE_IN:
        take_in_values(scaling, x_C)
    if mode & TARGET:
        if not classify:
            target = scale_target(scale_3, target)
        if learns:
            take_in_target(past, target, classify)
    return target
