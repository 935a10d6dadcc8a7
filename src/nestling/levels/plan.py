"""A plan: the ordered list of levels, fast to slow, and which of them answers."""

import tomllib
from collections.abc import Iterable
from pathlib import Path

import tomli_w
from pydantic import TypeAdapter, ValidationError

from nestling.core.arguments import name_kind
from nestling.core.checked import describe
from nestling.core.errors import SettingError, UnknownLevel, suggest
from nestling.levels.answering import Mix
from nestling.levels.drift_watch import DriftWatch
from nestling.levels.gates import ParentGate
from nestling.levels.plan_data import keep_choice, list_keys
from nestling.levels.spec import AnyLevel, AnySpec, Concepts, Copy, Level, Memory, Sleep
from nestling.optim import CustomOptimizer

_LEVEL: TypeAdapter[AnySpec] = TypeAdapter(
    AnyLevel, config={"defer_build": True, "ser_json_inf_nan": "constants"}
)
_READOUT: TypeAdapter[str | Mix] = TypeAdapter(str | Mix, config={"defer_build": True})
_MIX: TypeAdapter[Mix] = TypeAdapter(Mix)


class Plan:
    """Plan of levels: learning speed per parameter group, copies, memories, and the read-out.

    Args:
        levels: of any kind; the order is the order in which patterns claim parameters.
        readout: "live" (the model as it is now), the name of a copy or memory level, or
            `nl.mix(...)`.

    Raises:
        SettingError: names occur twice, a pattern stands in two levels, or gates form a circle.
        UnknownLevel: a level, gate or read-out names a level that is not there.

    >>> plan = Plan(Level("head", match=("head.*",)), Level("spine", match=("*",), period=16))
    >>> Plan.from_toml(plan.to_toml()) == plan
    True
    """

    def __init__(self, *levels: AnySpec, readout: str | Mix = "live") -> None:
        for level in levels:
            if not isinstance(level, AnySpec):
                raise SettingError(
                    f"a plan is made of levels, got {name_kind(level)}; "
                    "nl.Plan(nl.Level(...), nl.Copy(...)) works, nl.Plan(*levels) for a list"
                )
        if not isinstance(readout, str | Mix):
            raise SettingError(
                f"readout is {name_kind(readout)}; 'live', a level's name or nl.mix(...) works"
            )
        self.levels = levels
        self.readout = readout
        self._check_names()
        self._check_references()
        self._check_patterns()
        order_by_parent(self.gradient_levels)

    @property
    def gradient_levels(self) -> tuple[Level, ...]:
        """The gradient levels, in the plan's order."""
        return tuple(level for level in self.levels if isinstance(level, Level))

    @property
    def copies(self) -> tuple[Copy, ...]:
        """The copy levels, in the plan's order."""
        return tuple(level for level in self.levels if isinstance(level, Copy))

    @property
    def memories(self) -> tuple[Memory, ...]:
        """The memory levels, in the plan's order."""
        return tuple(level for level in self.levels if isinstance(level, Memory))

    @property
    def sleeps(self) -> tuple[Sleep, ...]:
        """The sleep levels, in the plan's order."""
        return tuple(level for level in self.levels if isinstance(level, Sleep))

    @property
    def concepts(self) -> tuple[Concepts, ...]:
        """The levels of concepts, in the plan's order."""
        return tuple(level for level in self.levels if isinstance(level, Concepts))

    @property
    def watches(self) -> tuple[DriftWatch, ...]:
        """The watches for drift, in the plan's order."""
        return tuple(level for level in self.levels if isinstance(level, DriftWatch))

    @property
    def trained_levels(self) -> tuple[Level | Sleep, ...]:
        """The levels that have an optimizer, in the plan's order."""
        return tuple(level for level in self.levels if isinstance(level, Level | Sleep))

    @property
    def answering(self) -> tuple[str, ...]:
        """Names of the levels that answer; several if the read-out mixes them."""
        return tuple(self.readout.mix) if isinstance(self.readout, Mix) else (self.readout,)

    @property
    def compared(self) -> tuple[str, ...]:
        """Names of the levels whose answers a gate compares; none without a gate."""
        has_gate = isinstance(self.readout, Mix) and self.readout.weights is None
        return self.answering if has_gate else ()

    @property
    def outside(self) -> str | None:
        """Name of the copy level that answers for inputs unlike the memory's; None for none."""
        return self.readout.outside if isinstance(self.readout, Mix) else None

    def find_slow_memory(self) -> str | None:
        """Name of the memory level that the copy level `outside` stands in for; None for none."""
        memories = {memory.name for memory in self.memories}
        return next((n for n in self.answering if self.outside and n in memories), None)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        return self.levels == other.levels and self.readout == other.readout

    def __hash__(self) -> int:
        return hash((self.levels, self.readout))

    def __repr__(self) -> str:
        shown = ", ".join(f"{level.kind} {level.name!r}" for level in self.levels)
        return f"Plan({shown}; read-out {' + '.join(self.answering)})"

    def to_data(self) -> dict[str, object]:
        """The plan as JSON-ready data; defaults are left out."""
        levels = [
            {"kind": level.kind}
            | _LEVEL.dump_python(level, mode="json", exclude_defaults=True, exclude_none=True)
            for level in self.levels
        ]
        for level, spec in zip(levels, self.levels, strict=True):
            keep_choice(level, spec)
        readout = _READOUT.dump_python(self.readout, mode="json", exclude_none=True)
        return {"readout": readout, "level": levels}

    def to_toml(self) -> str:
        """The plan as TOML text, to be read back by `from_toml`.

        Raises:
            SettingError: an optimizer of the user's own that a file cannot name.
        """
        for level in self.trained_levels:
            rule = level.optimizer
            if isinstance(rule, CustomOptimizer) and not rule.is_importable:
                raise SettingError(
                    f"level {level.name!r}: a file cannot name optimizer {rule.name!r}; make it "
                    'a function at the top of a module, which "module:function" then names'
                )
        return tomli_w.dumps(self.to_data())

    @classmethod
    def from_data(cls, data: object, source: str = "plan", *, like: "Plan | None" = None) -> "Plan":
        """Check plain data and build the plan.

        Args:
            data: what `to_data` gives, or parsed TOML. An optimizer "module:function" is imported.
            source: what to call it in errors.
            like: a plan with the same optimizers, which are taken instead of importing them.

        Raises:
            SettingError: a wrong key or value; names it and what would work.
        """
        if not isinstance(data, dict) or not isinstance(data.get("level"), list):
            raise SettingError(f"{source} has no [[level]] table; one level needs name and match")
        if extra := sorted(data.keys() - {"level", "readout"}):
            hint = suggest(extra[0], ["level", "readout"])
            raise SettingError(f"{source}: unknown key {extra[0]!r}; {hint}")
        levels = []
        for index, raw in enumerate(data["level"]):
            name = raw.get("name", f"number {index + 1}") if isinstance(raw, dict) else index + 1
            if isinstance(raw, dict):
                raw = {"kind": "gradient"} | raw
                if isinstance(raw.get("optimizer"), str):
                    rule = _find_optimizer(raw["optimizer"], name, source, like)
                    raw = raw | {"optimizer": rule}
            try:
                levels.append(_LEVEL.validate_python(raw))
            except ValidationError as error:
                known = list_keys(raw)
                raise SettingError(f"{source}, level {name!r}: {describe(error, known)}") from None
        try:
            raw = data.get("readout", "live")
            # Not as a union: the error would be about a string that nobody meant.
            readout = (_MIX if isinstance(raw, dict) else _READOUT).validate_python(raw)
        except ValidationError as error:
            raise SettingError(f"{source}, readout: {describe(error)}") from None
        return cls(*levels, readout=readout)

    @classmethod
    def from_toml(cls, text: str, source: str = "plan") -> "Plan":
        """Parse TOML text; raises as `from_data`, and SettingError if it is no TOML."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingError(f"{source} is not TOML: {error}") from None
        return cls.from_data(data, source)

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read a TOML file; raises as `from_toml`, and SettingError if it cannot be read."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, TypeError, ValueError) as error:
            raise SettingError(
                f"cannot read plan {str(path)!r}: {error}; give the path of a TOML file"
            ) from None
        return cls.from_toml(text, str(path))

    @classmethod
    def of(cls, given: "Plan | str | Path") -> "Plan":
        """A plan as it is, or the file that a path names.

        Raises:
            SettingError: it is neither; or as `load`.
        """
        if isinstance(given, Plan):
            return given
        if isinstance(given, str | Path):
            return cls.load(given)
        if isinstance(given, AnySpec):
            remedy = "nl.Plan(level) makes one of it"
        elif isinstance(given, list | tuple):
            remedy = "nl.Plan(*levels) makes one of levels"
        elif isinstance(given, dict):
            remedy = "nl.Plan.from_data(data) makes one of it"
        else:
            remedy = "nl.Plan(nl.Level('all', match=['*'])) works, or the path of a TOML file"
        raise SettingError(f"the plan is {name_kind(given)}; {remedy}")

    def find(self, name: str) -> AnySpec:
        """The level of that name; raises UnknownLevel with the nearest one."""
        for level in self.levels:
            if level.name == name:
                return level
        known = suggest(name, [level.name for level in self.levels])
        raise UnknownLevel(f"level {name!r}; {known}")

    def _check_names(self) -> None:
        if not self.levels:
            raise SettingError(
                "a plan needs at least one level, e.g. nl.Level('all', match=('*',))"
            )
        names = [level.name for level in self.levels]
        for name in names:
            if names.count(name) > 1:
                raise SettingError(f"two levels are called {name!r}; give one another name")
            if name == "live":
                raise SettingError(
                    "'live' means the model as it is now; give the level another name"
                )

    def _check_references(self) -> None:
        gradient = [level.name for level in self.gradient_levels]
        answers = [copy.name for copy in self.copies]
        answers += [memory.name for memory in self.memories] + ["live"]
        answers += [one.name for one in self.concepts]
        writers: dict[str, str] = {}
        for copy in self.copies:
            for name in copy.of:
                if name not in gradient:
                    raise UnknownLevel(f"copy {copy.name!r} of {name!r}; {suggest(name, gradient)}")
                if copy.rule is not None and writers.setdefault(name, copy.name) != copy.name:
                    raise SettingError(
                        f"copies {writers[name]!r} and {copy.name!r} both have a rule that writes "
                        f"into level {name!r}; keep it in one, or make the other an average"
                    )
        for level in self.gradient_levels:
            for gate in level.gate:
                if isinstance(gate, ParentGate) and gate.of not in gradient:
                    hint = suggest(gate.of, gradient)
                    raise UnknownLevel(f"gate of {level.name!r} has parent {gate.of!r}; {hint}")
        memories = [memory.name for memory in self.memories]
        for one in self.concepts:
            if one.of not in memories:
                raise UnknownLevel(
                    f"concepts {one.name!r} of {one.of!r}; {suggest(one.of, memories)}"
                )
            if self.readout == one.name:
                raise SettingError(
                    f"read-out {one.name!r} has nothing to say until labels change their meaning; "
                    f"nl.mix({one.of!r}, {one.name!r}) works"
                )
        for sleep in self.sleeps:
            if sleep.of not in memories:
                raise UnknownLevel(
                    f"sleep {sleep.name!r} of {sleep.of!r}; {suggest(sleep.of, memories)}"
                )
            for name in sleep.teaches:
                if name not in gradient:
                    hint = suggest(name, gradient)
                    raise UnknownLevel(f"sleep {sleep.name!r} teaches {name!r}; {hint}")
            if not gradient:
                raise SettingError(
                    f"sleep {sleep.name!r} has no gradient level to teach; add "
                    "nl.Level('net', match=['*'])"
                )
        for watch in self.watches:
            if watch.of == "loss" and not gradient:
                raise SettingError(
                    f"watch {watch.name!r} hears of losses, and no gradient level has any; "
                    "of='error' works"
                )
        for name in self.answering:
            if name not in answers:
                raise UnknownLevel(f"read-out {name!r} cannot answer; {suggest(name, answers)}")
        outside = self.outside
        if outside is None:
            return
        if outside not in {copy.name for copy in self.copies}:
            raise SettingError(
                f"outside={outside!r} is no copy level; add nl.Copy({outside!r}, ...)"
            )
        if not {memory.name for memory in self.memories} & set(self.answering):
            raise SettingError(f"outside={outside!r} of no memory; mix a memory with it")

    def _check_patterns(self) -> None:
        owner: dict[str, str] = {}
        for level in self.gradient_levels:
            for pattern in level.match:
                if pattern in owner:
                    both = f"{owner[pattern]!r} and {level.name!r}"
                    raise SettingError(f"pattern {pattern!r} stands in {both}; keep it in one")
                owner[pattern] = level.name


def order_by_parent(levels: Iterable[Level]) -> list[str]:
    """Level names with every parent before its children; raises SettingError on a circle.

    A name may come several times, with other gates: the order then suits all of them.
    """
    waiting: dict[str, set[str]] = {}
    for level in levels:
        parents = {gate.of for gate in level.gate if isinstance(gate, ParentGate)}
        waiting.setdefault(level.name, set()).update(parents)
    ordered: list[str] = []
    while waiting:
        ready = [name for name, parents in waiting.items() if not parents - set(ordered)]
        if not ready:
            raise SettingError(f"parent gates form a circle among {sorted(waiting)}; break it")
        ordered += ready
        for name in ready:
            del waiting[name]
    return ordered


def _find_optimizer(name: str, level: object, source: str, like: Plan | None) -> CustomOptimizer:
    """The optimizer that a file names: that of the same level of another plan, or imported."""
    if like is None:
        try:
            return CustomOptimizer.load(name)
        except SettingError as error:
            raise SettingError(f"{source}, level {level!r}: optimizer {error}") from error
    held = [spec.optimizer for spec in like.trained_levels if spec.name == level]
    if not held or not isinstance(held[0], CustomOptimizer) or held[0].name != name:
        known = [f"{rule.name!r}" for rule in held] or ["none"]
        raise SettingError(
            f"{source}, level {level!r}: optimizer {name!r}; this plan has {known[0]} there"
        )
    return held[0]
