"""What was tried, and its file, from which a search goes on."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nestling.core.errors import JobError
from nestling.core.machine import fingerprint
from nestling.jobs.tune.front import Point
from nestling.jobs.tune.space import Value
from nestling.jobs.tune.tuning_job import TuneJob
from nestling.store import write_whole

TRIALS = "trials.json"
_SCHEMA = 1


@dataclass(frozen=True)
class PlanTrial:
    """Trial of one plan in a search.

    Attributes:
        number: 0 is the job's own plan.
        knobs: dotted name -> value; empty for the job's own plan.
        point: mean over seeds; None if it failed.
        accs: final accuracy of each seed.
        seconds: that it took.
        failure: why it failed, in one line.
    """

    number: int
    knobs: dict[str, Value]
    point: Point | None
    accs: list[float] = field(default_factory=list)
    seconds: float = 0.0
    failure: str | None = None


def read_trials(tune_job: TuneJob) -> list[PlanTrial]:
    """The trials that a folder holds of this very search; refuses another's."""
    path = tune_job.job.out / TRIALS
    if not path.exists():
        return []
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        held, raw = data["search"], data["trials"]
        trials = [_read_trial(one) for one in raw]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobError(
            f"'{path}' is damaged ({type(error).__name__}); delete it, or name another folder (out)"
        ) from None
    wanted = json.loads(json.dumps(tune_job.to_data()))
    if held != wanted:
        changed = sorted(key for key in {*held, *wanted} if held.get(key) != wanted.get(key))
        raise JobError(
            f"'{tune_job.job.out}' holds another search (different: {', '.join(changed)}); "
            "name another folder (out)"
        )
    return trials


def _read_trial(raw: dict[str, Any]) -> PlanTrial:
    point = raw.pop("point")
    knobs = {
        name: math.inf if value == "inf" else value for name, value in raw.pop("knobs").items()
    }
    return PlanTrial(point=None if point is None else Point(**point), knobs=knobs, **raw)


def write_trials(tune_job: TuneJob, trials: Sequence[PlanTrial]) -> None:
    """Write all trials anew."""
    content = {
        "schema": _SCHEMA,
        "machine": fingerprint(),
        "search": tune_job.to_data(),
        "trials": [show_trial(one) for one in trials],
    }
    write_whole(tune_job.job.out / TRIALS, json.dumps(content, indent=1, allow_nan=False) + "\n")


def show_trial(trial: PlanTrial) -> dict[str, object]:
    """As JSON, which has no infinity."""
    knobs = {k: "inf" if v == math.inf else v for k, v in trial.knobs.items()}
    return asdict(trial) | {"knobs": knobs}
