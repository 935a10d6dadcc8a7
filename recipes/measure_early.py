"""What an early activation is worth to a memory beside the last one, on pictures.

    python recipes/measure_early.py [FOLDER OF DATA]

Accuracy on split-cifar10's test pictures of a ridge memory of 4,000 training pictures, read by
EfficientNet-Lite0 as `nl.Learner(model, pretrained=True)` reads it and as it would read the last
layer alone.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from nestling.bench.suites.encoding import PICTURE_SIZE
from nestling.core.batches import Batch
from nestling.data.sources import obtain
from nestling.data.suites import make_suite
from nestling.learn.default import drop_early, make_default_plan
from nestling.levels.memory import MemoryLevel
from nestling.models.encoders.efficientnet import (
    NUM_FEATURES,
    load_efficientnet_lite0,
    prepare_images,
)

NUM_TRAIN = 4000


def measure(level: MemoryLevel, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Accuracy of a memory level that learns all of `train`."""
    read = []
    for x, _ in (train, test):
        parts = [level.read_rows(Batch((images,)), None) for images in x.split(50)]
        read.append((torch.cat([part.features for part in parts]), parts[0].widths))
    level.make_bank(read[0][1], "classification")
    assert level.bank is not None
    level.bank.add(read[0][0], train[1])
    return float((level.bank.predict(read[1][0]).argmax(1) == test[1]).double().mean())


def main() -> None:
    """Print both accuracies."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    suite = make_suite("split-cifar10", 0, split="test", folder=folder, offline=False)
    model = load_efficientnet_lite0(obtain("efficientnet-lite0", folder, offline=False)[0])
    torch.manual_seed(0)
    model.classifier = nn.Linear(NUM_FEATURES, suite.num_classes)

    def gather(part: str, num: int | None) -> tuple[Tensor, Tensor]:
        pairs = [getattr(one, part) for one in suite.experiences]
        x, y = (torch.cat([pair[i] for pair in pairs]) for i in range(2))
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:num]
        bytes_NHWC = (x[rows].reshape(-1, 3, 32, 32) * 255).round().to(torch.uint8)
        return prepare_images(bytes_NHWC.permute(0, 2, 3, 1), PICTURE_SIZE), y[rows]

    train, test = gather("train", NUM_TRAIN), gather("test", None)
    plan = make_default_plan(model, pretrained=True, replay=0)
    for name, one in (("early and last", plan), ("last alone", drop_early(plan))):
        level = MemoryLevel(one.memories[0], model)
        accuracy = measure(level, train, test)
        assert level.bank is not None
        assert level.bank.features is not None
        width = level.bank.features.num_outputs
        print(f"{name}: {100 * accuracy:.1f} %, {width} features of {level.reader.describe()}")


if __name__ == "__main__":
    main()
