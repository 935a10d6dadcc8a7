"""A job: model, data, experiences and plan of one run, as a TOML file says them."""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)
from torch import Tensor, nn

from nestling.core.checked import describe
from nestling.core.errors import JobError, NestlingError, suggest
from nestling.core.imports import import_function
from nestling.data import (
    Experience,
    RawTable,
    TableEncoding,
    Targets,
    list_classes,
    load,
    split_by_class,
)
from nestling.jobs.job_files import describe_targets, join_pairs, read_job_files
from nestling.levels import Plan
from nestling.models import build_model

# JSON has no infinity, which an inline plan may hold as a half-life.
_STRICT = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
_EXAMPLE = 'e.g. model = "my_models:make_net" and data = { train = "a.csv", test = "b.csv" }'


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str | Path) else value


# Units of the one hidden layer of a model that the job does not describe, and the most classes
# that it is made for: more are likely to be values, or numbers that only name something.
HIDDEN, MAX_CLASSES = 128, 10_000

Files = Annotated[tuple[Path, ...], BeforeValidator(_as_list)]


class ModelSource(BaseModel):
    """A built-in model or the user's own function, with its options."""

    model_config = _STRICT
    name: str
    options: dict[str, object] = {}


class DataSource(BaseModel):
    """Where experiences come from: one of a data set's name, files, or a function.

    Attributes:
        name: of a data set.
        train: a file, or several.
        test: one file, one per training file, or none: a fifth of the rows is held out then.
        target: column of the files to predict.
        targets: what it holds, "classes" or "values"; by default decided over all of train.
        encode: make numbers of text, dates and blanks, and scale numbers; false leaves numbers
            as they are and refuses the rest.
        function: "module:function" that returns experiences.
        options: its arguments by name.
    """

    model_config = _STRICT
    name: str | None = None
    train: Files = ()
    test: Files = ()
    target: str = "label"
    targets: Targets | None = None
    encode: bool = True
    function: str | None = None
    options: dict[str, object] = {}


@dataclass(frozen=True)
class JobData:
    """The data of a job.

    Attributes:
        experiences: in order.
        encoding: what columns and targets mean; without columns if no table was read.
        held_out: rows of tables that no test file named.
    """

    experiences: list[Experience]
    encoding: TableEncoding
    held_out: tuple[RawTable, ...] = ()


def _tell_type(made: object) -> str:
    """What was returned; of a sequence also what it holds."""
    if isinstance(made, Sequence) and not isinstance(made, str) and made:
        return f"{type(made).__name__} of {type(made[0]).__name__}"
    return type(made).__name__


