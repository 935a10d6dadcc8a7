"""The job of a search: a job as `nestling learn` takes it, with a `[tune]` table."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nestling.core.checked import describe
from nestling.core.errors import JobError, suggest
from nestling.jobs.job import Job, read_job
from nestling.jobs.tune.front import Preference
from nestling.jobs.tune.space import Knob, check_space, derive_space, read_space
from nestling.learn.default import make_default_plan
from nestling.levels import Plan, assign_levels


class TuneSettings(BaseModel):
    """The `[tune]` table.

    Attributes:
        num_trials: plans to try, the job's own included.
        num_seeds: runs per plan, whose figures are averaged.
        held_out: share of every experience's training examples that plans are judged on.
        timeout_seconds: begin no trial after so long; None for no limit.
        prefer: which of the front is chosen.
        space: knobs; None for `derive_space`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    num_trials: int = Field(40, ge=2)
    num_seeds: int = Field(2, ge=1)
    held_out: float = Field(0.2, gt=0.0, lt=1.0)
    timeout_seconds: float | None = Field(None, gt=0.0)
    prefer: Preference = "balance"
    space: dict[str, Any] | None = None


@dataclass(frozen=True)
class TuneJob:
    """Settings of a hyperparameter search.

    Attributes:
        job: model, data, batches; its `out` is the folder of the search.
        plan: the job's plan, or the default one that it would get.
        settings: of the search.
        knobs: what may be turned, checked against the plan.
    """

    job: Job
    plan: Plan
    settings: TuneSettings
    knobs: tuple[Knob, ...]

    def to_data(self) -> dict[str, object]:
        """What decides the trials, as JSON-ready data: a search goes on only if it is the same."""
        job = {key: value for key, value in self.job.to_data().items() if key != "out"}
        settings = self.settings
        return {
            "job": job,
            "plan": self.plan.to_toml(),
            "knobs": [f"{knob}" for knob in self.knobs],
            "num_seeds": settings.num_seeds,
            "held_out": settings.held_out,
        }


def load_tune_job(path: Path) -> TuneJob:
    """Read a TOML job file with a `[tune]` table; without one the defaults hold.

    Raises:
        JobError: unreadable, no TOML, a wrong key or value; names it.
        SettingError: knobs that the plan does not have or take.
        ModelError: the model cannot be built.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"cannot read job '{path}': {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"job '{path}' is not TOML: {error}") from None
    raw = data.pop("tune", {})
    if not isinstance(raw, Mapping):
        raise JobError(f"job '{path}': tune is {raw!r}; write a [tune] table")
    if extra := sorted(raw.keys() - TuneSettings.model_fields.keys()):
        hint = suggest(extra[0], TuneSettings.model_fields)
        raise JobError(f"job '{path}': unknown key 'tune.{extra[0]}'; {hint}")
    try:
        settings = TuneSettings.model_validate(raw)
    except ValidationError as error:
        raise JobError(f"job '{path}', tune: {describe(error)}") from None
    job = read_job(data, f"job '{path}'", path.parent)
    if "out" not in data:
        job = job.model_copy(update={"out": Path("runs/tune")})
    if job.is_open:
        job = job.complete(job.load_data())
    model = job.build_model()
    plan = job.build_plan() or make_default_plan(
        model, pretrained=job.pretrained, replay=job.replay
    )
    assign_levels(model, plan)  # the plan must fit the model before anything is tried
    if settings.space is not None:
        knobs = read_space(settings.space, plan)
    else:
        knobs = derive_space(plan)
        check_space(knobs, plan)
    if not knobs:
        raise JobError(f"job '{path}': its plan has no knob to turn; name some in [tune.space]")
    return TuneJob(job, plan, settings, tuple(knobs))
