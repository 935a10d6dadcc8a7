"""How far a closed-form memory gets on the inputs and on the model's features.

Letters: N examples, D features, K classes, M outputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nestling.core.batches import Batch
from nestling.core.errors import DataError, NonFiniteInput, SettingError
from nestling.core.seeds import make_generator
from nestling.levels.taps import FeatureReader
from nestling.memory import RandomFeatures, RidgeMemory

HELD_OUT = 0.3
# A memory keeps D^2 sums of 8 bytes: 128 MB here. Wider inputs are read by random features only.
MAX_WIDTH = 4096
MIN_RANDOM, MAX_RANDOM = 800, 1600
# One split of a few hundred examples moves by a point or two with its draw; five, by half of it.
NUM_SPLITS = 5
_CHUNK = 256

Score = float | None


@dataclass(frozen=True)
class Linearity:
    """Held-out scores of ridge regressions (linear probes): accuracy, or R squared for values.

    Attributes:
        input: on the inputs themselves; None where they are too wide or not numbers.
        input_random: on random features of the inputs; None where they are not numbers.
        features: on the input of the model's last linear layer; None where it has none.
        features_random: on that with random features of it beside.
        input_trend: of `input_random`, its gain from the last doubling of the examples.
        features_trend: the same of `features`.
        num_random: random features in each case.
        num_held_out: different examples that the five splits hold out, of all of them together.
    """

    input: float | None
    input_random: float | None
    features: float | None
    features_random: float | None
    input_trend: float
    features_trend: float
    num_random: int
    num_held_out: int

    @property
    def input_expected(self) -> float | None:
        """`input_random` as it is to be expected of all examples; see `extrapolate`."""
        return (
            None if self.input_random is None else extrapolate(self.input_random, self.input_trend)
        )

    @property
    def features_expected(self) -> float | None:
        """`features` as it is to be expected of all examples; see `extrapolate`."""
        return None if self.features is None else extrapolate(self.features, self.features_trend)


def extrapolate(score: float, trend: float, share: float = 1.0 - HELD_OUT) -> float:
    """The score of a memory of all N examples, from those of one of `share` N and of half of it.

    With s(n) = a - b / n:  s(N) = s(share N) + (1 - share) (s(share N) - s(share N / 2)).

    Memories on few features have learned all that they can when those on many still gain, so
    that a part of the examples says too little of the second.

    Args:
        score: of the memory of share N examples.
        trend: its score minus that of the memory of share N / 2 examples.
        share: of the examples that the memory was fitted on, in (0, 1].

    >>> extrapolate(0.9, 0.1)
    0.93
    """
    return round(min(1.0, score + (1.0 - share) * trend), 12)


def count_random_features(num_examples: int, num_outputs: int) -> int:
    """How many random features a memory of so many examples can use.

    F = max(N, 80 K), between 800 and 1600. On four tables of 130 to 2000 rows, 800 or more
    did mostly as well as fewer or better, as the ridge is chosen anew (not always: breast cancer
    was best with 100), and 1600 added at most half a point. Each class needs some that tell it
    from the others; cost grows with the square of F.

    Args:
        num_examples: N.
        num_outputs: K classes or outputs.

    >>> count_random_features(1400, 10), count_random_features(300, 2)
    (1400, 800)
    """
    return max(MIN_RANDOM, min(MAX_RANDOM, max(num_examples, 80 * num_outputs)))


def measure_linearity(
    model: nn.Module, x: Tensor, y: Tensor, num_random: int, *, seed: int
) -> Linearity:
    """Fit memories on 70 % of the examples and ask them about the other 30 %.

    Args:
        model: is read, not changed.
        x: (N, ...) inputs.
        y: (N,) classes or (N, M) values.
        num_random: random features, see `count_random_features`.
        seed: of the splits.

    Returns: means over five random splits.

    Raises:
        NonFiniteInput: the model's features are not finite.
    """
    generator = make_generator(seed, "suggest", "held out")
    orders = [torch.randperm(len(y), generator=generator, device="cpu") for _ in range(NUM_SPLITS)]
    num_held_out = max(1, round(HELD_OUT * len(y)))
    targets = y.cpu()

    def score(rows: Tensor | None, num_random: int, *, keep_read: bool) -> tuple[Score, float]:
        if rows is None or (keep_read and rows.shape[1] > MAX_WIDTH):
            return None, 0.0
        # Features are made once for all splits: for wide inputs this is what costs.
        phi = RandomFeatures(rows.shape[1], num_random, passthrough=keep_read)(rows)
        whole = half = 0.0
        for order in orders:
            held, kept = order[:num_held_out], order[num_held_out:]
            few, test = kept[: len(kept) // 2], (phi[held], targets[held])
            whole += fit_and_score((phi[kept], targets[kept]), test) / NUM_SPLITS
            half += fit_and_score((phi[few], targets[few]), test) / NUM_SPLITS
        return whole, whole - half

    inputs, features = _read(model, "input", x), _read(model, None, x)
    if features is not None and not bool(features.isfinite().all()):
        raise NonFiniteInput("the features of the model hold NaN or infinity; check its weights")
    input_random, input_trend = score(inputs, num_random, keep_read=False)
    plain, features_trend = score(features, 0, keep_read=True)
    return Linearity(
        input=score(inputs, 0, keep_read=True)[0],
        input_random=input_random,
        features=plain,
        features_random=score(features, num_random, keep_read=True)[0],
        input_trend=input_trend,
        features_trend=features_trend,
        num_random=num_random,
        num_held_out=len(torch.cat([order[:num_held_out] for order in orders]).unique()),
    )


def fit_and_score(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Accuracy, or R^2 = 1 - sum (y - f)^2 / sum (y - mean)^2, of a ridge memory.

    Args:
        train: inputs (N, D) and classes (N,) or values (N, M).
        test: the same, held out.

    >>> x = torch.arange(12.0).reshape(-1, 1)
    >>> round(fit_and_score((x[:8], 2 * x[:8]), (x[8:], 2 * x[8:])), 3)
    1.0
    """
    x, y = train
    x_test, y_test = test
    is_value = y.is_floating_point()
    memory = RidgeMemory(
        x.shape[1],
        task="regression" if is_value else "classification",
        num_outputs=None if is_value else int(max(y.max(), y_test.max())) + 1,
    )
    memory.add(x, y)
    answer = memory.predict(x_test)
    if not is_value:
        return float((answer.argmax(dim=1) == y_test).double().mean())
    wide = y_test.double().reshape(answer.shape)
    spread = float((wide - wide.mean(dim=0)).square().sum())
    return 1.0 - float((wide - answer).square().sum()) / spread if spread > 0.0 else 0.0


def _read(model: nn.Module, on: str | None, x: Tensor) -> Tensor | None:
    """(N, D) as a memory level would read them, or None where it could not."""
    try:
        reader = FeatureReader(model, [on], frozen=False)
        rows = [reader.read(Batch((part,)))[0][0] for part in x.split(_CHUNK)]
    except (DataError, SettingError):
        return None
    whole = torch.cat([part.reshape(len(part), -1).cpu() for part in rows])
    return whole if whole.is_floating_point() else whole.float()