def _read_model(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _read_data(value: object) -> object:
    if isinstance(value, str):
        return {"function": value} if ":" in value else {"name": value}
    return value


class Job(BaseModel):
    """Everything that decides a run.

    Attributes:
        model: "mlp", "module:function", or a table with name and options. An mlp without sizes
            gets one hidden layer, and inputs and outputs as the data need.
        data: "digits", "module:function" (returns experiences), or a table, see `DataSource`.
        experiences: lists of classes by number or name, one list per experience; "files" for
            one per training file; "one" for all at once; "given" for what the function
            returned. By default what the data suggest.
        plan: a plan as a table, or the path of one; by default the learner's own.
        epochs: passes over each experience.
        batch_size: examples per step.
        seed: of weights, order and memories.
        num_threads: torch's threads; results depend on it to the last bits.
        out: the run folder.
        replay: examples kept for replay; 0 for none.
        pretrained: the model's features can be trusted from the start.
        snapshot_every: steps between two snapshots; 0 for only after each experience.
        evaluate_every: steps between two evaluations within an experience; 0 for ten times.
    """

    model_config = _STRICT
    model: Annotated[ModelSource, BeforeValidator(_read_model)] = ModelSource(name="mlp")
    data: Annotated[DataSource, BeforeValidator(_read_data)]
    experiences: tuple[tuple[int | str, ...], ...] | Literal["files", "one", "given"] | None = None
    plan: dict[str, object] | Path | None = None
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(32, ge=1)
    seed: int = 0
    num_threads: int = Field(2, ge=1)
    out: Path = Path("runs/learn")
    replay: int = Field(0, ge=0)
    pretrained: bool = False
    snapshot_every: int = Field(500, ge=0)
    evaluate_every: int = Field(0, ge=0)

    @field_validator("experiences")
    @classmethod
    def _check_groups(cls, groups: object) -> object:
        remedy = "give lists of classes such as [[0, 1], [2, 3]], or leave the key out"
        if isinstance(groups, tuple) and not groups:
            raise ValueError(f"[] names no class; {remedy}")
        if isinstance(groups, tuple) and not all(groups):
            number = next(index for index, group in enumerate(groups, start=1) if not group)
            raise ValueError(f"group {number} names no class; {remedy}")
        return groups

    def to_data(self) -> dict[str, object]:
        """The job as JSON-ready data, to be read back by `read_job`."""
        data: dict[str, object] = json.loads(self.model_dump_json(exclude_none=True))
        return data

    def build_model(self) -> nn.Module:
        """The model with its first weights; raises ModelError."""
        return build_model(self.model.name, self.model.options, seed=self.seed)

    def build_plan(self) -> Plan | None:
        """The plan, or None for the default; raises SettingError."""
        if self.plan is None:
            return None
        return Plan.load(self.plan) if isinstance(self.plan, Path) else Plan.from_data(self.plan)

    def load_experiences(self) -> list[Experience]:
        """Read the data and split them; raises DataError or JobError."""
        return self.load_data().experiences

    def load_data(self, kept: TableEncoding | None = None) -> JobData:
        """Read the data, split them, and say what columns and targets mean.

        Args:
            kept: of tables that were encoded before.

        Raises:
            JobError: data that the job names wrongly.
            DataError: data that cannot be learned from.
        """
        source = self.data
        given = [bool(source.name), bool(source.train), bool(source.function)]
        if sum(given) != 1:
            raise JobError(
                "data must say exactly one of name, train (with test), function; "
                f"it says {sum(given)}"
            )
        if source.train:
            return self._read_files(kept)
        if source.function:
            experiences = self._call_function(source.function)
        else:
            experiences = self._split(*load(str(source.name)), labels=())
        return JobData(experiences, describe_targets(experiences, source.target))

    @property
    def is_open(self) -> bool:
        """Whether the model depends on the data: an mlp that says no sizes."""
        return self.model.name == "mlp" and "sizes" not in self.model.options

    def complete(self, data: JobData) -> "Job":
        """The job with nothing left open: the plan itself, and sizes of an mlp that says none.

        Raises:
            JobError: classes that are too many for a model that nobody described.
            SettingError: the plan cannot be read.
        """
        plan = self.build_plan()
        changed: dict[str, object] = {} if plan is None else {"plan": plan.to_data()}
        if self.is_open:
            x, y = data.experiences[0].train
            classes = [label for one in data.experiences for label in one.classes]
            num_outputs = max(classes) + 1 if classes else y[0].numel()
            if num_outputs > MAX_CLASSES:
                raise JobError(
                    f"target {self.data.target!r} holds labels up to {num_outputs - 1}; if they "
                    "are values say targets = 'values' in data, else give the model's sizes"
                )
            options = {**self.model.options, "sizes": [x[0].numel(), HIDDEN, num_outputs]}
            changed["model"] = self.model.model_copy(update={"options": options})
        return self.model_copy(update=changed)

    def _call_function(self, name: str) -> list[Experience]:
        if self.experiences not in (None, "given"):
            raise JobError(
                f"experiences = {self.experiences!r}: data function {name!r} returns its own; "
                "leave the key out"
            )
        function = import_function(name)
        try:
            made = function(**self.data.options)
        except NestlingError:
            raise
        except Exception as error:
            raise JobError(
                f"data function {name!r} failed: {type(error).__name__}: {error}"
            ) from error
        found = list(made) if isinstance(made, Sequence) else []
        if not found or not all(isinstance(one, Experience) for one in found):
            raise JobError(
                f"data function {name!r} must return a list of nestling.data.Experience, "
                f"got {_tell_type(made)}"
            )
        return found

    def _read_files(self, kept: TableEncoding | None) -> JobData:
        source = self.data
        if len(source.test) not in (0, 1, len(source.train)):
            raise JobError(
                f"data has {len(source.train)} train and {len(source.test)} test files; give one "
                "test file, one per training file, or none to hold rows out"
            )
        files = read_job_files(
            *(source.train, source.test, source.target),
            targets=source.targets,
            encode=source.encode,
            seed=self.seed,
            kept=kept,
        )
        if self.experiences not in (None, "files"):
            joined = (*join_pairs(files.train), *join_pairs(files.test))
            experiences = self._split(*joined, labels=files.encoding.labels)
        else:
            pairs = files.train
            tests = files.test * len(pairs) if len(files.test) == 1 else files.test
            experiences = [
                Experience(path.stem, pair, held_out, list_classes(pair[1]))
                for path, pair, held_out in zip(source.train, pairs, tests, strict=True)
            ]
        return JobData(experiences, files.encoding, files.held_out)

    def _split(
        self, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, labels: Sequence[str]
    ) -> list[Experience]:
        if self.experiences in ("files", "given"):
            raise JobError(
                f"experiences = {self.experiences!r} does not fit data {self.data.name!r}; "
                "give lists of classes, or 'one'"
            )
        groups = self.experiences
        if groups is None or isinstance(groups, str):
            name = self.data.name or "all"
            return [
                Experience(
                    name=name,
                    train=(x, y),
                    test=(x_test, y_test),
                    classes=list_classes(y),
                    task=None,
                )
            ]
        numbers = [[_find_class(label, labels) for label in group] for group in groups]
        made = split_by_class(x, y, x_test, y_test, numbers)
        names = ["classes " + " ".join(str(label) for label in group) for group in groups]
        return [replace(one, name=name) for one, name in zip(made, names, strict=True)]


def read_job(data: object, source: str = "job", folder: Path = Path()) -> Job:
    """Check plain data and make the job.

    Args:
        data: parsed TOML or JSON.
        source: what to call it in errors.
        folder: relative paths of data and plan start here.

    Raises:
        JobError: a wrong key or value; names it and what would work.
    """
    try:
        job = Job.model_validate(data)
    except ValidationError as error:
        raise JobError(f"{source}: {_describe(error)}") from None
    files = {
        key: tuple(folder / path for path in getattr(job.data, key)) for key in ("train", "test")
    }
    changed: dict[str, object] = {"data": job.data.model_copy(update=files)}
    if isinstance(job.plan, Path):
        changed["plan"] = folder / job.plan
    return job.model_copy(update=changed)


def load_job(path: Path) -> Job:
    """Read a job file; paths of data and plan in it are relative to it.

    Raises:
        JobError: unreadable, no TOML, or see `read_job`.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"cannot read job '{path}': {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"job '{path}' is not TOML: {error}") from None
    if not data:
        raise JobError(f"job '{path}' is empty; it needs model and data, {_EXAMPLE}")
    return read_job(data, f"job '{path}'", path.parent)


def _describe(error: ValidationError) -> str:
    """One line: key, problem, value; the nearest key for an unknown one."""
    found = error.errors(include_url=False)
    # A misspelt key is also a missing one: say the spelling.
    first = min(found, key=lambda one: one["type"] != "extra_forbidden")
    where = [str(part) for part in first["loc"]]
    key = ".".join(where) or "job"
    if first["type"] == "extra_forbidden":
        tables: dict[str, type[BaseModel]] = {"model": ModelSource, "data": DataSource}
        known = tables[where[0]] if len(where) > 1 else Job
        return f"unknown key {key!r}; {suggest(where[-1], known.model_fields)}"
    if first["type"] == "missing":
        return f"key {key!r} is missing; {_EXAMPLE}"
    return describe(error)


def _find_class(label: int | str, labels: Sequence[str]) -> int:
    """The number of a class, by its name where the classes have names."""
    if not labels and isinstance(label, int):
        return label
    if str(label) not in labels:
        known = suggest(str(label), labels) if labels else "the classes of this job are numbers"
        raise JobError(f"experiences: no class {label!r}; {known}")
    return labels.index(str(label))
