"""A read-out as one plain module: for torch.export, ONNX, or any torch code."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nestling.answer.experts import Experts
from nestling.answer.exported_mixture import (
    BankExpert,
    ExportedBank,
    ExportedConcepts,
    ExportedReadout,
    ExportedSlot,
    FixedMixture,
    FrozenMixture,
    LiveExpert,
    OutsideExpert,
    RecentTrust,
)
from nestling.answer.exported_modules import (
    CodedMap,
    FeatureTap,
    JoinedMap,
    RandomMap,
    RidgeHead,
    bake_model,
)
from nestling.answer.outside import Outside
from nestling.answer.readout import Readout
from nestling.core.errors import NotFitted, SettingError
from nestling.core.modes import copy_module
from nestling.levels.memory import MemoryLevel
from nestling.memory import JoinedFeatures, MemoryBank, RandomFeatures
from nestling.memory.coded import CodedFeatures
from nestling.memory.exact.fresh import FreshSolution
from nestling.memory.exact.statistics import space_evenly
from nestling.memory.features import Features
from nestling.memory.prequential import fold_calibration
from nestling.memory.ridge import Task


def export_readout(readout: Readout | None, experts: Experts) -> nn.Module:
    """Bake a read-out into a plain module; what it is made of is left untouched.

    Args:
        readout: who is believed; None before anything was learned.
        experts: who answers.

    Returns: (inputs, also by keyword) -> (N, K) probabilities or (N, M) values, in evaluation mode.

    Raises:
        NotFitted: nothing was learned yet.
        SettingError: the read-out cannot be baked in (sequence or dense targets).
    """
    if readout is None:
        raise NotFitted("the learner has learned nothing yet; call fit or learn before export")
    if experts.targets.layout != "row":
        raise SettingError("export needs one target per example; export learner.model instead")
    exported = [_export_expert(readout, experts, name) for name in readout.names]
    present, known, context = None, None, None
    if readout.task == "classification":
        num_classes = _count_classes(experts, readout.names)
        known = experts.find_known(num_classes)
        present = None if readout.gate is None else readout.find_present(num_classes)
    mixture: FrozenMixture | FixedMixture | None = None
    if readout.gate is not None:
        mixture = FrozenMixture(readout.gate, present)
    elif readout.fixed is not None:
        mixture = FixedMixture(readout.fixed, readout.slow)
    if readout.gate is not None and readout.context is not None and readout.context.densities:
        context = RecentTrust(readout.context)
    return ExportedReadout(exported, mixture, readout.slow, context, known).eval()


def _count_classes(experts: Experts, names: tuple[str, ...]) -> int:
    banks = {name: level.bank for name, level in experts.memories.items()}
    return max(
        experts.targets.num_outputs if (bank := banks.get(name)) is None else bank.num_classes
        for name in names
    )


def _export_expert(readout: Readout, experts: Experts, name: str) -> nn.Module:
    if name in experts.memories:
        outside = readout.outside if name == experts.slow else None
        return _export_memory(experts.memories[name], experts, outside)
    if name in experts.concepts:
        return _export_concepts(experts, name, readout.names[readout.slow])
    if name == "live":
        model = bake_model(experts.find_live())
        return LiveExpert(model, readout.task, experts.output_transform)
    return _export_copy(experts, name, readout.task)


def _export_concepts(experts: Experts, name: str, slow: str) -> ExportedConcepts:
    level = experts.concepts[name]
    memory = experts.memories[level.spec.of]
    if level.spec.of != slow or memory.bank is None:
        raise SettingError(
            f"concepts {name!r} stand beside {level.spec.of!r}, but {slow!r} is the memory that is "
            "exported; name that memory first in the read-out"
        )
    chosen_d = space_evenly(memory.bank.num_features, level.spec.num_features)
    slots = None if level.is_silent else level.slots
    if slots is None:
        return ExportedConcepts(chosen_d, [], torch.zeros(0, dtype=torch.float64, device="cpu"), 0)
    exported = []
    for slot in slots.slots:
        fresh = slot.find_fresh()
        head = RidgeHead(*slot.fold(memory.bank.num_classes))
        exported.append(ExportedSlot(head, None if fresh is None else fresh.reach))
    return ExportedConcepts(chosen_d, exported, slots.shares, slots.in_force)


def _export_copy(experts: Experts, name: str, task: Task) -> LiveExpert:
    """A copy level as a model of its own; its head may have fewer rows than the live one's."""
    model = copy_module(experts.model)
    _put_values(model, experts.copies[name].tensors())
    return LiveExpert(bake_model(model), task, experts.output_transform)


def _put_values(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    for key, value in values.items():
        owner, _, part = key.rpartition(".")
        module = model.get_submodule(owner)
        if part in module._parameters:
            setattr(module, part, nn.Parameter(value, requires_grad=False))
        else:
            module._buffers[part] = value


def _export_outside(outside: Outside, bank: MemoryBank, experts: Experts) -> OutsideExpert:
    assert experts.outside is not None
    slow = bank.memories[bank.slow]
    known = slow.life_targets > 0.0 if bank.task == "classification" else None
    given = None if experts.is_lent else _export_copy(experts, experts.outside, bank.task)
    activate = LiveExpert(nn.Identity(), bank.task, experts.output_transform)
    return OutsideExpert(given, activate, slow.reach, outside, known)


def _export_memory(level: MemoryLevel, experts: Experts, outside: Outside | None) -> nn.Module:
    bank = level.bank
    if bank is None or bank.is_empty:
        raise NotFitted(f"memory {level.spec.name!r} is empty; learn something before export")
    # So that what was seen, too, is of the same moment.
    bank.settle()
    heads: list[nn.Module] = [export_solution(one) for one in bank.find_fresh()]
    if bank.has_prior:
        heads.append(heads[bank.slow] if bank.prior.is_empty else _export_prior(bank))
    mixture = ExportedBank(heads, FrozenMixture(bank.gate, bank.find_mixed()))
    reader = level.reader
    module = None if reader.module is None else bake_model(reader.module)
    given = None if outside is None else _export_outside(outside, bank, experts)
    features = export_features(bank.features)
    return BankExpert(FeatureTap(module, reader.taps), features, mixture, given)


def _export_prior(bank: MemoryBank) -> RidgeHead:
    """Class frequencies, which look at no feature."""
    log_p = bank.prior.predict(1)[0].log()
    weights_DK = bank.find_fresh()[bank.slow].solution.weights
    return RidgeHead(weights_DK.new_zeros(len(weights_DK), len(log_p)), log_p)


def export_features(features: Features | None) -> nn.Module:
    """The same random map as a module with what it draws as buffers.

    Raises:
        SettingError: features of a kind that has no module.
    """
    if features is None:
        return nn.Identity()
    if isinstance(features, CodedFeatures):
        return CodedMap(features)
    if isinstance(features, JoinedFeatures):
        return JoinedMap(features)
    if isinstance(features, RandomFeatures):
        return RandomMap(features)
    raise SettingError(
        f"{type(features).__name__} cannot be exported; RandomFeatures, JoinedFeatures and "
        "CodedFeatures can"
    )


def export_solution(fresh: FreshSolution) -> RidgeHead:
    """A solved memory as one affine map of its features, calibration folded in."""
    calibration = fresh.calibration if fresh.classifies else None
    return RidgeHead(*fold_calibration(fresh.solution, calibration), classifies=fresh.classifies)
