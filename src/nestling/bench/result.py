"""The result of a suite, in the one form that all suites write, and what it must reach."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nestling.core.machine import fingerprint
from nestling.store import write_whole


@dataclass(frozen=True)
class SuiteResult:
    """Result of a benchmark: figures, rows, and the machine it ran on.

    Args:
        suite: its name, as in `nestling bench NAME`.
        figures: name -> number; the names are fixed, so that results can be compared.
        rows: one flat record per method, side or round; for tables.
        num_threads: of torch while it was measured; None for as many as when it is written.
    """

    suite: str
    figures: Mapping[str, float]
    rows: Sequence[Mapping[str, object]] = field(default_factory=list)
    num_threads: int | None = None

    def to_data(self) -> dict[str, object]:
        """JSON-ready data, with the machine it ran on; numbers that are not finite become null."""
        machine = fingerprint()
        if self.num_threads is not None:
            machine["num_threads"] = self.num_threads
        return {
            "suite": self.suite,
            "figures": {name: _finite(value) for name, value in self.figures.items()},
            "rows": [{name: _finite(value) for name, value in row.items()} for row in self.rows],
            "machine": machine,
        }


def write_result(path: Path, result: SuiteResult) -> None:
    """Write a benchmark result as JSON, atomically.

    Args:
        path: file; its folder is made if missing, an older result is replaced.
        result: what was measured.

    Raises:
        OSError: the file cannot be written; an older one is untouched.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_result(Path(folder) / "r.json", SuiteResult("demo", {"acc": 0.5}))
    ...     read_figures(Path(folder) / "r.json")
    {'acc': 0.5}
    """
    text = json.dumps(result.to_data(), indent=1, allow_nan=False) + "\n"
    write_whole(path, text)


def read_figures(path: Path) -> dict[str, float]:
    """Read the figures of a written benchmark result."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return dict(data["figures"])


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Limit:
    """A bound on one figure.

    >>> Limit(high=1.05).holds(1.04), Limit(low=0.95).holds(0.9), str(Limit(high=1.05))
    (True, False, '<= 1.05')
    """

    low: float = -float("inf")
    high: float = float("inf")

    def holds(self, value: float) -> bool:
        """Whether the value is within; NaN never is."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"<= {self.high:g}" if self.low == -float("inf") else f">= {self.low:g}"


LIMITS: dict[str, dict[str, Limit]] = {
    "overhead": {
        "one_level_over_adamw": Limit(high=1.05),
        "one_level_bitwise_equal": Limit(low=1.0),
        "three_levels_over_adamw": Limit(high=0.45),
        "three_levels_separate_over_adamw": Limit(high=0.75),
        "skip_step_over_full": Limit(high=0.48),
        "skip_saved_bytes_over_full": Limit(high=0.6),
        "learner_over_loop": Limit(high=1.05),
        "learner_over_loop_b10": Limit(high=1.15),
        "import_over_torch": Limit(high=1.10),
    },
    "ridge": {
        "mnist_accuracy": Limit(low=98.0),
        "order_max_diff": Limit(high=0.0),
        "remove_max_diff": Limit(high=0.0),
        "merge_max_diff": Limit(high=0.0),
        "order_answer_diff": Limit(high=1e-6),
        "remove_answer_diff": Limit(high=1e-6),
        "merge_answer_diff": Limit(high=1e-6),
        "time_over_matmul": Limit(high=1.25),
    },
    "memory": {
        "acc_split_mnist_full": Limit(low=98.0),
        "acc_split_fashion_full": Limit(low=89.5),
        "acc_large_split_mnist_full": Limit(low=98.8),
        "acc_large_split_fashion_full": Limit(low=91.3),
        "acc_split_mnist": Limit(low=97.0),
        "acc_split_fashion": Limit(low=86.8),
        "acc_permuted_mnist": Limit(low=83.0),
        "acc_rotated_mnist": Limit(low=91.5),
        "learn_over_finetune_b10": Limit(high=1.4),
        "learn_over_finetune_b32": Limit(high=1.8),
        "learn_over_finetune_b128": Limit(high=2.2),
        "predict_after_learn_ms_1500": Limit(high=2.0),
        "predict_after_learn_ms_3584": Limit(high=20.0),
        "sleep_mnist": Limit(low=94.0),
        "sleep_fashion": Limit(low=83.0),
    },
    "spine-cost": {
        "default_seconds_over_full_finetune": Limit(high=0.6),
    },
    "personal": {
        "first_events_worst": Limit(high=1.0),
        "person_accuracy": Limit(low=0.90),
        "person_over_finetune": Limit(low=5.0),
        "person_over_finetune_least": Limit(low=0.0),
        "person_lost": Limit(high=0.5),
        "person_mnist_over_finetune": Limit(low=5.0),
        "person_mnist_over_finetune_least": Limit(low=0.0),
        "person_mnist_lost": Limit(high=0.5),
        "watch_removed_recordings": Limit(low=0.08),
        "watch_removed_halves": Limit(low=0.18),
        "conflict_over_sgd": Limit(low=5.0),
        "drift_prequential": Limit(low=0.82),
        "drift_final": Limit(low=0.84),
        "gate_over_finetune": Limit(high=0.15),
        "answerer_rate": Limit(low=0.7),
        "personal_bytes": Limit(high=1e6),
        "personal_over_one": Limit(high=1.2),
    },
    "streams": {
        "mean_accuracy": Limit(low=0.895),
        "within_best": Limit(low=11.0),
        "worst_gap": Limit(high=0.007),
        "accuracy_elec2": Limit(low=0.955),
        "bike_mae_over_arf": Limit(high=1.0),
        "retention_0_4": Limit(low=0.97),
        "retention_5_9": Limit(low=0.97),
        "second_visit": Limit(high=0.4),
        "conflict_over_sgd": Limit(low=6.0),
        "drift_prequential": Limit(low=0.83),
        "drift_final": Limit(low=0.845),
        "delayed_elec2": Limit(low=0.90),
        "delayed_agrawal": Limit(low=0.90),
        "delayed_flights": Limit(low=0.75),
        "recovery_over_arf_abrupt": Limit(high=1.0),
        "recovery_over_arf_return": Limit(high=1.0 / 3.0),
        "speed_over_arf_single": Limit(low=8.0),
        "speed_over_arf_block32": Limit(low=12.0),
        "state_bytes": Limit(high=64.0 * 2**20),
        "abuse_finite": Limit(low=1.0),
        "abuse_state_growth": Limit(high=0.0),
        "abuse_gap": Limit(high=0.5),
    },
    "governance": {
        "bias_found_spine": Limit(low=1.0),
        "bias_found_whole": Limit(high=0.0),
        "poison_quiet_spine_gap": Limit(high=5.0),
        "poison_quiet_whole_gap": Limit(high=5.0),
        "poison_loud_spine_gap": Limit(high=5.0),
        "poison_loud_whole_gap": Limit(high=5.0),
        "clean_refused": Limit(high=0.02),
        "fairness_max_diff": Limit(high=1e-12),
        "shards_max_diff": Limit(high=0.0),
        "rollback_over_read": Limit(high=2.0),
        "contract_overhead": Limit(high=1.10),
    },
    "blocks": {
        "delta_over_gpt": Limit(high=1.45),
        "cms_over_gpt": Limit(high=2.5),
        "cms_first_over_gpt": Limit(high=1.6),
        "length_scaling": Limit(high=4.4),
        "m3_over_torch_muon": Limit(high=0.6),
        "muon_over_torch_muon": Limit(high=0.6),
        "formal_delta_min": Limit(low=1.0),
        "formal_seconds_max": Limit(high=60.0),
        "starts_learned_minus_frozen": Limit(high=-0.01),
    },
    "timescales": {"plain_bitwise": Limit(low=1.0)},
    "demo": {
        "forgetting_over_finetune": Limit(high=0.25),
        "new_accuracy_gap": Limit(high=3.0),
        "acc_over_replay": Limit(low=0.0),
        "total_seconds": Limit(high=90.0),
    },
}


def find_missed(suite: str, figures: Mapping[str, float]) -> list[str]:
    """A line for every figure that misses its limit or is not there.

    >>> find_missed("demo", {"forgetting_over_finetune": 0.5, "new_accuracy_gap": 1.0,
    ...     "acc_over_replay": 0.1, "total_seconds": 40.0})
    ['forgetting_over_finetune = 0.5, must be <= 0.25']
    """
    lines = []
    for name, limit in LIMITS[suite].items():
        if name not in figures:
            lines.append(f"{name} was not measured, must be {limit}")
        elif not limit.holds(figures[name]):
            lines.append(f"{name} = {figures[name]:.4g}, must be {limit}")
    return lines
