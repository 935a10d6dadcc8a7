"""How a run is cut into batches and scored: the same for jobs and for the demo."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from nestling.core.seeds import make_generator
from nestling.data import Experience
from nestling.judge import AccuracyMatrix, steps_to_fraction
from nestling.learn.learner import Learner
from nestling.levels import LevelReading


def list_batches(
    num_examples: int, *, epochs: int, batch_size: int, seed: int, index: int
) -> Iterator[Tensor]:
    """Row numbers of every batch of an experience, shuffled anew in each epoch.

    The order depends on seed, experience and epoch alone, so that a resumed run draws the same.

    Args:
        num_examples: N of the experience.
        epochs: passes over it.
        batch_size: rows per batch; the last batch of a pass may have fewer.
        seed: of the run.
        index: of the experience.

    >>> [len(rows) for rows in list_batches(5, epochs=1, batch_size=2, seed=0, index=0)]
    [2, 2, 1]
    """
    for epoch in range(epochs):
        generator = make_generator(seed, "order", index, epoch)
        yield from torch.randperm(num_examples, generator=generator, device="cpu").split(batch_size)


def score(learner: Learner, experience: Experience, classes: Sequence[int]) -> float:
    """Accuracy on an experience's test set among `classes`; the learner's own for real targets.

    Args:
        learner: whoever answers.
        experience: its test set is scored, with its task label if it has one.
        classes: labels that may be answered, in ascending order; empty for real targets.
    """
    x, y = experience.test
    if not classes:
        return float(learner.evaluate(x, y))
    answer = learner.predict_proba(x, task=experience.task)
    return accuracy_among(answer, y, classes)


def is_one_test(experiences: Sequence[Experience]) -> bool:
    """Whether several experiences are tested on the same examples, in the same way."""
    first = experiences[0]
    return len(experiences) > 1 and all(
        one.task == first.task
        and all(
            mine is others or torch.equal(mine, others)
            for mine, others in zip(one.test, first.test, strict=True)
        )
        for one in experiences[1:]
    )


def accuracy_among(scores: Tensor, y: Tensor, classes: Sequence[int]) -> float:
    """Share of right answers when only `classes` may be answered.

    Args:
        scores: (N, K), higher is likelier; classes beyond K are never answered.
        y: (N,) labels.
        classes: labels, in ascending order.

    >>> accuracy_among(torch.tensor([[0.2, 0.1, 0.7]]), torch.tensor([0]), [0, 1])
    1.0
    """
    known = [label for label in classes if label < scores.shape[1]]
    if not known:
        return 0.0
    answer = torch.tensor(known, dtype=torch.int64, device="cpu")[
        scores[:, known].argmax(dim=1).cpu()
    ]
    return float((answer == y.cpu()).double().mean())


def summarize(records: Sequence[Mapping[str, object]], names: Sequence[str]) -> dict[str, object]:
    """ACC, forgetting and steps to adapt from the evaluations of one run.

    Args:
        records: of kind "evaluation", of one method and seed, in order.
        names: of the experiences, in order.

    Returns: acc, forgetting, bwt; `steps_to_adapt`, the mean over the experiences after the
        first of the examples until 90 % of the best accuracy within the experience.
    """
    nan = float("nan")
    matrix = [[nan] * len(names) for _ in names]
    steps: list[float] = []
    for index, name in enumerate(names):
        curve = [record for record in records if record["during"] == index]
        for record in curve:
            if record["after"] == index:
                found = _read_accuracies(record)
                matrix[index] = [found.get(other, nan) for other in names]
        if index and curve:
            seen = [int(str(record["step"])) for record in curve]
            accuracies = [_read_accuracies(record)[name] for record in curve]
            reached = steps_to_fraction([step - seen[0] for step in seen], accuracies)
            steps.append(nan if reached is None else float(reached))
    judged = AccuracyMatrix(matrix)
    return {
        "acc": judged.acc(),
        "forgetting": judged.forgetting(),
        "bwt": judged.bwt(),
        "steps_to_adapt": sum(steps) / len(steps) if steps else None,
    }


def leave_out_differences(summary: Mapping[str, object]) -> dict[str, object]:
    """A summary of experiences with one test set: what compares their accuracies means nothing."""
    return {key: value if key == "acc" else None for key, value in summary.items()}


def _read_accuracies(record: Mapping[str, object]) -> Mapping[str, float]:
    found = record["accuracies"]
    assert isinstance(found, Mapping)
    return found


def describe_level(reading: LevelReading, step: int) -> dict[str, object]:
    """The ledger's record of how a level stands after `step` examples."""
    return {
        "step": step,
        "level": reading.level,
        "level_kind": reading.kind,
        "num_updates": reading.num_updates,
        "relative_change": reading.relative_change,
        "gate": reading.factor,
        "period": reading.period,
        "lr": reading.lr,
    }


def describe_compute(reading: LevelReading) -> dict[str, object]:
    """The ledger's record of what a level has cost."""
    return {
        "level": reading.level,
        "num_steps": reading.num_steps,
        "num_updates": reading.num_updates,
        "share_backward_skipped": reading.share_backward_skipped,
        "seconds": reading.seconds,
    }
