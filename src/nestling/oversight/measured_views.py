"""What probes measure in each view: the spine alone, all levels, each cohort's own fast levels.

A fast level can hide harm in the spine, so that a check of the whole alone would pass it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from nestling.answer.views.restricted import References
from nestling.core.errors import NotFitted
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import ALL_VIEWS, View
from nestling.judge.probes import measure_probes
from nestling.judge.probes.probe_result import Answering, Probe, ProbeResult
from nestling.judge.verdicts.contract_facts import Measured
from nestling.oversight.subjects.subject import Subject

# Name -> who answers with that cohort's own fast levels, given what is governed or a copy of it.
Cohorts = Mapping[str, Callable[[Any], Answering]]


def list_views(contract: Contract) -> list[View]:
    """The views in which clauses of a contract are judged; the whole in any case."""
    asked: set[View] = {"whole"}
    for clause in contract.must_stay_fixed.behaviour:
        asked |= {*clause.views}
    for duty in contract.must_change_by:
        asked |= {*duty.views}
    if contract.list_spine():
        asked.add("spine")
    return [view for view in ALL_VIEWS if view in asked]


def find_answers(
    subject: Subject, contract: Contract, references: References, cohorts: Cohorts | None = None
) -> dict[str, Answering]:
    """Who answers in each view: "spine", "whole", and "cohorts/NAME" of each that has levels.

    Args:
        subject: whose levels answer.
        contract: says which are the spine, and which views are judged.
        references: where the weights of levels that are silent stand.
        cohorts: beside those that the subject knows of; None for none.
    """
    found: dict[str, Answering] = {}
    for view in list_views(contract):
        if view == "spine":
            found[view] = subject.answer_by(contract.list_spine(), references)
        elif view == "whole":
            found[view] = subject.answer_by(None, references)
        else:
            own = {name: make(subject.target) for name, make in (cohorts or {}).items()}
            everyone = subject.list_cohorts() | own
            found |= {f"cohorts/{name}": answer for name, answer in everyone.items()}
    return found


class KeptAnswers:
    """Answers of a version to the data of probes, kept so that later flips can be counted.

    Args:
        answers: view -> data digest -> (N, K) probabilities or (N, M) values.
    """

    def __init__(self, answers: Mapping[str, Mapping[str, Tensor]] | None = None) -> None:
        self.answers = {view: dict(by_data) for view, by_data in (answers or {}).items()}

    @property
    def num_outputs(self) -> int | None:
        """Classes or values of an answer; None if there is none."""
        kept = (answer for by_data in self.answers.values() for answer in by_data.values())
        return next((answer.shape[1] for answer in kept if answer.ndim == 2), None)

    def find(self, view: str, probe: Probe) -> Answering | None:
        """Who answers as that version did to the data of a probe; None if it was not asked."""
        kept = self.answers.get(view, {}).get(probe.data_digest)
        return None if kept is None else (lambda _: kept)


def measure_views(
    answers: Mapping[str, Answering], probes: Sequence[Probe], kept: KeptAnswers
) -> Measured:
    """What every probe measures in every view: view -> probe -> result.

    Args:
        answers: view -> who answers.
        probes: to be measured.
        kept: answers of the last validated version, for flips.
    """
    found: dict[str, dict[str, ProbeResult]] = {}
    for view, answer in answers.items():
        found[view] = {}
        for probes_of_data in _group_by_data(probes).values():
            before = kept.find(view, probes_of_data[0])
            try:
                results = measure_probes(probes_of_data, answer, before)
            except NotFitted:
                continue  # nothing was learned that could be judged
            found[view] |= {result.probe: result for result in results}
    return found


def keep_answers(answers: Mapping[str, Answering], probes: Sequence[Probe]) -> KeptAnswers:
    """What each view answers now to the data of every probe that has some."""
    kept: dict[str, dict[str, Tensor]] = {}
    for view, answer in answers.items():
        kept[view] = {}
        for digest, probes_of_data in _group_by_data(probes).items():
            recorder = _Recorder(answer)
            try:
                measure_probes(probes_of_data[:1], recorder, None)
            except NotFitted:
                continue
            if recorder.first is not None:
                kept[view][digest] = recorder.first
    return KeptAnswers(kept)


class _Recorder:
    """Who answers, and the first answer that was given."""

    def __init__(self, answer: Answering) -> None:
        self._answer = answer
        self.first: Tensor | None = None

    def __call__(self, x: Any) -> Tensor:
        found = self._answer(x)
        if self.first is None:
            self.first = found.detach().clone()
        return found


def _group_by_data(probes: Sequence[Probe]) -> dict[str, list[Probe]]:
    groups: dict[str, list[Probe]] = {}
    for probe in probes:
        groups.setdefault(probe.data_digest, []).append(probe)
    return groups


def flatten_behaviour(measured: Measured) -> dict[str, float]:
    """Figures as a version's record has them: "probe/view" -> value."""
    return {
        f"{name}/{view}": result.value
        for view, results in measured.items()
        for name, result in results.items()
        if math.isfinite(result.value)
    }
