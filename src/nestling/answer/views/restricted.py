"""Answers of some levels of a learner only: the slow ones by themselves, for one.

A fast level can hide harm in the spine, so both are judged: whoever is not named is silent.
"""

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nestling.answer.answerer import check_probabilities, choose_labels, read_inputs
from nestling.answer.experts import Answers
from nestling.answer.panel import Panel, check_answer
from nestling.answer.readout import Readout
from nestling.answer.targets import keep_known
from nestling.core.batches import Batch, check_batch
from nestling.core.errors import (
    MismatchedParameters,
    NotFitted,
    SettingError,
    UnknownLevel,
    suggest,
)
from nestling.core.modes import in_own_modes
from nestling.core.params import check_same_names
from nestling.levels import Levels
from nestling.levels.low_rank import LowRank
from nestling.memory.mixing.mixture import mix_rows, pad_classes
from nestling.memory.ridge import Task

# Those of whom the gate believes nothing still answer where nobody else does.
_LEAST_SHARE = 1e-12
# Where the weights of levels that are silent stand: level -> name -> tensor.
References = Mapping[str, Mapping[str, Tensor]]


def find_reference(levels: Levels, name: str, references: References) -> dict[str, Tensor]:
    """Where the weights of a gradient level that is silent stand: (name -> tensor).

    That of `references`; else 0 for the factors of low-rank adapters, which then add nothing.

    Raises:
        SettingError: there is neither.
        MismatchedParameters: it is of other parameters.
    """
    own = levels.gradient[name].tensors()
    if name in references:
        given = {param: _grow(value, own.get(param)) for param, value in references[name].items()}
        try:
            check_same_names(given, own)
        except MismatchedParameters as error:
            raise MismatchedParameters(f"the reference of level {name!r}: {error}") from None
        return given
    if own.keys() <= _list_factors(levels.model):
        return {param: torch.zeros_like(value) for param, value in own.items()}
    raise SettingError(
        f"level {name!r} is not named and nothing says where its weights stand meanwhile; give "
        f"references={{{name!r}: levels[{name!r}].tensors()}} of a time before it learned, which "
        "nl.govern keeps, or name it, too"
    )


def _grow(value: Tensor, like: Tensor | None) -> Tensor:
    """A tensor with as many rows as one that has grown since; new ones are 0 and say nothing."""
    has_grown = like is not None and like.ndim > 0 and value.shape[1:] == like.shape[1:]
    if like is None or not has_grown or len(value) >= len(like):
        return value
    grown = torch.zeros_like(like)
    grown[: len(value)] = value
    return grown


def _list_factors(model: nn.Module) -> set[str]:
    """Names of the parameters of low-rank adapters."""
    return {
        f"{place}.{name}"
        for place, module in model.named_modules()
        if isinstance(module, LowRank)
        for name, _ in module.named_parameters(recurse=False)
    }


def check_named(levels: Levels, names: Collection[str]) -> None:
    """Raise unless these are names of levels, one at least."""
    if isinstance(names, str) or not names:
        raise SettingError(f"levels {names!r}; a list of levels' names works, such as ['spine']")
    for name in names:
        if name not in levels:
            raise UnknownLevel(f"no level {name!r}; {suggest(name, levels)}")


