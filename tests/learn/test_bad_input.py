"""Bad input: one line that says what to do, and not one bit of the learner changed."""

import errno
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from learners import differences, draw, make_batch, make_mlp, read_state
from nestling.core.errors import (
    CorruptSnapshot,
    DataError,
    ForeignSnapshot,
    NonFiniteInput,
    NotFitted,
    SettingError,
    ShapeMismatch,
    SnapshotError,
    UnknownLabel,
)
from nestling.store import whole_files

X, Y = make_batch()
INF = torch.full((16, 4), math.inf)


def spoil(value: float) -> Tensor:
    x = X.clone()
    x[3, 2] = value
    return x


def make_learner(**options: Any) -> nl.Learner:
    return nl.Learner(make_mlp(), replay=10, **options)


class Ruined(nn.Module):
    """Loses a value on the way, as a diverged network does."""

    def __init__(self) -> None:
        super().__init__()
        self.spine, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.spine(x))


BAD: dict[str, tuple[Callable[[nl.Learner], object], type[Exception], str]] = {
    "NaN": (lambda m: m.learn(spoil(math.nan), Y), NonFiniteInput, r"nan at index \(3, 2\)"),
    "infinity": (lambda m: m.learn(spoil(math.inf), Y), NonFiniteInput, "inf at index"),
    "float64": (lambda m: m.learn(X.double(), Y), ShapeMismatch, r"\.to\(torch\.float32\)"),
    "negative label": (lambda m: m.learn(X, Y - 1), UnknownLabel, "label -1 is negative"),
    "huge label": (lambda m: m.learn(X, Y + 10**6), UnknownLabel, "would add .* outputs"),
    "fewer labels": (lambda m: m.learn(X, Y[:5]), ShapeMismatch, "first dimension must be 16"),
    "float targets": (
        lambda m: m.learn(X, Y.float()),
        DataError,
        r"began as classes; use \.long\(\)",
    ),
    "no target": (lambda m: m.learn(X), DataError, "no target"),
    "text": (lambda m: m.learn(["a", "b"]), DataError, "target of a batch is a str"),
    "a number": (lambda m: m.learn(3.0), DataError, "is a float"),
    "nothing": (lambda m: m.learn(()), DataError, "empty sequence"),
    "narrow inputs": (lambda m: m.learn(X[:, :3], Y), ShapeMismatch, "inputs of shape"),
    "negative weight": (lambda m: m.learn(X, Y, weight=-Y), DataError, "weights of 0 or more"),
    "weight by name": (lambda m: m.learn(X, Y, weight="all"), DataError, "list of 16 numbers"),
    "weight of words": (lambda m: m.learn(X, Y, weight=["a"] * 16), DataError, "of 16 numbers"),
    "short list": (lambda m: m.learn(X, Y, weight=[1.0]), ShapeMismatch, r"\(16,\) works"),
    "short weight": (lambda m: m.learn(X, Y, weight=Y[:2]), ShapeMismatch, r"\(16,\) works"),
    "empty loader": (lambda m: m.fit([]), DataError, "loader yields no example"),
    "empty batches": (lambda m: m.fit([(X[:0], Y[:0])]), DataError, "loader yields no example"),
    "read-once loader": (
        lambda m: m.fit(iter([(X, Y)]), epochs=2),
        DataError,
        "can be read only once",
    ),
    "no loader": (lambda m: m.fit(3), DataError, "the loader is an int"),
    "no epoch": (lambda m: m.fit([(X, Y)], epochs=0), SettingError, "epochs=0; 1 or more"),
    "task by name": (lambda m: m.learn(X, Y, task="first"), DataError, "number tasks 0, 1"),
    "unknown task": (lambda m: m.predict_proba(X, task=7), DataError, r"task 7 was never .*\[0\]"),
    "predict of NaN": (
        lambda m: m.predict_proba(spoil(math.nan)),
        NonFiniteInput,
        "drop or impute",
    ),
    "evaluate without": (lambda m: m.evaluate(X), DataError, "needs targets"),
    "unknown knob": (lambda m: m.control("memory", reason="r", lr=1.0), SettingError, "knob 'lr'"),
    "switch rate of 2": (
        lambda m: m.control("memory", reason="r", switch_rate=2.0),
        SettingError,
        r"switch_rate: a number less than 1 works, got 2.0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_changes_nothing(case: str) -> None:
    act, error, message = BAD[case]
    learner = make_learner()
    for seed in range(6):
        learner.learn(*make_batch(seed), task=0)
    before = read_state(learner)
    with pytest.raises(error, match=message) as caught:
        act(learner)
    assert "\n" not in str(caught.value)
    assert differences(before, read_state(learner)) == []


LATER = (  # refused only by a learner that has learned
    "float targets", "narrow inputs", "unknown task", "predict of NaN", "unknown knob",
    "switch rate of 2",
)  # fmt: skip


@pytest.mark.parametrize("case", [case for case in BAD if case not in LATER])
def test_bad_input_at_the_very_start(case: str) -> None:
    act, error, message = BAD[case]
    learner = make_learner()
    before = read_state(learner)
    with pytest.raises(error, match=message):
        act(learner)
    assert differences(before, read_state(learner)) == []
    assert learner.task is None
    with pytest.raises(NotFitted, match="call fit or learn first"):
        learner.predict_proba(X)


def test_labels_outside_the_declared_classes() -> None:
    learner = make_learner(num_classes=2)
    before = read_state(learner)
    with pytest.raises(UnknownLabel, match=r"label 2 is outside the declared classes 0\.\.1"):
        learner.learn(X, Y + 1)
    assert differences(before, read_state(learner)) == []


class HeadFirst(nn.Module):
    """Its head was made before its spine, so that the last linear layer is not the head."""

    def __init__(self, num_outputs: int = 2) -> None:
        super().__init__()
        self.head, self.spine = nn.Linear(5, num_outputs), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.spine(x).relu())


@pytest.mark.parametrize("num_classes", [1, 3, 5, 10])
def test_declared_classes_and_a_head_of_another_width(num_classes: int) -> None:
    words = f"num_classes={num_classes} but head '.*' has 2 outputs; .*leave num_classes out"
    with pytest.raises(SettingError, match=words):
        nl.Learner(make_mlp(), num_classes=num_classes)
    assert nl.Learner(HeadFirst(3), num_classes=3).learn(X, Y).num_examples == 16
    # What is no head is not asked for its width: a memory alone says classes.
    only = nl.Plan(nl.Memory("m", on="input", num_features=3), readout="m")
    assert nl.Learner(make_mlp(), only, num_classes=num_classes).plan is only


def test_declared_classes_are_compared_with_the_first_outputs() -> None:
    learner = nl.Learner(HeadFirst(), num_classes=5)  # a layer is as wide, but it is not the head
    before = read_state(learner)
    with pytest.raises(SettingError, match="num_classes=5 but the model has 2 outputs"):
        learner.learn(X, Y)
    assert differences(before, read_state(learner)) == []
    assert learner.task is None


NO_LEARNER: dict[str, tuple[Callable[[], object], str]] = {
    "swapped": (lambda: nl.Learner(PLAN, make_mlp()), "the model is a Plan; give a torch.nn.Mod"),
    "parameters": (lambda: nl.Learner(make_mlp().parameters()), "give the whole model, not its"),
    "class": (lambda: nl.Learner(HeadFirst), r"the class HeadFirst; make one first: HeadFirst\("),
    "function": (lambda: nl.Learner(len), "the model is a builtin_function_or_method; give"),
    "level": (lambda: nl.Learner(make_mlp(), nl.Level("a", "*")), r"a Level; nl.Plan\(level\)"),
    "no file": (lambda: nl.Learner(make_mlp(), "no.toml"), "cannot read plan 'no.toml'"),
    "loss by name": (lambda: make_learner(loss="mse"), "loss='mse'; a function works"),
    "loss class": (lambda: make_learner(loss=nn.MSELoss), r"make one first: MSELoss\(\)"),
    "replay": (lambda: nl.Learner(make_mlp(), replay="200"), "replay='200'; 0 stores nothing"),
    "retain": (lambda: make_learner(retain=nl.protect.EWC(1.0)), "retain is an EWC; a list of"),
    "no retain": (lambda: make_learner(retain=None), "retain is None; a list of methods works"),
    "classes": (lambda: make_learner(num_classes=2.0), "num_classes=2.0; a whole number of 1"),
    "no classes": (lambda: make_learner(num_classes=0), "num_classes=0; a whole number of 1"),
    "transform": (lambda: make_learner(output_transform="exp"), "output_transform='exp'; a func"),
    "judge": (lambda: make_learner(judge=True), "judge=True; a function works"),
    "device": (lambda: make_learner(device="gpu"), r"device='gpu' cannot be used here .*\['cpu'"),
    "no device": (lambda: make_learner(device=3.5), "device=3.5 cannot be used here"),
    "seed": (lambda: make_learner(seed=1.5), "seed=1.5; a whole number works"),
    "no seed": (lambda: make_learner(seed=None), "seed=None; a whole number works"),
    "writer": (lambda: make_learner(writer="runs"), "the writer is a str; one with add_scalar"),
    "optimizer": (lambda: nl.NestedOptimizer(make_mlp().parameters(), PLAN), "give the whole mod"),
    "optimizer of a list": (lambda: nl.NestedOptimizer([X], PLAN), "give the whole model, not"),
    "optimizer, swapped": (lambda: nl.NestedOptimizer(PLAN, make_mlp()), "the model is a Plan"),
    "optimizer without": (lambda: nl.NestedOptimizer(make_mlp(), None), "the plan is None; nl.P"),
    "strength by name": (lambda: nl.protect.EWC("much"), "strength='much'; a finite number of 0"),
    "half-life by name": (lambda: nl.memory.MemoryBank(2, half_lives=["x"]), "half-life 'x' exam"),
    "ridge by name": (lambda: nl.memory.RidgeMemory(2, ridge="x"), "ridge strength 'x'; a number"),
    "accumulate": (lambda: nl.NestedOptimizer(make_mlp(), PLAN, accumulate=3), "accumulate=3; kn"),
}
PLAN = nl.Plan(nl.Level("all", "*"))


@pytest.mark.parametrize("case", NO_LEARNER)
def test_plain_mistakes_are_one_line_with_the_remedy(case: str) -> None:
    act, message = NO_LEARNER[case]
    with pytest.raises(SettingError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_plan_may_be_the_path_of_its_file(as_path: Callable[[Path], str], tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.to_toml(), encoding="utf-8")
    assert nl.Learner(make_mlp(), as_path(path)).plan == PLAN
    assert nl.NestedOptimizer(make_mlp(), as_path(path)).plan == PLAN


@pytest.mark.parametrize("seed", [-1, 2**70, -(2**70)])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    one, other = (make_learner(seed=seed) for _ in range(2))
    for learner in (one, other):
        learner.learn(X, Y)
    assert differences(read_state(one), read_state(other)) == []


def test_weights_may_be_a_list_or_an_array() -> None:
    weight = torch.arange(16.0)
    learners = [make_learner() for _ in range(3)]
    for learner, given in zip(learners, (weight, weight.tolist(), weight.numpy()), strict=True):
        learner.learn(X, Y, weight=given)
    states = [read_state(learner) for learner in learners]
    assert differences(states[0], states[1]) == differences(states[0], states[2]) == []


def test_floats_where_classes_are_meant(caplog: pytest.LogCaptureFixture) -> None:
    declared, learner = make_learner(num_classes=2), make_learner()
    before = read_state(learner)
    with pytest.raises(ShapeMismatch, match=r"convert it with \.long\(\)"):
        declared.learn(X, Y.float())
    with pytest.raises(ShapeMismatch, match=r"gives 2 outputs .* as for classes; .*\.long\(\)"):
        learner.learn(X, Y.float())
    plain = nl.Learner(make_mlp(), PLAN)
    with pytest.raises(ShapeMismatch, match=r"whole numbers: y\.long\(\)"):
        plain.learn(X, Y.float())
    assert differences(before, read_state(learner)) == []
    assert not caplog.records
    values = nl.Learner(make_mlp(4, 1))
    for _ in range(2):
        values.learn(X, Y.float())
    assert values.task == "regression"
    (record,) = caplog.records
    assert "all 0 or 1: learned as values" in record.getMessage()


class Stream:
    """Looks as if it could be read again, but wraps what is spent after one pass."""

    def __init__(self, num_passes: int) -> None:
        self.num_left = num_passes

    def __iter__(self) -> Any:
        self.num_left -= 1
        yield from [(X, Y)] * 2 if self.num_left >= 0 else []


def test_a_loader_that_runs_dry_in_a_later_epoch() -> None:
    for num_passes in (1, 2):
        learner = make_learner()
        words = f"no example in epoch {num_passes + 1} of 3: .* give a DataLoader or a list"
        with pytest.raises(DataError, match=words):
            learner.fit(Stream(num_passes), epochs=3)
        assert learner.counts.num_examples == 32 * num_passes
        assert learner.counts.num_experiences == 0
    assert make_learner().fit(Stream(3), epochs=3).num_steps == 6


@pytest.mark.parametrize("epochs", [1.5, "3", True])
def test_epochs_are_counted(epochs: Any) -> None:
    with pytest.raises(SettingError, match=f"epochs={epochs!r}; 1 or more works"):
        make_learner().fit([(X, Y)], epochs=epochs)


@pytest.mark.parametrize("loader", [(X, Y), [X, Y], X, {"x": X}, X.numpy()])
def test_data_in_the_place_of_a_loader(loader: Any) -> None:
    with pytest.raises(DataError, match=r"give its batches: \[\(x, y\)\], or torch\.utils"):
        make_learner().fit(loader)
    rows = torch.utils.data.TensorDataset(X, Y)
    with pytest.raises(ShapeMismatch, match="a single number; give batches of examples"):
        make_learner().fit(rows)


def test_values_then_classes() -> None:
    learner = nl.Learner(make_mlp())
    learner.learn(X, X[:, :2])
    before = read_state(learner)
    with pytest.raises(DataError, match="began as values"):
        learner.learn(X, Y)
    with pytest.raises(DataError, match=r"no probabilities; use predict"):
        learner.predict_proba(X)
    with pytest.raises(ShapeMismatch, match=r"targets of shape \(16, 3\)"):
        learner.learn(X, X[:, :3])
    assert differences(before, read_state(learner)) == []


def test_a_batch_of_nothing_and_of_one() -> None:
    learner = make_learner()
    learner.learn(X, Y)
    before = read_state(learner)
    report = learner.learn(X[:0], Y[:0])
    assert report.num_examples == 0
    assert math.isnan(report.loss)
    assert differences(before, read_state(learner)) == []
    assert learner.predict_proba(X[:0]).shape == (0, 2)
    assert learner.learn(X[:1], Y[:1]).num_examples == 1


@pytest.mark.parametrize("pretrained", [False, True])
def test_one_example_passes_batch_norm_by_the_running_statistics(pretrained: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    learner = nl.Learner(model, pretrained=pretrained, replay=5)
    learner.learn(X, Y)
    running = model[1].running_mean.clone()  # type: ignore[union-attr, operator]
    weight = model[2].weight.detach().clone()
    assert learner.learn(X[:1], Y[:1]).refused == ""
    assert torch.equal(model[1].running_mean, running)  # type: ignore[arg-type]
    assert not torch.equal(model[2].weight, weight)
    assert model[1].training


def test_a_head_that_cannot_grow_says_so_before_anything_moves() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    other = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 2, 1))
    other.append(nn.Flatten())
    overlay = make_mlp()
    plan = nl.adapters(overlay, ["2.weight"], 1, generator=torch.Generator())
    cases = [
        (nl.Learner(tied), "tied to"),
        (nl.Learner(other), "so it is not the head"),
        (nl.Learner(overlay, plan), "has an overlay"),
    ]
    for learner, message in cases:
        learner.learn(X, Y)
        before = read_state(learner)
        with pytest.raises(SettingError, match=message):
            learner.learn(X, Y + 5)
        assert differences(before, read_state(learner)) == []


def test_what_replay_cannot_store_is_refused_before_anything_moves() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    learner = nl.Learner(model, nl.Plan(nl.Level("all", match=["*"])), replay=50)
    x = draw(4, 5, 3)
    learner.learn(x, (x[..., 0] > 0).long())
    before = read_state(learner)
    with pytest.raises(ShapeMismatch, match="this memory stores rows of shape"):
        learner.learn(x[:, :2], (x[:, :2, 0] > 0).long())  # shorter sequences
    assert differences(before, read_state(learner)) == []


def test_features_that_are_not_finite() -> None:
    learner = nl.Learner(
        Ruined(), nl.Plan(nl.Memory("m", frozen=False), nl.Level("l", match=["*"]))
    )
    learner.learn(X, Y)
    with torch.no_grad():
        learner.model.spine.bias[0] = math.nan  # type: ignore[union-attr, operator]
    before = read_state(learner)
    with pytest.raises(NonFiniteInput, match="NaN or infinity in row 0"):
        learner.learn(X, Y)
    assert differences(before, read_state(learner)) == []


def test_a_loss_that_raises_undoes_the_step() -> None:
    def refuse(output: Tensor, target: Tensor) -> Tensor:
        if int(target[0]) == 1 and len(target) == 3:
            raise RuntimeError("no")
        return nn.functional.cross_entropy(output, target)

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2))
    learner = nl.Learner(model, loss=refuse, replay=5)
    wrong = draw(3, 4), torch.ones(3, dtype=torch.long)
    for _ in range(2):
        before = read_state(learner)
        with pytest.raises(RuntimeError, match="no"):
            learner.learn(*wrong)
        assert differences(before, read_state(learner)) == []
        learner.learn(X, Y)


