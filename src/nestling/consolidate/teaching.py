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
        answers: (N, K) probabilities, float32.
        classes: (N,) int64, the classes that they were drawn from.
    """

    x: Tensor
    answers: Tensor
    classes: Tensor


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
    return Dreams(x, torch.cat(answers).float(), classes_N)


def teach_asleep(
    network: nn.Module,
    dreams: Dreams,
    *,
    epochs: int = 3,
    batch_size: int = 64,
    make_optimizer: OptimizerFactory | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Teach a network asleep: train a copy of it on dreams and the memory's soft answers.

    L = - sum_k q_k log softmax(f(x))_k,  q = p^(1/T) / sum p^(1/T)     [Hinton 2015, section 2]

    The network can know no more than the memory, and will know somewhat less. It may be any that
    takes such inputs; it is not changed: commit the answer by `network.load_state_dict`.

    Args:
        network: parameters that need no gradient stay as they are.
        dreams: what `dream` gave.
        epochs: passes over them.
        batch_size: dreams per step; what is left over of a pass is left out.
        make_optimizer: of the copy's parameters; None for AdamW at 1e-3. Its rate falls to zero
            along half a cosine.
        temperature: T > 0 of the answers.
        seed: of the order, and of dropout.

    Returns: the copy's `state_dict`.

    Raises:
        DataError: the network cannot take such inputs, or becomes non-finite.
        ShapeMismatch: it does not give a logit for each class that the memory knows.
        SettingError: as `consolidate_offline`; or no pass, no dream per step.
    """
    if epochs < 1 or batch_size < 1 or not 0.0 < temperature < float("inf"):
        raise SettingError(
            f"{epochs} epochs, batch size {batch_size}, temperature {temperature}; 1 or more, 1 "
            "or more, and a temperature above 0 work"
        )
    device = _find_device(network)
    soft_NK = _soften(_fit_outputs(network, dreams, device), temperature)
    num, size = len(soft_NK), min(batch_size, len(soft_NK))
    num_steps = epochs * (num // size)
    generator = make_generator(seed, "sleep", "order")
    order: list[Tensor] = []

    def draw() -> tuple[Tensor, Tensor]:
        if not order:
            shuffled_N = torch.randperm(num, generator=generator, device="cpu")
            order.extend(shuffled_N[: num // size * size].split(size))
        rows_B = order.pop(0)
        return dreams.x[rows_B].to(device), soft_NK[rows_B].to(device)

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
    """How well a model agrees with a memory on dreams: mean log likelihood, nats; 0 is best."""
    device = _find_device(model)
    answers_NK = _fit_outputs(model, dreams, device)
    total = 0.0
    with torch.no_grad(), eval_mode(model):
        for x, soft_NK in zip(dreams.x.split(_BLOCK), answers_NK.split(_BLOCK), strict=True):
            output_NK = read_output(Batch((x.to(device),)).call(model))
            loss = functional.cross_entropy(output_NK, soft_NK.to(device), reduction="sum")
            total -= float(loss)
    return total / len(answers_NK)


def _fit_outputs(network: nn.Module, dreams: Dreams, device: torch.device) -> Tensor:
    """The answers with a column for each output of the network."""
    with torch.no_grad(), eval_mode(network):
        output = read_output(Batch((dreams.x[:2].to(device),)).call(network))
    num_known = dreams.answers.shape[1]
    if output.ndim != 2 or output.shape[1] < num_known:
        raise ShapeMismatch(
            f"the network gives {tuple(output.shape)} for 2 dreams and the memory knows "
            f"{num_known} classes; one logit for each class works"
        )
    return functional.pad(dreams.answers, (0, output.shape[1] - num_known))


def _find_device(module: nn.Module | None) -> torch.device:
    param = None if module is None else next(module.parameters(), None)
    return torch.device("cpu") if param is None else param.device


def _soften(answers_NK: Tensor, temperature: float) -> Tensor:
    if temperature == 1.0:
        return answers_NK
    powers_NK = answers_NK.pow(1.0 / temperature)
    return powers_NK / powers_NK.sum(dim=1, keepdim=True)