@contextmanager
def standing_at(levels: Levels, values: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with some tensors at other values; afterwards all are as they were, bit for bit."""
    own = dict(levels.model.named_parameters()) | dict(levels.model.named_buffers())
    before = {name: own[name].detach().clone() for name in values}
    try:
        with torch.no_grad():
            for name, value in values.items():
                own[name].copy_(value)
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                own[name].copy_(value)


def find_silent(
    levels: Levels, names: Collection[str], references: References
) -> dict[str, Tensor]:
    """Values of the weights of all gradient levels that are not named: name -> tensor."""
    check_named(levels, names)
    found: dict[str, Tensor] = {}
    for name in levels.gradient:
        if name not in names:
            found |= find_reference(levels, name, references)
    return found


class RestrictedPanel:
    """Who answers of a learner's experts when only some levels may: memories, copies, live model.

    Weights of gradient levels that are not named stand at their references; memories, concepts
    and copies that are not named are silent. Of several who are left, the gate of the learner
    says how they are mixed, where the slow one is among them; else their shares of it.

    Args:
        panel: of the learner.
        names: of the levels that answer.
        references: where the weights of the others stand, see `find_reference`.
        device: of the model.

    Raises:
        UnknownLevel: a name that no level has.
        SettingError: none of them answers, or a level has no reference.
    """

    def __init__(
        self, panel: Panel, names: Collection[str], references: References, device: torch.device
    ) -> None:
        self.levels, self.device = panel.levels, device
        self.values = find_silent(panel.levels, names, references)
        self.readout = panel.readout
        self.experts = panel.experts
        heard = set(names)
        if heard & panel.levels.gradient.keys():
            heard.add("live")
        self.heard = tuple(name for name in panel.experts.names if name in heard)
        outside = panel.experts.outside
        self.is_outside_heard = outside is not None and outside in heard
        if not self.heard and not self.is_outside_heard:
            who = ", ".join(panel.levels.plan.answering)
            raise SettingError(
                f"none of the levels {sorted(names)} answers; those who answer in this plan: {who}"
            )

    @torch.no_grad()
    def answer(self, batch: Batch, task: int | None = None) -> tuple[Tensor, Task]:
        """Probabilities (N, ..., K) or values (N, M) of those who may answer, and which.

        Raises:
            NotFitted: nothing was learned yet and nobody of them knows anything.
            NonFiniteInput: nobody has a finite answer to a row.
        """
        batch = Batch(batch.inputs, batch.keywords).to(self.device)
        check_batch(batch)
        with standing_at(self.levels, self.values):
            mixed, shape, kind = self._answer(batch)
        check_answer(mixed)
        if kind == "classification":
            mixed = self.experts.targets.restrict(mixed, task)
        return mixed.reshape(*shape, mixed.shape[-1]).float(), kind

    def _answer(self, batch: Batch) -> tuple[Tensor, tuple[int, ...], Task]:
        if not self.heard:
            return self.experts.answer_as_given(batch, self.experts.targets.task)
        if self.readout is None:
            raise NotFitted("the learner has learned nothing yet; call fit or learn first")
        twin = copy.copy(self.experts)
        if not self.is_outside_heard:
            twin.outside = None
            twin.slow = ""
        found = twin.answer(batch)
        mixed = self._mix(self.readout, found)
        if self.readout.task == "classification":
            mixed = keep_known(mixed, self.experts.find_known(mixed.shape[-1]))
        return mixed, found.shape, self.readout.task

    def _mix(self, readout: Readout, found: Answers) -> Tensor:
        answers = found.by_expert
        places = [i for i, name in enumerate(self.experts.names) if name in self.heard]
        if len(places) == 1 and found.knowers is None:
            return answers[places[0]]
        if readout.slow in places:
            silent = torch.full_like(answers[readout.slow], torch.nan)
            spoken = [answer if i in places else silent for i, answer in enumerate(answers)]
            rows = found.rows.get(readout.compares or "")
            features = None if rows is None else rows.features
            return readout.mix(spoken, features, found.knowers)
        spoken = [answers[i] for i in places]
        shares = [readout.weights[self.experts.names[i]] for i in places]
        weights_E = torch.tensor(shares, dtype=torch.float64, device="cpu").clamp_min(_LEAST_SHARE)
        is_class = readout.task == "classification"
        stacked_ENK = pad_classes(spoken) if is_class else torch.stack(spoken)
        return mix_rows(stacked_ENK, weights_E / weights_E.sum())


class RestrictedAnswerer:
    """Answers of some levels of a learner only, as they are when it is asked.

    `Learner.restricted_to` makes it. Nothing that it answers changes the learner.

    Args:
        panel: who answers.
        lock: of the learner, held while it answers.

    >>> import nestling as nl
    >>> learner = nl.Learner(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)))
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 8)
    >>> _ = learner.learn(x, torch.tensor([0, 1] * 8))
    >>> start = {"network": learner.levels["network"].tensors()}
    >>> learner.restricted_to(["memory"], references=start).predict(x[:2])
    tensor([0, 1])
    """

    def __init__(self, panel: RestrictedPanel, lock: AbstractContextManager[object]) -> None:
        self._panel, self._lock = panel, lock

    @in_own_modes
    def predict(self, x: Any, *, task: int | None = None) -> Tensor:
        """Predict labels or values, as `Learner.predict`."""
        return choose_labels(*self._answer(x, task))

    @in_own_modes
    def predict_proba(self, x: Any, *, task: int | None = None) -> Tensor:
        """Predict class probabilities, as `Learner.predict_proba`."""
        return check_probabilities(*self._answer(x, task))

    def _answer(self, x: Any, task: int | None) -> tuple[Tensor, Task]:
        batch = read_inputs(x)
        with self._lock:
            return self._panel.answer(batch, task)
