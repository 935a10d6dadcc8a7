"""The default plan: what `nl.Learner(model)` does when the user says nothing."""

import math

from torch import nn

from nestling.core.errors import PlanError
from nestling.learn.answering.features import find_last_linear
from nestling.levels import Copy, Level, Memory, Plan, mix
from nestling.optim import adamw

HALF_LIVES = (math.inf,)
NUM_FEATURES = 800
# Random products per number that a pre-trained spine gives, and how wide both may be together.
# 1,600 and 3,200 products of 384 numbers gave 94.7 and 95.1 % on clinc150; of 1,280 numbers,
# 2,400 and 3,200 were as good on split-cifar10, and 3,200 cost .62 of full fine-tuning.
NUM_PRODUCTS_PER_INPUT, MAX_WIDTH, MIN_PRODUCTS = 10, 3584, 800


def make_default_plan(model: nn.Module, *, pretrained: bool, replay: int) -> Plan:
    """An endless memory beside the network, mixed by a gate; nothing raw is stored.

    If the model is pre-trained, the memory reads a frozen copy of the input of its last
    linear layer plus random products of it, the head learns at every step and the spine
    slowly. If not, it reads random features of the input, and the whole network learns at
    every second step. With replay it learns at every step, and two averaging copies join.

    Args:
        model: any module with trainable parameters.
        pretrained: whether its features are worth keeping.
        replay: examples that replay may store; 0 for none.

    >>> make_default_plan(nn.Sequential(nn.Linear(4, 2)), pretrained=False, replay=0)
    Plan(memory 'memory', gradient 'network'; read-out memory + live)
    """
    reads_indices = any(isinstance(module, nn.Embedding) for module in model.modules())
    on = None if pretrained or reads_indices else "input"
    memory = Memory(
        "memory",
        on=on,
        half_lives=HALF_LIVES,
        num_features=_count_products(model) if pretrained else NUM_FEATURES,
        features="product" if pretrained else "relu",
        # Raw inputs cost as much as features of them and tell less; learned features tell more.
        include_read=on is None,
        block=256,
    )
    if pretrained:
        levels = _split_spine(model)
    elif replay:
        levels = (Level("network", match=("*",)),)
    else:
        # The memory keeps what is known; the network follows change, at half the cost.
        levels = (Level("network", match=("*",), period=2, between="skip"),)
    if replay == 0:
        return Plan(memory, *levels, readout=mix("memory", "live"))
    names = tuple(level.name for level in levels)
    return Plan(
        memory,
        *levels,
        Copy("plastic", of=names, decay=0.95, probability=0.9),
        Copy("stable", of=names, decay=0.99, probability=0.7),
        readout=mix("memory", "live", "plastic", "stable"),
    )


def _count_products(model: nn.Module) -> int:
    """How many random products of the last linear layer's input; of I numbers there are I^2/2."""
    layer = model.get_submodule(find_last_linear(model))
    assert isinstance(layer, nn.Linear)
    room = max(MAX_WIDTH - layer.in_features, MIN_PRODUCTS)
    return min(NUM_PRODUCTS_PER_INPUT * layer.in_features, room)


def _split_spine(model: nn.Module) -> tuple[Level, ...]:
    head = find_last_linear(model)
    if not head:
        raise PlanError("the model is a single linear layer; give a plan, or pretrained=False")
    inside = [name for name, p in model.named_parameters() if p.requires_grad]
    spine = [name for name in inside if not name.startswith(f"{head}.")]
    levels = [Level("head", match=(f"{head}.*",), optimizer=adamw(lr=1e-3))]
    if not spine:
        return tuple(levels)
    slow = Level("spine", match=("*",), period=16, between="skip", optimizer=adamw(lr=1e-4))
    return (*levels, slow)