def test_a_loss_that_raises_on_a_new_class_takes_the_head_back() -> None:
    def refuse(output: Tensor, target: Tensor) -> Tensor:
        if output.shape[1] > 2:
            raise RuntimeError("two classes are enough")
        return nn.functional.cross_entropy(output, target)

    learner = nl.Learner(make_mlp(), loss=refuse, replay=5)
    learner.learn(X, Y)
    before, width = read_state(learner), learner.model[-1].weight.shape
    with pytest.raises(RuntimeError, match="two classes"):
        learner.learn(X, Y + 3)
    assert learner.model[-1].weight.shape == width
    assert differences(before, read_state(learner)) == []
    learner.learn(X, Y)


def test_a_model_that_raises_is_named_in_one_line() -> None:
    learner = nl.Learner(make_mlp(), nl.Plan(nl.Level("all", match=["*"])))
    with pytest.raises(DataError, match=r"cannot take input 0 \(16, 3\) torch.float32: mat1"):
        learner.learn(X[:, :3], Y)


# --- snapshots


def save(tmp_path: Path) -> tuple[nl.Learner, Path]:
    learner = make_learner()
    learner.learn(X, Y)
    learner.snapshot(tmp_path / "s")
    learner.learn(*make_batch(1))
    return learner, tmp_path / "s"


