"""What a contract is judged by on a live model: figures in every view, digests, changes, dates."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime

from torch import Tensor

from nestling.answer.views.restricted import References
from nestling.consolidate.proposal import digest_tensor
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.findings import Finding
from nestling.judge.probes.probe_result import Probe
from nestling.judge.verdicts.contract_facts import (
    ContractFacts,
    InterfaceFacts,
    Measured,
)
from nestling.judge.verdicts.judging import Duty, judge_contract, list_duties
from nestling.oversight.measured_views import (
    Cohorts,
    KeptAnswers,
    find_answers,
    keep_answers,
    measure_views,
)
from nestling.oversight.subjects.subject import Subject


class ContractJudge:
    """Judges a model by a contract, in every view, beside its last validated version.

    Args:
        contract: in force.
        probes: that measure.
        signed: name -> sha256 of what must stay fixed.
        references: where the weights of fast levels stand while the spine answers alone.
        cohorts: of the user's own.

    Attributes:
        measured: view -> probe -> result of the live model, as measured last.
        commits: clause id -> when its proposals were committed.
    """

    def __init__(
        self,
        contract: Contract,
        probes: Sequence[Probe],
        signed: Mapping[str, str],
        references: References,
        cohorts: Cohorts,
    ) -> None:
        self._cohorts = cohorts
        self.contract, self.probes = contract, list(probes)
        self.references = references
        self._signed = dict(signed)
        self._validated: Measured = {}
        self._kept = KeptAnswers()
        self.measured: Measured = {}
        self.commits: dict[str, list[float]] = {}

    def measure(self, subject: Subject) -> Measured:
        """What every probe measures of a model in every view."""
        answers = find_answers(subject, self.contract, self.references, self._cohorts)
        return measure_views(answers, self.probes, self._kept)

    def judge(self, subject: Subject, measured: Measured, at: float) -> list[Finding]:
        """How a model keeps the contract, clause by clause and view by view."""
        return judge_contract(self.contract, self._find_facts(subject, measured, at))

    def list_duties(self, findings: Sequence[Finding], at: float) -> list[Duty]:
        """How duties stand by these findings."""
        return list_duties(self.contract, findings, find_day(at))

    def validate(self, subject: Subject) -> None:
        """Take the model as it stands for the validated version."""
        self.measured = self.measure(subject)
        self._validated = self.measured
        answers = find_answers(subject, self.contract, self.references, self._cohorts)
        self._kept = keep_answers(answers, self.probes)

    def take_over(self, validated: Subject, commits: Mapping[str, Sequence[float]]) -> None:
        """Go on after a restart.

        Args:
            validated: the model as it was validated last.
            commits: clause id -> when its proposals were committed.
        """
        self.validate(validated)
        self.commits = {clause: list(times) for clause, times in commits.items()}

    def _find_input_shape(self) -> tuple[int, ...] | None:
        """Of one example, as the probes show it to the model, which answered."""
        shapes = (_read_shape(probe) for probe in self.probes if any(self.measured.values()))
        return next((shape for shape in shapes if shape is not None), None)

    def _find_facts(self, subject: Subject, measured: Measured, at: float) -> ContractFacts:
        interface = subject.read_interface()
        outputs = interface.get("num_outputs") or self._kept.num_outputs
        return ContractFacts(
            today=find_day(at),
            digests={
                name: digest_tensor(value)
                for name, value in subject.read_fixed().items()
                if name in self._signed
            },
            signed=self._signed,
            interface=InterfaceFacts(
                task=str(interface.get("task") or ""),
                input_shape=self._find_input_shape(),
                num_outputs=outputs if isinstance(outputs, int) else None,
            ),
            changes={name: subject.measure_change(name) for name in subject.levels},
            measured=measured,
            validated=self._validated,
            commits=self.commits,
        )


def _read_shape(probe: Probe) -> tuple[int, ...] | None:
    """Of one example in the data of a probe, where these are one tensor."""
    x = getattr(getattr(probe, "data", None), "x", None)
    return tuple(x.shape[1:]) if isinstance(x, Tensor) else None


def read_changes(subject: Subject) -> dict[str, float]:
    """Relative change of every level since its last validation."""
    found = {name: subject.measure_change(name).since_validation for name in subject.levels}
    return {name: change for name, change in found.items() if change is not None}


def read_weights(subject: Subject) -> dict[str, dict[str, Tensor]]:
    """Tensors of every level by name; copies."""
    return {name: level.tensors() for name, level in subject.levels.items()}


def find_end(day: date) -> float:
    """When a day ends, in seconds since 1970, UTC.

    >>> find_end(date(1970, 1, 1))
    86400.0
    """
    return (day - date(1970, 1, 1)).days * 86_400.0 + 86_400.0


def find_day(at: float) -> date:
    """The day of a moment, UTC."""
    return datetime.fromtimestamp(at, UTC).date()
