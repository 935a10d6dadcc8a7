"""Networks that learn at every event: two hidden layers of ReLU, and softmax regression.

Axes: I inputs, H units of a hidden layer, K outputs. Weights lie in one vector:
[W1_HI, b1_H, W2_HH, b2_H, W3_KH, b3_K].
"""

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.compiled import compiled

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
# weights, mean square of the inputs (1,); h1_H, h2_H, x_I: what the last answer went through
Network = tuple[Singles, Floats, Singles, Singles, Singles]
# weights, mean square; both moments in one array (2 sizes of weights), what they lack of each unit
# (2, 2 H + K); h1_H, h2_H, x_I
AdamNetwork = tuple[Singles, Floats, Singles, Floats, Singles, Singles, Singles]
# weights_KJ with the intercept in the last column J = I + 1
Linear = tuple[Floats]

# How much of the mean square of the inputs is new at each event at least.
SQUARE_RATE = 0.001
# A larger input than of this square norm gets smaller steps.
USUAL_SQUARE = 64.0
# A step counts at most so often, whatever the weight: a larger one would overshoot.
MOST_STEPS = 2.0
DECAY_MEAN, DECAY_SQUARE = 0.9, 0.999
# Below this a moment is zero: smaller numbers would soon be denormal, which costs 5 x.
TINY = 1e-15


@compiled
def softmax_into(z_K: Floats, p_K: Floats) -> None:
    """Write softmax(z)."""
    largest = z_K[0]
    for k in range(1, z_K.shape[0]):
        largest = max(largest, z_K[k])
    total = 0.0
    for k in range(z_K.shape[0]):
        p_K[k] = np.exp(z_K[k] - largest)
        total += p_K[k]
    for k in range(z_K.shape[0]):
        p_K[k] /= total


@compiled
def _dot(a_I: Singles, b_I: Singles) -> np.float32:
    total = np.float32(0.0)
    for i in range(a_I.shape[0]):
        total += a_I[i] * b_I[i]
    return total


@compiled
def answer_network(
    w: Singles, h1_H: Singles, h2_H: Singles, x_I: Singles, view_I: Floats, z_K: Floats
) -> None:
    """Write the outputs z = W3 relu(W2 relu(W1 x + b1) + b2) + b3, and what led to them.

    Args:
        w: all weights.
        h1_H, h2_H: written, the hidden layers.
        x_I: written, the inputs in single precision.
        view_I: (I,) inputs.
        z_K: (K,) written.
    """
    num_inputs, num_units, num_outputs = view_I.shape[0], h1_H.shape[0], z_K.shape[0]
    for i in range(num_inputs):
        x_I[i] = view_I[i]
    zero = np.float32(0.0)
    second = num_units * num_inputs + num_units
    third = second + num_units * num_units + num_units
    biases = num_units * num_inputs
    for j in range(num_units):
        h1_H[j] = max(_dot(w[j * num_inputs : (j + 1) * num_inputs], x_I) + w[biases + j], zero)
    biases = second + num_units * num_units
    for j in range(num_units):
        start = second + j * num_units
        h2_H[j] = max(_dot(w[start : start + num_units], h1_H) + w[biases + j], zero)
    biases = third + num_outputs * num_units
    for k in range(num_outputs):
        start = third + k * num_units
        z_K[k] = _dot(w[start : start + num_units], h2_H) + w[biases + k]


@compiled
def follow_square(square_1: Floats, x_I: Singles, num_seen: int) -> float:
    """Move the running mean of |x|^2; how much smaller than usual a step must be, min(1, 64/m)."""
    total = np.float32(0.0)
    for i in range(x_I.shape[0]):
        total += x_I[i] * x_I[i]
    rate = max(SQUARE_RATE, 1.0 / (num_seen + 1.0))
    square_1[0] += rate * (total - square_1[0])
    return float(min(1.0, USUAL_SQUARE / max(square_1[0], 1e-12)))


@compiled
def _backpropagate(
    w: Singles, start: int, delta_K: Singles, h_H: Singles, delta_H: Singles
) -> None:
    """Write the error of a layer's inputs, W' delta where a unit is active."""
    num_units = h_H.shape[0]
    delta_H[:] = 0.0
    for k in range(delta_K.shape[0]):
        delta = delta_K[k]
        if delta != 0.0:
            row = w[start + k * num_units : start + (k + 1) * num_units]
            for j in range(num_units):
                delta_H[j] += delta * row[j]
    for j in range(num_units):
        if h_H[j] <= 0.0:
            delta_H[j] = 0.0


@compiled
def _descend(w: Singles, start: int, rate: np.float32, delta_K: Singles, h_H: Singles) -> None:
    """One step of SGD on a layer: W -= rate delta h', b -= rate delta."""
    num_units, num_outputs = h_H.shape[0], delta_K.shape[0]
    for k in range(num_outputs):
        step = rate * delta_K[k]
        if step != 0.0:
            row = w[start + k * num_units : start + (k + 1) * num_units]
            for j in range(num_units):
                row[j] -= step * h_H[j]
            w[start + num_outputs * num_units + k] -= step


