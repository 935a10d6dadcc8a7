"""Checking a model or a run against a change contract: measured, judged, said clause by clause."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn

from nestling.consolidate.proposal import digest_tensor, read_tensors
from nestling.core.batches import read_output
from nestling.core.errors import JobError
from nestling.core.heads import find_head_layer
from nestling.core.machine import use_threads
from nestling.core.modes import eval_mode
from nestling.data import TableEncoding
from nestling.jobs.contracts.probe_files import name_positive, read_probe_data
from nestling.jobs.contracts.recorded_facts import (
    is_governed_folder,
    read_changes,
    read_commits,
    read_recorded_facts,
)
from nestling.jobs.rebuilding import RebuiltRun, build_learner, rebuild_learner
from nestling.jobs.run_versions import read_versions
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import Interface
from nestling.judge.contract.contradictions import covers
from nestling.judge.contract.findings import Finding
from nestling.judge.contract.plan_facts import check_against_plan
from nestling.judge.probes import ProbeData, make_probe
from nestling.judge.probes.probe_result import Answering
from nestling.judge.verdicts.contract_facts import (
    ContractFacts,
    InterfaceFacts,
    LevelChanges,
)
from nestling.judge.verdicts.judging import Duty, is_kept, judge_contract, list_duties
from nestling.learn.learner import Learner
from nestling.ledger.version_diff import measure_change, pad_together
from nestling.ledger.version_log import VERSIONS
from nestling.levels import Levels, Plan
from nestling.oversight.measured_views import (
    find_answers,
    keep_answers,
    list_views,
    measure_views,
)
from nestling.oversight.subjects.governed_learner import LearnerSubject
from nestling.oversight.subjects.model_levels import answer_by_model
from nestling.oversight.subjects.plan_reading import read_plan_facts

Weights = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class ContractReport:
    """How a model or a run keeps a contract.

    Attributes:
        contract: that it was checked against.
        findings: one per clause and view.
        duties: how they stand.
        notes: what follows from the contract and the plan, though nothing is wrong.
    """

    contract: Contract
    findings: list[Finding]
    duties: list[Duty]
    notes: list[str]

    @property
    def is_kept(self) -> bool:
        """Whether every clause was judged, and passed."""
        return is_kept(self.findings)


@dataclass(frozen=True)
class _Candidate:
    """What is checked: a model, who answers in which view, and what is known of its past."""

    model: nn.Module
    answers: Mapping[str, Answering]
    before: Mapping[str, Answering] = field(default_factory=dict)
    changes: Mapping[str, LevelChanges] = field(default_factory=dict)
    commits: Mapping[str, Sequence[float]] = field(default_factory=dict)
    encoding: TableEncoding | None = None
    folders: Sequence[Path] = ()
    task: str = ""
    num_threads: int = 1


def check_run(contract_file: Path, run: Path, today: date) -> ContractReport:
    """Check a run of `nestling learn`, or a governed folder, against a contract.

    A run's learner is built anew and measured in every view. Its fast levels stand as they did
    when a person last validated the run, or before its first step, while the spine answers alone.
    A governed folder without a job is judged by what was recorded in it.

    Args:
        contract_file: TOML.
        run: folder.
        today: the day, for duties, reviews and risks.

    Raises:
        SettingError: a contract that is wrong, or does not fit the plan.
        DataError: no run, or probes whose data cannot be read.
    """
    contract = Contract.of(contract_file)
    if is_governed_folder(run):
        plan_facts, facts = read_recorded_facts(run, contract)
        notes = check_against_plan(contract, plan_facts)
        return _judge(contract, replace(facts, today=today), notes)
    rebuilt = rebuild_learner(run)
    learner = rebuilt.learner
    notes = check_against_plan(contract, read_plan_facts(learner.plan, learner.levels.model))
    with use_threads(rebuilt.job.num_threads):
        candidate = _read_run(contract, rebuilt, run, contract_file.parent)
        return _judge(contract, _measure(contract, candidate, today), notes)


def check_module(
    contract_file: Path,
    model: nn.Module,
    plan: Plan,
    today: date,
) -> ContractReport:
    """Check a model that has learned nothing yet, under a plan, against a contract.

    Args:
        contract_file: TOML.
        model: answers as it is, in every view.
        plan: that it is to learn by.
        today: the day.

    Raises:
        SettingError: a contract that is wrong, or does not fit the plan.
        DataError: probes whose data cannot be read.
    """
    contract = Contract.of(contract_file)
    plan_facts = read_plan_facts(plan, model)
    notes = check_against_plan(contract, plan_facts)
    answer = _answer_by_module(Levels(model, plan), contract)
    views: list[str] = [*list_views(contract)]
    answers = dict.fromkeys(views, answer)
    candidate = _Candidate(
        model,
        answers,
        before=answers,  # as given it counts as validated, as it does for `nl.govern`
        changes={name: LevelChanges(0.0, 0.0, 0.0) for name in plan_facts.levels},
        folders=[contract_file.parent],
    )
    return _judge(contract, _measure(contract, candidate, today), notes)


def digest_model(model: nn.Module, contract: Contract) -> dict[str, str]:
    """Digests of all that a contract fixes: name -> sha256."""
    patterns = contract.must_stay_fixed.parameters
    named = read_tensors(model)
    return {name: digest_tensor(value) for name, value in named.items() if covers(patterns, name)}


def digest_run(run: Path, contract: Contract) -> dict[str, str]:
    """Digests of all that a contract fixes of a run's model as it stands: name -> sha256."""
    if is_governed_folder(run):
        _, facts = read_recorded_facts(run, contract)
        if facts.digests is None:
            raise JobError(f"'{run}' keeps no snapshot of a model; sign for its model instead")
        return dict(facts.digests)
    return digest_model(rebuild_learner(run).learner.levels.model, contract)


