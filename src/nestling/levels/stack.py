"""All levels of a plan together: their order, boundaries, turned knobs, digests and state."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from nestling.core.arguments import check_callable, check_model, check_seed
from nestling.core.errors import LateParameter, SettingError, suggest
from nestling.core.pauses import resume_all
from nestling.levels.assign import (
    ParameterWatch,
    assign_levels,
    collect_aliases,
    find_buffers,
    unwrap,
)
from nestling.levels.bounds import ChangeBounds
from nestling.levels.concepts import ConceptsLevel
from nestling.levels.control import Knobs
from nestling.levels.copies import CopyLevel, make_copies
from nestling.levels.events import Change, Event
from nestling.levels.gates import feed_gates
from nestling.levels.governance import Governance, join_governed, split_governed
from nestling.levels.gradient import GradientLevel
from nestling.levels.importance import match_importance
from nestling.levels.level import check_level_names
from nestling.levels.memory import MemoryLevel, make_memories
from nestling.levels.ordering import check_together, order_levels, share_model
from nestling.levels.plan import Plan
from nestling.levels.readings import LevelReading
from nestling.levels.rest import check_rest, export_rest, import_rest
from nestling.levels.sleep import SleepLevel
from nestling.levels.spec import Copy, Level
from nestling.levels.standing_still import StandingStill, remember_buffers
from nestling.levels.watching import WatchLevel, find_drifts

AnyLive = GradientLevel | CopyLevel | MemoryLevel | ConceptsLevel | SleepLevel | WatchLevel


class Levels(Mapping[str, AnyLive]):
    """All live levels of a plan by name: one step, controls, digests and state of them all.

    Args:
        model: any module; compiled and data-parallel wrappers are looked through.
        plan: what learns how fast.
        accumulate: where gradients gather, see `NestedOptimizer`.
        judge: asked with a level's name about updates of levels with `protect`.
        seed: of the copies that update by chance.
        has_memories: also the memory, concepts and sleep levels, which a learner feeds.
        watches: for drift, by name, which a learner feeds.

    Raises:
        SettingError: the plan does not fit the model; see `assign_levels`.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    >>> plan = Plan(Level("head", match=["1.*"]), Level("spine", match=["*"]))
    >>> levels = Levels(model, plan)
    >>> list(levels), sorted(levels["head"].tensors())
    (['head', 'spine'], ['1.bias', '1.weight'])
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        *,
        accumulate: Literal["separate", "in_place"] = "separate",
        judge: Callable[[str], bool] | None = None,
        seed: int = 0,
        has_memories: bool = False,
        watches: Mapping[str, WatchLevel] | None = None,
    ) -> None:
        model = check_model(model, "NestedOptimizer")
        check_seed(seed)
        check_callable("judge", judge, "lambda level: True")
        self.model = unwrap(model)
        self.plan = plan
        self.judge = judge
        self.num_steps = 0
        resume_all(self.model)  # what a step that was never taken has left
        aliases = collect_aliases(model) if plan.gradient_levels else {}
        claims = assign_levels(model, plan) if plan.gradient_levels else {}
        self._owned = {name: aliases[name][0] for names in claims.values() for name in names}
        beside = find_buffers(self.model, claims)
        self.gradient = {
            spec.name: GradientLevel(
                spec,
                claims[spec.name],
                [self._owned[name] for name in claims[spec.name]],
                accumulate == "in_place",
                beside.get(spec.name, {}),
            )
            for spec in plan.gradient_levels
        }
        buffers = dict(self.model.named_buffers()) | {
            name: param for name, param in self.model.named_parameters() if not param.requires_grad
        }
        self.copies = make_copies(plan.copies, self.gradient, self._owned, buffers, seed)
        # Rules write into levels first; averages are of what is then in force.
        self._in_turn = sorted(self.copies.values(), key=lambda one: one.spec.rule is None)
        self.memories: dict[str, MemoryLevel] = {}
        self.sleeps: dict[str, SleepLevel] = {}
        self.concepts: dict[str, ConceptsLevel] = {}
        if has_memories:
            self.concepts = {spec.name: ConceptsLevel(spec) for spec in plan.concepts}
            self.sleeps = {spec.name: SleepLevel(spec) for spec in plan.sleeps}
            self.memories = make_memories(
                plan.memories, self.model, plan.compared, plan.find_slow_memory()
            )
        self.watches = dict(watches or {})
        for level in self.gradient.values():
            level.changes.admit = self._admit
        for copy in self.copies.values():
            copy.changes.admit = self._admit
        self._watch = ParameterWatch(self.model)
        self._standing = StandingStill(self.model)
        first = {alias: name for name, (_, all_names) in aliases.items() for alias in all_names}
        self.governance = Governance(self.model, plan, self.gradient, first)
        self._sort()
        share_model(self.gradient.values(), self.copies.values())
        self._list_events()
        remember_buffers(self._order, self.num_steps + 1)

    def __getitem__(self, name: str) -> AnyLive:
        return self._join()[name]

    def __iter__(self) -> Iterator[str]:
        present = self._join()
        return (level.name for level in self.plan.levels if level.name in present)

    def __len__(self) -> int:
        return len(self._join())

    def _join(self) -> dict[str, AnyLive]:
        learning: dict[str, AnyLive] = {**self.gradient, **self.copies, **self.memories}
        return learning | self.concepts | self.sleeps | self.watches

    def prepare_step(self) -> None:
        """Stop backward before levels whose gradient will not count; see `NestedOptimizer`.

        Running statistics of levels that stand still, and of frozen parameters, stand still, too.
        """
        self._standing.prepare(self._order, self.num_steps + 1)
        for level in self._order:
            wanted = level.is_wanted(self.num_steps + 1)
            if wanted == level.is_enabled:
                continue
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                return
            level.enable(wanted)

    def enable_all(self) -> None:
        """Let gradients reach every level again, where a step was prepared but not taken."""
        for level in self._order:
            level.enable(True)
        self._standing.let_go()

    def step(self, loss: float | None, *, is_finite: bool = False) -> list[Event]:
        """Take one optimizer step: gather gradients, and update the levels that are at a boundary.

        Args:
            loss: of this step, for surprise gates; None if nobody told.
            is_finite: whether somebody has seen that all gradients are finite.

        Returns: alarms, refused updates, bounds that bit, brakes, knobs that came into force.

        Raises:
            LateParameter: the model has a trainable parameter that no level claimed.
            SettingError: a surprise gate has not been told the loss, a gradient is sparse, or a
                clock went back (ClockError). Nothing is changed by any.
        """
        self._watch.check(self._owned)
        for level in self._order:
            level.check(self.num_steps + 1)
        if self.governance.held:  # a clock that was asked may have held more
            self.governance.drop_gradients()
        feed_gates({one.spec.name: one.gates for one in self._order if one.spec.gate}, loss)
        self.num_steps += 1
        factors = {name: level.factor for name, level in self.gradient.items()}
        for level in self._order:
            if level.buffers and not self._standing.is_prepared:
                level.put_back_buffers()
            level.knows_finite = is_finite
            if level.advance(self.num_steps, factors, self.judge):
                level.apply_changes(self.num_steps)
            level.enable(True)
            factors[level.spec.name] = level.factor
        for copy in self._in_turn:
            if copy.advance(self.num_steps, self.judge):
                copy.apply_changes(self.num_steps)
        if self.governance.held:
            self.governance.put_back()
        self._standing.let_go()
        remember_buffers(self._order, self.num_steps + 1)
        return self.take_events()

    def take_events(self) -> list[Event]:
        """Take the events since the last call: alarms, refusals, knobs that came into force."""
        happened: list[Event] = []
        for events in self._events:
            if events:
                happened += events
                events.clear()
        return happened

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, but for those that a level gathers in place."""
        for level in self._order:
            if level.in_place and level.num_gradients > 0:
                continue
            for param in level.params:  # an optimizer's own method may drop what it gathers (DGD)
                if set_to_none:
                    param.grad = None
                elif param.grad is not None:
                    param.grad.zero_()

    # --- controls and readings

    def control(self, name: str, *, reason: str, **knobs: Unpack[Knobs]) -> Change:
        """Change hyperparameters of a live level; see `NestedOptimizer.control`.

        Raises:
            UnknownLevel: no level has that name.
            SettingError: as `control` of that level; nothing is changed.
        """
        if name not in self:
            kind = self.plan.find(name).kind
            raise SettingError(f"level {name!r} is a {kind} level; turn it through the learner")
        return self[name].control(reason=reason, **knobs)

    def release(self, event: str) -> None:
        """Say that an event has happened: it ends freezes and opens gates that wait for it.

        It is heard as soon as the freeze was asked for; the next freeze waits anew.

        Raises:
            SettingError: no level waits for that event.
        """
        awaited = {name for level in self._order for name in level.list_awaited()}
        if event not in awaited:
            raise SettingError(f"no level waits for event {event!r}; {suggest(event, awaited)}")
        self._announce(event)

    def _announce(self, event: str) -> None:
        for level in self._order:
            level.hear(event, self.num_steps)
        remember_buffers(self._order, self.num_steps + 1)

    # --- what a contract asks

    def bind(self, name: str, bounds: ChangeBounds, now: Callable[[], float] = time.time) -> None:
        """Bound how far a gradient level moves, and brake it if it explodes; see `ChangeBounds`.

        Bound again, it goes on with what is left. Bounds belong to its state and its snapshots.

        Args:
            name: of a gradient level.
            bounds: on its relative change.
            now: seconds since 1970 (UTC); a step for which it went back raises ClockError.

        Raises:
            SettingError: no such level, or its weights are all zero.
        """
        self.governance.bind(name, bounds, now)

    def keep_good(self, name: str, *, every: int = 100, explode: float = 1.0) -> None:
        """Brake a gradient level: put it alone back to its last good state when it explodes.

        That is when its weights are not finite, or one update is larger than `explode` times the
        weights and 10 times the median of its last 100 updates.

        Args:
            name: of a gradient level; one with bounds is braked anyway.
            every: updates after which weights, running statistics and moments are kept anew.
            explode: > 0.

        Raises:
            SettingError: no such level, or `every` or `explode` is no such number.
        """
        self.governance.keep_good(name, every, explode)

    def mark_validated(self, by: str, at: float) -> None:
        """Keep every level's tensors as validated: change, and its bound, count from here on.

        Args:
            by: who validated; SettingError if empty.
            at: seconds since 1970 (UTC); SettingError if before the last validation.
        """
        self.governance.mark_validated(self, by, at)

    def hold(self, names: Collection[str]) -> None:
        """Hold parameters and buffers bit for bit: no optimizer, decay or statistic moves them.

        Args:
            names: as the model names them; SettingError for others. What was held before and is
                not among them is let go.
        """
        self.governance.hold(names)

    def watch(self, errors: Sequence[float], loss: float | None) -> None:
        """Let the watches hear of a batch that was learned; see `find_drifts`."""
        for event in find_drifts(self.watches.values(), errors, loss):
            self._announce(event)

    def set_importance(self, importance: Mapping[str, Tensor]) -> None:
        """Give importance gates a Fisher diagonal; see `NestedOptimizer.set_importance`."""
        for level, values in match_importance(self.gradient, importance):
            level.gates.importance = values
            level.gates.importance_is_given = True

    def read(self) -> list[LevelReading]:
        """Statistics of every level, kind by kind, each in plan order."""
        return [self.governance.add_change(one.read(), one) for one in self._join().values()]

    def digests(self) -> dict[str, str]:
        """SHA-256 digest of each level's tensors by name: what changed, and what did not."""
        return {name: level.digest() for name, level in self.items()}

    def rest(self) -> dict[str, Any]:
        """State that no level owns: frozen parameters, buffers, extra state of modules."""
        beside = [name for level in self.gradient.values() for name in level.buffers]
        return export_rest(self.model, self._owned.values(), beside)

    def state_dict(self) -> dict[str, Any]:
        """All levels and the rest of the model; tensors are copies."""
        state = {
            "course": {"num_steps": self.num_steps},
            "levels": {name: level.state_dict() for name, level in self.items()},
            "rest": self.rest(),
        }
        return join_governed(state, self.governance.state_dict())

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise MismatchedParameters unless `load_state_dict` will work; nothing is changed."""
        check_level_names("levels", self, state["levels"])
        for name, level in self.items():
            level.check_state(state["levels"][name])
        self.governance.check_state(split_governed(state))
        check_rest(state["rest"], self.rest())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the levels that were saved.

        Raises:
            MismatchedParameters: they are of another plan or model; nothing is changed.
        """
        self.check_state(state)
        for name, level in self.items():
            level.load_state_dict(state["levels"][name])
        self.load_course(state["course"])
        import_rest(self.model, state["rest"])
        self.governance.load_state_dict(split_governed(state))

    def load_course(self, state: Mapping[str, Any]) -> None:
        """Take over the step number; levels must be loaded before."""
        self.num_steps = state["num_steps"]
        self._sort()
        remember_buffers(self._order, self.num_steps + 1)

    def swap_parameter(self, name: str, param: Tensor) -> None:
        """Replace a claimed parameter by one with other rows (a head that grows).

        Raises:
            LateParameter: no level owns that name.
            MismatchedParameters: another shape, but for its rows.
            SettingError: it is held fixed.
        """
        owner = next((level for level in self._order if name in level.names), None)
        if owner is None:
            raise LateParameter(f"no level owns {name!r}; {suggest(name, self._owned)}")
        self.governance.check_swap(name)
        owner.swap(name, param)
        for copy in self.copies.values():
            if name in copy.values:
                copy.swap(name, param)
        self._owned[name] = param
        self._watch.refresh()
        share_model(self.gradient.values(), self.copies.values())

    def replace_memory(self, plan: Plan, memory: MemoryLevel) -> None:
        """Replace a memory by another of the same name, together with the plan."""
        self.plan = plan
        self.memories[memory.spec.name] = memory
        self._list_events()

    def _admit(self, changed: Level | Copy) -> None:
        """Raise SettingError if the plan cannot be with a changed level; the order obeys it."""
        check_together(self.gradient, self.copies, changed)
        self._sort(changed)

    def _list_events(self) -> None:
        """Where each level notes what happens to it."""
        self._events = [level.events for level in self.values()]

    def _sort(self, *changed: Level | Copy) -> None:
        names = order_levels(self.gradient, self.copies, *changed)
        self._order = [self.gradient[name] for name in names]
