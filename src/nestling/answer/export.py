"""A learner's read-out as one plain module: for torch.export, ONNX, or any torch code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nestling.answer.exported_mixture import (
    BankExpert,
    ExportedReadout,
    LiveExpert,
    OutsideExpert,
    RecentTrust,
)
from nestling.answer.exported_modules import FeatureTap, JoinedMap, RandomMap, RidgeHead, bake_model
from nestling.core.errors import NotFitted, SettingError
from nestling.core.modes import copy_module
from nestling.levels.memory import MemoryLevel
from nestling.levels.taps import Tap
from nestling.memory import JoinedFeatures, MemoryBank, RidgeMemory
from nestling.memory.features import Features

if TYPE_CHECKING:
    from nestling.learn.learner import Learner


def export_learner(learner: Learner) -> nn.Module:
    """Bake the read-out into a plain module; the learner is left untouched.

    Raises:
        NotFitted: nothing was learned yet.
        SettingError: the read-out cannot be baked in (sequence or dense targets).
    """
    readout = learner.readout
    if readout is None:
        raise NotFitted("the learner has learned nothing yet; call fit or learn before export")
    if learner.experts.form.layout != "row":
        raise SettingError("export needs one target per example; export learner.model instead")
    experts = [_export_expert(learner, name) for name in readout.names]
    weights = torch.tensor(list(readout.weights.values()), dtype=torch.float64)
    present = None
    if readout.gate is not None and learner.task == "classification":
        present = readout.find_present(_count_classes(learner, readout.names))
        if not bool(present.any()):
            present = None
            weights = _choose_one(readout.slow, len(experts))
    context = None
    if readout.gate is not None and readout.context is not None and readout.context.densities:
        context = RecentTrust(readout.context)
    return ExportedReadout(experts, weights, present, readout.slow, context).eval()


def _count_classes(learner: Learner, names: Sequence[str]) -> int:
    banks = learner.memories
    return max(
        banks[n].num_classes if n in banks else learner.experts.form.num_outputs for n in names
    )


def _export_expert(learner: Learner, name: str) -> nn.Module:
    classifies = learner.task == "classification"
    if name in learner.levels:
        return _export_memory(learner, learner.levels[name])
    if name == "live":
        return LiveExpert(
            bake_model(learner.experts.find_live()), classifies, learner.experts.output_transform
        )
    return _export_copy(learner, name)


def _export_copy(learner: Learner, name: str) -> LiveExpert:
    """A copy level as a model of its own; its head may have fewer rows than the live one's."""
    assert learner.optimizer is not None
    model = copy_module(learner.model)
    for key, value in learner.optimizer.copy_values(name).items():
        owner, _, part = key.rpartition(".")
        module = model.get_submodule(owner)
        if part in module._parameters:
            setattr(module, part, nn.Parameter(value, requires_grad=False))
        else:
            module._buffers[part] = value
    return LiveExpert(
        bake_model(model), learner.task == "classification", learner.experts.output_transform
    )


def _export_outside(learner: Learner, bank: MemoryBank) -> OutsideExpert:
    experts, readout = learner.experts, learner.readout
    assert experts.outside is not None
    assert readout is not None
    assert readout.outside is not None
    known = None
    slow = bank.memories[bank.slow]
    if learner.task == "classification":
        width = max(bank.num_classes, experts.form.num_outputs)
        known = torch.zeros(width, dtype=torch.bool)
        seen = slow.statistics.life_targets > 0.0
        known[: len(seen)] = seen
    given = None if experts.is_lent else _export_copy(learner, experts.outside)
    activate = LiveExpert(nn.Identity(), learner.task == "classification", experts.output_transform)
    outside = readout.outside
    return OutsideExpert(given, activate, slow.reach, outside.weights, known, outside.skill)


def _export_memory(learner: Learner, level: MemoryLevel) -> nn.Module:
    bank = level.bank
    if bank is None or bank.is_empty:
        raise NotFitted(f"memory {level.spec.name!r} is empty; learn something before export")
    slow = bank.memories[bank.slow]
    # A memory whose examples have all faded away has no answer of its own.
    heads: list[nn.Module] = [
        export_ridge(slow if memory.is_empty else memory) for memory in bank.memories
    ]
    if bank.has_prior:
        heads.append(heads[bank.slow] if bank.prior.is_empty else _export_prior(bank))
    weights = bank.gate.weights
    present = None
    if bank.task == "classification" and bank.mix == "present" and len(heads) > 1:
        present = bank.present()
        if not bool(present.any()):
            present, weights = None, _choose_one(bank.slow, len(heads))
    mixture = ExportedReadout(heads, weights, present, bank.slow, dtype=torch.float64)
    tap = None
    if level.reader.module is not None:
        module = bake_model(level.reader.module)
        whole = Tap("", "input")
        tap = FeatureTap(module, [one or whole for one in level.reader.taps])
    is_slow = level.spec.name == learner.experts.slow
    outside = _export_outside(learner, bank) if is_slow else None
    return BankExpert(tap, export_features(bank.features), mixture, outside)


def _export_prior(bank: MemoryBank) -> RidgeHead:
    """Class frequencies, which look at no feature."""
    log_p, weights_DK = bank.prior.predict(1)[0].log(), bank.memories[bank.slow].solution.weights
    return RidgeHead(weights_DK.new_zeros(len(weights_DK), len(log_p)), log_p)


def _choose_one(index: int, num_experts: int) -> Tensor:
    return nn.functional.one_hot(torch.tensor(index), num_experts).double()


def export_features(features: Features | None) -> nn.Module:
    """The same random map as a module with its weights as buffers, float64."""
    if features is None:
        return nn.Identity()
    if isinstance(features, JoinedFeatures):
        widths = [part.num_inputs for part in features.parts]
        return JoinedMap([export_features(part) for part in features.parts], widths)
    is_fourier = features.kind == "fourier"
    return RandomMap(
        features.weights_IF,
        features.phases_F if is_fourier else None,
        kind=features.kind,
        partner_FD=features.partners_IF,
        gain=(2.0 / max(1, features.num_features)) ** 0.5 if is_fourier else 1.0,
        passthrough=features.passthrough,
    )


def export_ridge(memory: RidgeMemory) -> RidgeHead:
    """A solved memory as one affine map of its features, calibration folded in."""
    solution = memory.solution
    if memory.task == "regression":
        return RidgeHead(solution.weights, solution.intercept, task="regression")
    calibration = memory.calibration
    return RidgeHead(
        solution.weights @ calibration.matrix,
        solution.intercept @ calibration.matrix + calibration.offset,
    )
