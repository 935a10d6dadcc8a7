"""The default plan: what `nl.Learner(model)` does when the user says nothing."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from nestling.core.batches import Batch
from nestling.core.errors import DataError, ForeignSnapshot, SettingError, ShapeMismatch
from nestling.core.heads import find_head, find_head_layer
from nestling.levels import Concepts, Copy, Level, Levels, Memory, Plan, mix
from nestling.levels.memory import MemoryLevel
from nestling.levels.spec import INPUT_OF
from nestling.levels.taps import MAX_POOLED, find_early_layer
from nestling.optim import adamw
from nestling.protect import DERpp

_LOGGER = logging.getLogger("nestling")
HALF_LIVES = (math.inf,)
NUM_FEATURES = 800
# Random products per number that a pre-trained spine gives, and how wide both may be together.
# 1,600 and 3,200 products of 384 numbers gave 94.7 and 95.1 % on clinc150; of 1,280 numbers,
# 2,400 and 3,200 were as good on split-cifar10, and 3,200 cost .62 of full fine-tuning.
NUM_PRODUCTS_PER_INPUT, MAX_WIDTH, MIN_PRODUCTS = 10, 3584, 800
# Random products of an early activation, which tells what a last one, trained for others, may have
# lost; and up to which width itself, too, by which a memory better sees what is new to it. By
# recipes/measure_early.py EfficientNet-Lite0 has 69.2 % of small pictures right by both, 64.4 by
# the last alone; `nestling bench personal` has .942 and .908.
NUM_EARLY_PRODUCTS, MAX_EARLY_WIDTH = 640, 1024


# Of replay: examples drawn per step, and the weights of their stored outputs and labels.
NUM_DRAWN, REPLAY_ALPHA, REPLAY_BETA = 32, 0.2, 1.0


def make_default_plan(model: nn.Module, *, pretrained: bool, replay: int) -> Plan:
    """Default plan: an exact memory beside the network, mixed by a gate; stores no raw data.

    If the model is pre-trained, the memory reads a frozen copy of it: the input of its last
    linear layer and that of an early layer (`find_early_layer`), with random products of both.
    The head learns at every step and the spine slowly; the model as it was given
    stays as the level "origin", which is asked about what the memory has not seen. If it is not
    pre-trained, the memory reads random features of the input, and the whole network learns at
    every second step. With replay it learns at every step, and two averaging copies join.

    Args:
        model: any module with trainable parameters.
        pretrained: whether its features are worth keeping.
        replay: examples that replay may store; 0 for none.

    >>> make_default_plan(nn.Sequential(nn.Linear(4, 2)), pretrained=False, replay=0)
    Plan(memory 'memory', gradient 'network', concepts 'concepts';
    read-out memory + live + concepts)
    >>> mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> plan = make_default_plan(mlp, pretrained=True, replay=0)
    >>> plan
    Plan(memory 'memory', gradient 'head', gradient 'spine', concepts 'concepts', copy 'origin';
    read-out memory + live + concepts + origin)
    >>> plan.memories[0].on
    ('input of 0', 'input of 2')
    """
    if pretrained:
        memory, levels = _remember_features(model), _split_spine(model)
    else:
        memory = _remember_inputs(model)
        # Without replay the memory keeps what is known; the network follows change, at half the
        # cost.
        whole = Level("network", match=("*",))
        sparing = Level("network", match=("*",), period=2, between="skip")
        levels = (whole if replay else sparing,)
    names = tuple(level.name for level in levels)
    copies: tuple[Copy, ...] = ()
    if replay:
        copies = (
            Copy("plastic", of=names, decay=0.95, probability=0.9),
            Copy("stable", of=names, decay=0.99, probability=0.7),
        )
    concepts = Concepts("concepts", of="memory")
    experts = ("memory", "live", *(copy.name for copy in copies), "concepts")
    if not pretrained:
        return Plan(memory, *levels, *copies, concepts, readout=mix(*experts))
    origin = Copy("origin", of=names, decay=1.0)
    readout = mix(*experts, "origin", outside="origin")
    return Plan(memory, *levels, *copies, concepts, origin, readout=readout)


def drop_early(plan: Plan) -> Plan:
    """The default plan with a memory that reads the input of the last linear layer alone.

    Args:
        plan: of `make_default_plan` for a pre-trained model; given back if it reads no more.
    """
    (memory,) = plan.memories
    if len(memory.reads) == 1:
        return plan
    num_last = memory.list_views()[-1][1]
    alone = replace(memory, on=None, num_features=num_last, include_read=True)
    return Plan(*(alone if one is memory else one for one in plan.levels), readout=plan.readout)


def _remember_inputs(model: nn.Module) -> Memory:
    if any(isinstance(module, nn.Embedding) for module in model.modules()):
        # Indices are no numbers; what the network makes of them tells more than features of it.
        return Memory(
            "memory",
            half_lives=HALF_LIVES,
            num_features=NUM_FEATURES,
            include_read=True,
            block=256,
        )
    return Memory(
        "memory",
        on="input",
        half_lives=HALF_LIVES,
        num_features=NUM_FEATURES,
        features="auto",
        # Raw inputs cost as much as features of them and tell less.
        include_read=False,
        block=256,
    )


def _remember_features(model: nn.Module) -> Memory:
    found = find_head_layer(model)
    if found is None:
        raise SettingError(
            f"{type(model).__name__} has no linear layer whose input a memory could read; give a "
            "plan whose nl.Memory reads on='input' or on='<submodule>'"
        )
    early, (last, head) = find_early_layer(model), found
    if early is None:
        return Memory(
            "memory",
            half_lives=HALF_LIVES,
            num_features=_count_products(head, MAX_WIDTH),
            features="product",
            block=256,
        )
    layer = model.get_submodule(early)
    width = layer.in_features if isinstance(layer, nn.Linear) else MAX_POOLED
    includes = width <= MAX_EARLY_WIDTH
    num_early = min(NUM_PRODUCTS_PER_INPUT * width, NUM_EARLY_PRODUCTS)
    num_last = _count_products(head, MAX_WIDTH - num_early - width * includes)
    return Memory(
        "memory",
        on=(INPUT_OF + early, INPUT_OF + last),
        half_lives=HALF_LIVES,
        num_features=(num_early, num_last),
        features="product",
        include_read=(includes, True),
        block=256,
    )


def _count_products(layer: nn.Linear, most: int) -> int:
    """How many random products of a linear layer's input; of I numbers there are I^2/2.

    Args:
        layer: of I inputs.
        most: width of the products and the input together.
    """
    room = max(most - layer.in_features, MIN_PRODUCTS)
    return min(NUM_PRODUCTS_PER_INPUT * layer.in_features, room)


def _split_spine(model: nn.Module) -> tuple[Level, ...]:
    head = find_head(model)
    if not head:
        raise SettingError("the model is a single linear layer; give a plan, or pretrained=False")
    inside = [name for name, p in model.named_parameters() if p.requires_grad]
    spine = [name for name in inside if not name.startswith(f"{head}.")]
    levels = [Level("head", match=(f"{head}.*",), optimizer=adamw(lr=1e-3))]
    if not spine:
        return tuple(levels)
    slow = Level("spine", match=("*",), period=16, between="skip", optimizer=adamw(lr=1e-4))
    return (*levels, slow)


def make_replay(capacity: int, seed: int) -> DERpp:
    """What `replay=capacity` keeps: each example is offered once, one draw serves both terms."""
    return DERpp(
        capacity,
        REPLAY_ALPHA,
        REPLAY_BETA,
        NUM_DRAWN,
        one_draw=True,
        takes_repeats=False,
        seed=seed,
    )


def describe_choice(levels: Levels, *, is_default: bool) -> list[str]:
    """What a learner reads and does, for its log: one line for the default plan, else one for each
    memory."""
    said = [
        f"memory {name!r} reads {memory.reader.describe()}"
        for name, memory in levels.memories.items()
    ]
    return ["; ".join([f"default {levels.plan!r}", *said])] if is_default else said


class EarlyView:
    """The early layer that the default's memory reads beside the last: does it run at all?

    Not before the first batch is it known what the layers that were chosen give.

    Args:
        levels: of a learner.
        may_drop: the plan is the default for a pre-trained model.
    """

    def __init__(self, levels: Levels, *, may_drop: bool) -> None:
        self.levels = levels
        self.may_drop = may_drop

    def settle(self, batch: Batch) -> None:
        """Leave out of the default what the first batch shows that the model does not give."""
        if not self.may_drop:
            return
        (level,) = self.levels.memories.values()
        if len(level.spec.reads) > 1:
            try:
                level.read_rows(batch, batch.target)
            except (DataError, ShapeMismatch) as error:
                # Where the last layer cannot be read either it is the batch that is wrong.
                self._read_last_alone()[1].read_rows(batch, batch.target)
                self._drop(str(error))
        self.may_drop = False

    @contextmanager
    def following(self, plan: Plan) -> Iterator[None]:
        """While a state is loaded: leave it out if the state's plan does; back if loading fails.

        Raises:
            ForeignSnapshot: the state is of another plan.
        """
        own, memories = self.levels.plan, dict(self.levels.memories)
        if self.may_drop and plan != own and plan == drop_early(own):
            self._drop("as in the snapshot")
        if plan != self.levels.plan:
            raise ForeignSnapshot(f"snapshot has {plan!r}, this learner {own!r}; use its plan")
        try:
            yield
        except BaseException:
            for memory in memories.values():
                self.levels.replace_memory(own, memory)
            raise

    def _drop(self, reason: str) -> None:
        plan, alone = self._read_last_alone()
        self.levels.replace_memory(plan, alone)
        said = alone.reader.describe()
        _LOGGER.info("memory %r reads %s: %s", alone.spec.name, said, reason)

    def _read_last_alone(self) -> tuple[Plan, MemoryLevel]:
        """The default's plan without an early view, and its memory, which is empty yet."""
        (level,) = self.levels.memories.values()
        assert level.bank is None
        assert level.reader.module is not None
        plan = drop_early(self.levels.plan)
        # Of the model as it was given, not as it is now.
        return plan, MemoryLevel(
            plan.memories[0],
            level.reader.module,
            foresees=level.foresees,
            compares=level.compares,
        )