def _judge(contract: Contract, facts: ContractFacts, notes: list[str]) -> ContractReport:
    assert facts.today is not None
    findings = judge_contract(contract, facts)
    duties = list_duties(contract, findings, facts.today)
    return ContractReport(contract, findings, duties, notes)


def _read_run(
    contract: Contract, rebuilt: RebuiltRun, run: Path, contract_folder: Path
) -> _Candidate:
    learner = rebuilt.learner
    versions = read_versions(run).records if (run / VERSIONS).exists() else []
    validated = [one for one in versions if one.origin == "validated"]
    former = rebuild_learner(run, run / validated[-1].snapshot).learner if validated else None
    start = build_learner(rebuilt.job) if former is None else former
    # A head that has grown since had no weights for its new classes.
    references = {
        name: pad_together(level.tensors(), learner.levels.gradient[name].tensors())[0]
        for name, level in start.levels.gradient.items()
    }
    before: Mapping[str, Answering] = {}
    if former is not None:
        before = _answer_by_learner(former, contract, references, rebuilt.encoding)
    return _Candidate(
        learner.levels.model,
        _answer_by_learner(learner, contract, references, rebuilt.encoding),
        before=before,
        changes=read_changes(run, _measure_changes(learner, references)),
        commits=read_commits(run),
        encoding=rebuilt.encoding,
        folders=[contract_folder, run],
        task=learner.task or "",
    )


def _measure_changes(learner: Learner, references: Weights) -> dict[str, LevelChanges]:
    """How far gradient levels are from where they stood; a trust region holds single updates."""
    return {
        name: LevelChanges(
            per_update=level.spec.trust,
            since_validation=measure_change(references[name], level.tensors()),
        )
        for name, level in learner.levels.gradient.items()
    }


def _measure(contract: Contract, candidate: _Candidate, today: date) -> ContractFacts:
    data = {
        spec.name: read_probe_data(spec, candidate.encoding, candidate.folders)
        for spec in contract.probes
        if spec.data
    }
    specs = {spec.name: name_positive(spec, candidate.encoding) for spec in contract.probes}
    probes = [make_probe(specs[name], given, contract.protocol) for name, given in data.items()]
    kept = keep_answers(candidate.before, probes)
    return ContractFacts(
        today=today,
        digests=digest_model(candidate.model, contract),
        interface=_find_interface(contract.must_stay_fixed.interface, candidate, data),
        changes=candidate.changes,
        measured=measure_views(candidate.answers, probes, kept),
        validated=measure_views(candidate.before, probes, kept),
        commits=candidate.commits,
    )


def _answer_by_learner(
    learner: Learner, contract: Contract, references: Weights, encoding: TableEncoding
) -> dict[str, Answering]:
    """Who answers in each view; values are in the units of the run's files."""
    found = find_answers(LearnerSubject(learner), contract, references)
    if encoding.targets != "values":
        return found
    return {view: _decode(answer, encoding) for view, answer in found.items()}


def _decode(answer: Answering, encoding: TableEncoding) -> Answering:
    return lambda x: encoding.decode_values(answer(x))


def _answer_by_module(levels: Levels, contract: Contract) -> Answering:
    classifies = contract.must_stay_fixed.interface.task != "regression"
    return lambda x: answer_by_model(levels, {}, x, classifies=classifies)


def _find_interface(
    wanted: Interface, candidate: _Candidate, data: Mapping[str, ProbeData]
) -> InterfaceFacts:
    """What the model takes and gives: tried with zeros of the shape that the contract says."""
    layer = find_head_layer(candidate.model)
    task = candidate.task or next(
        (
            "classification" if one.has_classes else "regression"
            for one in data.values()
            if one.y is not None
        ),
        "",
    )
    num_outputs = None if layer is None else layer[1].out_features
    if wanted.input_shape is None:
        return InterfaceFacts(task, None, num_outputs)
    shape, refusal = tuple(wanted.input_shape), ""
    for dtype in (torch.float32, torch.int64):  # numbers, or indices of an embedding
        try:
            with eval_mode(candidate.model), torch.no_grad():
                zeros = torch.zeros(2, *shape, dtype=dtype, device=_find_device(candidate.model))
                found = read_output(candidate.model(zeros))
        except Exception as error:
            # Whatever a user's model raises, it does not take what the contract promises.
            refusal = refusal or " ".join(str(error).split()) or type(error).__name__
            continue
        width = found.shape[-1] if found.ndim > 1 else 1
        return InterfaceFacts(task, shape, width)
    return InterfaceFacts(task, None, num_outputs, refusal)


def _find_device(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device