@pytest.mark.parametrize("spoiled", ["truncated", "byte", "gone"])
@pytest.mark.parametrize("pattern", ["manifest.json", "*.safetensors"])
def test_a_damaged_snapshot(spoiled: str, pattern: str, tmp_path: Path) -> None:
    learner, path = save(tmp_path)
    file = max(path.glob(pattern), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if spoiled == "gone":
        file.unlink()
    else:
        file.write_bytes(content if spoiled == "byte" else content[: len(content) // 2])
    before = read_state(learner)
    with pytest.raises(SnapshotError) as caught:
        learner.restore(path)
    assert "\n" not in str(caught.value)
    if spoiled != "gone":
        assert caught.type is CorruptSnapshot
    assert differences(before, read_state(learner)) == []


def make_foreign() -> dict[str, nl.Learner]:
    small = nl.Memory("memory", num_features=3, on="input")
    return {
        "another width": nl.Learner(make_mlp(4, 2, width=9), replay=10),
        "another depth": nl.Learner(nn.Sequential(make_mlp()), replay=10),
        "another plan": nl.Learner(make_mlp(), nl.Plan(small), replay=10),
        "no replay": nl.Learner(make_mlp(), make_learner().plan),
        "smaller replay": nl.Learner(make_mlp(), replay=9),
        "another seed": nl.Learner(make_mlp(), replay=10, seed=3),
        "other inputs": nl.Learner(make_mlp(5, 2), replay=10),
        "fewer declared": nl.Learner(make_mlp(4, 1), replay=10, num_classes=1),
    }


@pytest.mark.parametrize("case", make_foreign())
def test_a_snapshot_of_another_learner(case: str, tmp_path: Path) -> None:
    _, path = save(tmp_path)
    learner = make_foreign()[case]
    before = read_state(learner)
    with pytest.raises(ForeignSnapshot) as caught:
        learner.restore(path)
    assert "\n" not in str(caught.value)
    assert differences(before, read_state(learner)) == []


def test_a_full_disk_keeps_the_older_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, path = save(tmp_path)
    files = {file.name: file.read_bytes() for file in path.iterdir()}

    def fill(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(whole_files.os, "fsync", fill)
        with pytest.raises(SnapshotError, match=r"No space left .* free .* MB"):
            learner.snapshot(path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == files
    learner.restore(path)
    assert learner.counts.num_examples == 16


def test_one_huge_label_in_a_plan_of_a_memory_alone_is_refused_whole() -> None:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    for first in (True, False):
        memory = nl.Memory("m", on="input", half_lives=(float("inf"),))
        learner = nl.Learner(nn.Linear(4, 2), nl.Plan(memory, readout="m"))
        if not first:
            learner.learn(x, y)
        with pytest.raises(UnknownLabel, match="number the classes 0, 1, 2"):
            learner.learn(x, y.index_fill(0, torch.tensor(0), 250_000))
        learner.learn(x, y)
        assert learner.predict_proba(x[:2]).shape == (2, 2)


@pytest.mark.parametrize("num", [1, 40])
def test_constant_targets_have_an_r_squared(num: int) -> None:
    x = torch.randn(num, 4, generator=torch.Generator().manual_seed(0))
    learner, target = nl.Learner(nn.Linear(4, 1)), torch.full((num,), 3.0)
    for _ in range(3):
        learner.learn(x, target)
    assert learner.evaluate(x, target) in (0.0, 1.0)