@compiled
def learn_by_sgd(
    w: Singles, h1_H: Singles, h2_H: Singles, x_I: Singles, error_K: Singles, rate: float
) -> None:
    """One step of SGD on what was answered last.

    Args:
        w: all weights, moved.
        h1_H, h2_H, x_I: what led to the answer.
        error_K: derivative of the loss by the outputs.
        rate: learning rate.
    """
    num_inputs, num_units = x_I.shape[0], h1_H.shape[0]
    second = num_units * num_inputs + num_units
    third = second + num_units * num_units + num_units
    delta2_H = np.empty_like(h2_H)
    delta1_H = np.empty_like(h1_H)
    _backpropagate(w, third, error_K, h2_H, delta2_H)
    _backpropagate(w, second, delta2_H, h1_H, delta1_H)
    step = np.float32(rate)
    _descend(w, third, step, error_K, h2_H)
    _descend(w, second, step, delta2_H, h1_H)
    _descend(w, 0, step, delta1_H, x_I)


@compiled
def _descend_adam(
    w: Singles,
    moments: Singles,
    faded_2K: Floats,
    first_unit: int,
    start: int,
    rate: float,
    decay: float,
    delta_K: Singles,
    h_H: Singles,
) -> None:
    """One step of AdamW on the rows of a layer whose output unit has an error."""
    num_units, num_outputs = h_H.shape[0], delta_K.shape[0]
    size = w.shape[0]
    keep = np.float32(1.0 - rate * decay)
    new_mean, new_square = np.float32(1.0 - DECAY_MEAN), np.float32(1.0 - DECAY_SQUARE)
    old_mean, old_square = np.float32(DECAY_MEAN), np.float32(DECAY_SQUARE)
    tiny, small = np.float32(TINY), np.float32(1e-8)
    zero = np.float32(0.0)
    for k in range(num_outputs):
        delta = delta_K[k]
        if delta == 0.0:
            continue
        # Powers of the decays by updates of this unit: a moment that began at 0 lacks so much.
        of_mean = faded_2K[0, first_unit + k] * DECAY_MEAN
        of_square = faded_2K[1, first_unit + k] * DECAY_SQUARE
        faded_2K[0, first_unit + k] = of_mean if of_mean > TINY else 0.0
        faded_2K[1, first_unit + k] = of_square if of_square > TINY else 0.0
        by_square = np.float32(1.0 / np.sqrt(1.0 - of_square))
        step = np.float32(rate / (1.0 - of_mean))
        first = start + k * num_units
        row = w[first : first + num_units]
        mean = moments[first : first + num_units]
        square = moments[size + first : size + first + num_units]
        for j in range(num_units):
            g = delta * h_H[j]
            m = old_mean * mean[j] + new_mean * g
            m = m if abs(m) > tiny else zero
            v = old_square * square[j] + new_square * g * g
            v = v if v > tiny * tiny else zero
            mean[j], square[j] = m, v
            row[j] = keep * row[j] - step * m / (np.sqrt(v) * by_square + small)
        at = start + num_outputs * num_units + k
        m = old_mean * moments[at] + new_mean * delta
        v = old_square * moments[size + at] + new_square * delta * delta
        moments[at], moments[size + at] = m, v
        w[at] -= step * m / (np.sqrt(v) * by_square + small)


@compiled
def learn_by_adamw(
    w: Singles,
    h1_H: Singles,
    h2_H: Singles,
    x_I: Singles,
    moments: Singles,
    faded: Floats,
    error_K: Singles,
    rate: float,
    decay: float,
) -> None:
    """One step of AdamW on what was answered last; rows of silent units do not move.

    Args:
        w: all weights, moved.
        h1_H, h2_H, x_I: what led to the answer.
        moments: (2 size,) means of gradients, then of their squares; moved.
        faded: (2, 2 H + K) what the moments of each unit still lack, .9^n and .999^n; moved.
        error_K: derivative of the loss by the outputs.
        rate: learning rate.
        decay: weight decay.
    """
    num_inputs, num_units = x_I.shape[0], h1_H.shape[0]
    second = num_units * num_inputs + num_units
    third = second + num_units * num_units + num_units
    delta2_H = np.empty_like(h2_H)
    delta1_H = np.empty_like(h1_H)
    _backpropagate(w, third, error_K, h2_H, delta2_H)
    _backpropagate(w, second, delta2_H, h1_H, delta1_H)
    _descend_adam(w, moments, faded, 2 * num_units, third, rate, decay, error_K, h2_H)
    _descend_adam(w, moments, faded, num_units, second, rate, decay, delta2_H, h1_H)
    _descend_adam(w, moments, faded, 0, 0, rate, decay, delta1_H, x_I)


@compiled
def answer_linear(w_KJ: Floats, view_I: Floats, z_K: Floats) -> None:
    """Write z = W [x, 1]."""
    num_inputs = view_I.shape[0]
    for k in range(z_K.shape[0]):
        total = w_KJ[k, num_inputs]
        row = w_KJ[k]
        for i in range(num_inputs):
            total += row[i] * view_I[i]
        z_K[k] = total


@compiled
def learn_linear(w_KJ: Floats, view_I: Floats, error_K: Singles, rate: float) -> None:
    """One step of SGD, its rate divided by max(1, |x|^2 / 64)."""
    num_inputs = view_I.shape[0]
    square = 0.0
    for i in range(num_inputs):
        square += view_I[i] * view_I[i]
    rate /= max(1.0, square / USUAL_SQUARE)
    for k in range(error_K.shape[0]):
        step = rate * error_K[k]
        row = w_KJ[k]
        for i in range(num_inputs):
            row[i] -= step * view_I[i]
        row[num_inputs] -= step
