"""Sleep: a network learns what a memory knows from dreams that the memory labels.

Axis letters: N dreams, K classes.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.consolidate.dreams import draw_codes
from nestling.consolidate.offline import OptimizerFactory, consolidate_offline
from nestling.core.batches import Batch, read_output
from nestling.core.errors import NotFitted, SettingError, ShapeMismatch
from nestling.core.modes import eval_mode
from nestling.core.seeds import make_generator
from nestling.levels.memory import MemoryLevel
from nestling.levels.sleep import SleepLevel

# Dreams that the memory is asked about at once.
_BLOCK = 1_000


@dataclass(frozen=True)
class Dreams:
    """Inputs that never came, and what a memory says of them.

    Args:
        x: (N, ...), as the model takes them.
        answers: (N, K) probabilities of the memory, float32.
        classes: (N,) int64, the classes that they were drawn from.
        targets: (N, K) what is taught, see `mix_targets`.
    """

    x: Tensor
    answers: Tensor
    classes: Tensor
    targets: Tensor


def dream(
    sleep: SleepLevel,
    memory: MemoryLevel,
    *,
    num_inputs: int | None = None,
    salt: str | int = "teach",
) -> Dreams:
    """Dream: draw pseudo-inputs from class statistics and let a memory label them.

    Args:
        sleep: that has seen the classes.
        memory: who labels.
        num_inputs: N; None for what the level says.
        salt: what they are for; other salts give other dreams.

    Raises:
        NotFitted: the level or the memory has seen nothing.
        SettingError: fewer dreams than classes.
    """
    name = sleep.spec.name
    if sleep.sums is None or sleep.is_empty:
        raise NotFitted(f"sleep {name!r} has nothing to dream of; learn something first")
    if memory.is_empty:
        raise NotFitted(
            f"memory {memory.spec.name!r}, which sleep {name!r} asks, is empty; learn first"
        )
    num = sleep.spec.num_inputs if num_inputs is None else num_inputs
    generator = make_generator(sleep.spec.seed, "sleep", name, salt)
    codes_ND, classes_N = draw_codes(sleep.sums, num, generator=generator)
    x = sleep.restore_inputs(codes_ND)
    device = _find_device(memory.reader.module)
    answers = [
        memory.answer(memory.read_rows(Batch((part.to(device),)), None).features)
        for part in x.split(_BLOCK)
    ]
    answers_NK = torch.cat(answers).float()
    # A memory that was filled otherwise may not know the last classes.
    missing = int(classes_N.max()) + 1 - answers_NK.shape[1]
    answers_NK = functional.pad(answers_NK, (0, max(missing, 0)))
    spec = sleep.spec
    targets_NK = mix_targets(answers_NK, classes_N, spec.temperature, spec.class_share)
    return Dreams(x, answers_NK, classes_N, targets_NK)


def mix_targets(
    answers_NK: Tensor, classes_N: Tensor, temperature: float, class_share: float
) -> Tensor:
    """What a dream teaches: the memory's softened word, and the class that it was drawn from.

    q = (1 - c) p^(1/T) / sum p^(1/T) + c onehot(k)     [Hinton 2015, sections 2 and 2.1]

    Both err, and not alike: the memory knows what separates classes but has never seen a dream,
    and the class is certain only where no other class has dreams.

    Args:
        answers_NK: (N, K) probabilities p.
        classes_N: (N,) k, int64 below K.
        temperature: T > 0.
        class_share: c in [0, 1].

    >>> mix_targets(torch.tensor([[0.8, 0.2]]), torch.tensor([1]), 1.0, 0.5)
    tensor([[0.4000, 0.6000]])
    """
    powers_NK = answers_NK.pow(1.0 / temperature)
    soft_NK = powers_NK / powers_NK.sum(dim=1, keepdim=True)
    classes_NK = functional.one_hot(classes_N, answers_NK.shape[1]).to(answers_NK.dtype)
    return torch.lerp(soft_NK, classes_NK, class_share)


def teach_asleep(
    network: nn.Module,
    dreams: Dreams,
    *,
    epochs: int = 3,
    batch_size: int = 64,
    make_optimizer: OptimizerFactory | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Teach a network asleep: train a copy of it on dreams and what the memory says of them.

    L = - sum_k q_k log softmax(f(x))_k     [q as in `mix_targets`]

    The network may be any that takes such inputs, and will know somewhat less than a good memory.
    It is not changed: commit the answer by `network.load_state_dict`.

    Args:
        network: parameters that need no gradient stay as they are.
        dreams: what `dream` gave.
        epochs: passes over them.
        batch_size: dreams per step; what is left over of a pass is left out.
        make_optimizer: of the copy's parameters; None for AdamW at 1e-3. Its rate falls to zero
            along half a cosine.
        seed: of the order, and of dropout.

    Returns: the copy's `state_dict`.

    Raises:
        DataError: the network cannot take such inputs, or becomes non-finite.
        ShapeMismatch: it does not give a logit for each class that the memory knows.
        SettingError: as `consolidate_offline`; or no pass, no dream per step.
    """
    if epochs < 1 or batch_size < 1:
        raise SettingError(f"{epochs} epochs, batch size {batch_size}; 1 or more of both work")
    device = _find_device(network)
    targets_NK = _fit_outputs(network, dreams, device)
    num, size = len(targets_NK), min(batch_size, len(targets_NK))
    num_steps = epochs * (num // size)
    generator = make_generator(seed, "sleep", "order")
    order: list[Tensor] = []

    def draw() -> tuple[Tensor, Tensor]:
        if not order:
            shuffled_N = torch.randperm(num, generator=generator, device="cpu")
            order.extend(shuffled_N[: num // size * size].split(size))
        rows_B = order.pop(0)
        return dreams.x[rows_B].to(device), targets_NK[rows_B].to(device)

    # Dropout draws from torch's own generators.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return consolidate_offline(
            network,
            draw,
            num_steps=num_steps,
            make_optimizer=make_optimizer or torch.optim.AdamW,
            loss=functional.cross_entropy,
            anneal=True,
        )


def draw_weights(model: nn.Module, names: Collection[str], *, seed: int) -> None:
    """Draw new weights, in place, for modules all of whose own parameters are named.

    Args:
        model: its modules draw by their own `reset_parameters`; those without it stay.
        names: of parameters.
        seed: of the weights.

    >>> model = nn.Linear(2, 2)
    >>> before = model.weight.clone()
    >>> draw_weights(model, ["weight", "bias"], seed=0)
    >>> bool((model.weight == before).any())
    False
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for prefix, module in model.named_modules():
            own = [name for name, _ in module.named_parameters(prefix, recurse=False)]
            reset = getattr(module, "reset_parameters", None)
            if own and callable(reset) and all(name in names for name in own):
                reset()


def score_agreement(model: nn.Module, dreams: Dreams) -> float:
    """How well a model knows what dreams teach: mean log likelihood of the targets, in nats."""
    device = _find_device(model)
    targets_NK = _fit_outputs(model, dreams, device)
    total = 0.0
    with torch.no_grad(), eval_mode(model):
        for x, part_NK in zip(dreams.x.split(_BLOCK), targets_NK.split(_BLOCK), strict=True):
            output_NK = read_output(Batch((x.to(device),)).call(model))
            loss = functional.cross_entropy(output_NK, part_NK.to(device), reduction="sum")
            total -= float(loss)
    return total / len(targets_NK)


def _fit_outputs(network: nn.Module, dreams: Dreams, device: torch.device) -> Tensor:
    """What is taught, with a column for each output of the network."""
    with torch.no_grad(), eval_mode(network):
        output = read_output(Batch((dreams.x[:2].to(device),)).call(network))
    num_known = dreams.targets.shape[1]
    if output.ndim != 2 or output.shape[1] < num_known:
        raise ShapeMismatch(
            f"the network gives {tuple(output.shape)} for 2 dreams and the memory knows "
            f"{num_known} classes; one logit for each class works"
        )
    return functional.pad(dreams.targets, (0, output.shape[1] - num_known))


def _find_device(module: nn.Module | None) -> torch.device:
    param = None if module is None else next(module.parameters(), None)
    return torch.device("cpu") if param is None else param.device
