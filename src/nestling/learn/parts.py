"""A learner's whole state: parts that each own theirs, loaded all or none, one file per level."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from nestling.core.errors import (
    ForeignSnapshot,
    MismatchedParameters,
    NestlingError,
    SettingError,
    suggest,
)
from nestling.core.params import Params, check_same_names, digest_tensors, flatten_tensors
from nestling.levels import Levels, Plan
from nestling.store import (
    list_parts,
    read_kind,
    read_listed,
    read_snapshot,
    write_snapshot,
)
from nestling.store.state_trees import decode_tree, encode_tree

_SCHEMAS = {"learner": 5, "levels": 1}
# What may be large beside the levels has a file of its own; all small parts share one.
_LARGE, _SMALL, _REST, _TREES = ("protections",), "learner", "rest of the model", "trees"
# Tensors of a level that are kept apart, since they change when its weights do not.
_VALIDATED = "validated"
_APART = {
    "gathered": "gradients of ",
    "reader": "features of ",
    "guard": "last good state of ",
    _VALIDATED: "validated state of ",
}
# Where the state of a kind of level has the tensors that its digest is of.
_KEPT_IN = {"memory": "bank", "concepts": "slots", "sleep": "sums"}


class Part(Protocol):
    """Something that owns a part of a learner's state."""

    def state_dict(self) -> dict[str, Any]:
        """Its state; tensors are copies."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; may raise with half of it done."""


def load_all(parts: Mapping[str, Part], states: Mapping[str, Any]) -> None:
    """Load every part, or none: if one cannot, all are as they were.

    Args:
        parts: name -> part, in the order in which they are loaded.
        states: name -> what its `state_dict` gave.

    Raises:
        ForeignSnapshot: a part is missing, or one cannot be loaded; says which and why.
    """
    if missing := [name for name in parts if name not in states]:
        raise ForeignSnapshot(
            f"the state has no part {missing[0]!r}; give a learner's whole state_dict()"
        )
    before = {name: part.state_dict() for name, part in parts.items()}
    name = ""
    try:
        for name, part in parts.items():
            part.load_state_dict(states[name])
    except Exception as error:
        for own, part in parts.items():
            part.load_state_dict(before[own])
        if not isinstance(error, NestlingError | KeyError | TypeError | ValueError | RuntimeError):
            raise
        reason = " ".join(str(error).split())
        raise ForeignSnapshot(f"the state of {name} is of another learner: {reason}") from error


def read_plan(state: Mapping[str, Any], live: Plan) -> Plan:
    """The plan that a learner's state was saved with; optimizers of the user's own are those of
    `live`.

    Raises:
        ForeignSnapshot: there is none, or it cannot be read.
    """
    try:
        return Plan.from_data(state["plan"], "the saved plan", like=live)
    except (NestlingError, KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ForeignSnapshot(
            f"the state is of no learner: {reason}; Learner.state_dict() gives one"
        ) from None


def split_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """A learner's state as what is kept in one file each: tensors of levels apart from all else.

    What ticks with every step (clocks, counts, rates) goes with the small parts, and gathered
    gradients and frozen features have files of their own, so that the file of a level's weights
    and moments changes only when the level moves.
    """
    levels = dict(state["levels"])
    files: dict[str, Any] = {}
    trees: dict[str, str] = {}
    for name, level in levels.pop("levels").items():
        tree, tensors = encode_tree(level)
        # As text, so that whoever reads one level does not take those of all others apart.
        trees[name] = json.dumps(tree, allow_nan=False)
        for pointer, value in tensors.items():
            files.setdefault(_find_file(name, pointer), {})[pointer] = value
    files[_REST] = levels.pop("rest")
    small = {key: value for key, value in state.items() if key not in ("levels", *_LARGE)}
    large = {key: state[key] for key in _LARGE if key in state}
    return files | large | {_SMALL: small | {_TREES: trees} | levels}


def join_state(files: Mapping[str, Any]) -> dict[str, Any]:
    """The state that `split_state` took apart.

    >>> import torch
    >>> level = {"weights": {"w": torch.zeros(1)}, "clock": {"age": 2}}
    >>> state = {"levels": {"levels": {"a": level}, "course": {}, "rest": {}}, "protections": 2}
    >>> join_state(split_state(state)) == state
    True
    """
    try:
        state = dict(files[_SMALL])
        levels = {name: _join_level(name, tree, files) for name, tree in state.pop(_TREES).items()}
        course, rest = state.pop("course"), files[_REST]
        state |= {key: files[key] for key in _LARGE if key in files}
    except KeyError as error:
        raise ForeignSnapshot(f"the snapshot has no part {error}; it is of no learner") from None
    return state | {"levels": {"levels": levels, "course": course, "rest": rest}}


def _find_file(name: str, pointer: str) -> str:
    return _APART.get(pointer.split("/")[1], "level ") + name


def _join_level(name: str, tree: str, files: Mapping[str, Any]) -> Any:
    """One level's state, of its tree as text and of as many files as it has tensors in."""
    tensors: dict[str, Tensor] = {}
    for start in ("level ", *_APART.values()):
        tensors |= files.get(start + name, {})
    return decode_tree(json.loads(tree), tensors)


def read_level(path: Path | str, name: str) -> dict[str, Any]:
    """Read the state of one level out of a snapshot, and nothing else of its tensors.

    Args:
        path: folder of the snapshot, of a learner or of the levels of a `NestedOptimizer`.
        name: of the level.

    Returns: what `learner.levels[name].load_state_dict` takes.

    Raises:
        SnapshotError: missing, changed, or without such a level.
    """
    return SavedLevels(path).read(name)


class SavedLevels:
    """Levels in a snapshot of a learner, or of a `NestedOptimizer`, each read from its own file.

    Args:
        path: folder of the snapshot.

    Raises:
        SnapshotError: missing, changed, or of something else.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        kind, _ = read_kind(self.path)
        self._kind = kind if kind in _SCHEMAS else "learner"
        self._schema = _SCHEMAS[self._kind]
        self._parts = list_parts(self.path, kind=self._kind, schema=self._schema)
        small = {name: part for name, part in self._parts.items() if name == _SMALL}
        self._small = read_listed(self.path, small).get(_SMALL, {})
        if not {_TREES, "plan"} <= self._small.keys():
            raise ForeignSnapshot(f"snapshot '{self.path}' has no levels; it is of no learner")

    def __iter__(self) -> Iterator[str]:
        return iter(self._small[_TREES])

    @property
    def plan(self) -> Any:
        """The plan as plain data."""
        return self._small["plan"]

    def read(self, name: str) -> dict[str, Any]:
        """The state of a level, as its `load_state_dict` takes it; SnapshotError without one."""
        trees = self._small[_TREES]
        if name not in trees:
            raise ForeignSnapshot(f"the snapshot has no level {name!r}; {suggest(name, trees)}")
        wanted = {file: self._parts[file] for file in _list_files(name) if file in self._parts}
        level: dict[str, Any] = _join_level(name, trees[name], read_listed(self.path, wanted))
        return level

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """What the level's digest is made of, by name."""
        return select_tensors(self.read(name))

    def write_with(self, path: Path, name: str, other: "SavedLevels") -> None:
        """Write a snapshot that is this one but for one level, which is as another has it.

        Files are linked, not written again. What a memory reads goes with the memory.

        Args:
            path: folder of the new snapshot.
            name: of the level.
            other: where it comes from, of the same plan.

        Raises:
            SnapshotError: one is damaged, or of another kind, or lacks the level.
            MismatchedParameters: the level has other names or shapes there.
            SettingError: a memory reads the live model and would be out of date.
        """
        if self._kind != other._kind:
            raise ForeignSnapshot(
                f"'{other.path}' is of a {other._kind!r}, '{self.path}' of a {self._kind!r}; give "
                "two of the same kind"
            )
        own, new = self.read(name), other.read(name)
        self._check_fit(name, own, new)
        kept = dict.fromkeys(self._parts, self.path)
        # What was validated stays: a level that goes back does not change what a person looked at.
        moving = [file for file in _list_files(name) if file != _APART[_VALIDATED] + name]
        for file in (_SMALL, *moving):
            kept.pop(file, None)
        kept |= {file: other.path for file in moving if file in other._parts}
        before, tree = (json.loads(one._small[_TREES][name]) for one in (self, other))
        tree.pop(_VALIDATED, None)
        if _VALIDATED in before:
            tree[_VALIDATED] = before[_VALIDATED]
        if self._is_written(name):  # the slow weights behind it begin anew
            tree["is_replaced"] = True
        small = {**self._small, _TREES: {**self._small[_TREES], name: json.dumps(tree)}}
        write_snapshot(path, {_SMALL: small}, kind=self._kind, schema=self._schema, linked=kept)

    def _is_written(self, name: str) -> bool:
        """Whether the rule of a copy level writes into a level."""
        specs = [json.loads(text)["spec"] for text in self._small[_TREES].values()]
        return any(spec.get("rule") and name in spec["of"] for spec in specs)

    def _check_fit(self, name: str, own: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        """Raise unless a level can be put in the place of one here."""
        kind = own["spec"].get("kind")
        if kind != new["spec"].get("kind"):
            raise ForeignSnapshot(
                f"level {name!r} is a {kind} level here and a {new['spec'].get('kind')} level "
                "there; go back to a version of this plan"
            )
        before, after = select_tensors(own), select_tensors(new)
        if kind in ("gradient", "copy"):
            check_form(name, after, before)
        if kind == "gradient" and digest_tensors(before) != digest_tensors(after):
            self._check_readers()

    def _check_readers(self) -> None:
        """Raise SettingError if a memory reads the live model."""
        for name, text in self._small[_TREES].items():
            tree = json.loads(text)
            spec = tree["spec"]
            if spec.get("kind") != "memory" or spec.get("frozen") or not tree.get("bank"):
                continue
            if spec.get("on") not in ("input", ["input"]):
                raise SettingError(
                    f"memory {name!r} reads the live model and would be out of date; roll back on "
                    "a live learner that has replay=200, which refits it, or plan nl.Memory(..., "
                    "frozen=True)"
                )


def check_form(name: str, saved: Params, live: Params) -> None:
    """Raise MismatchedParameters unless a level had the names and shapes that it has now.

    Args:
        name: of the level.
        saved: its tensors in a version.
        live: its tensors now.
    """
    try:
        check_same_names(saved, live)
    except MismatchedParameters as error:
        raise MismatchedParameters(
            f"level {name!r} had another form in that version: {error}; go back to a later "
            "version, or restore the whole of that one"
        ) from None


def select_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Of a level's state, what its `tensors` and its digest are made of.

    Args:
        state: of a level of any kind, as its `state_dict` gave it.

    >>> import torch
    >>> select_tensors({"spec": {"kind": "gradient"}, "weights": {"w": torch.zeros(1)}})
    {'w': tensor([0.])}
    """
    kind = state["spec"].get("kind")
    if kind == "gradient":
        return dict(state["weights"])
    if kind == "copy":
        return dict(state["values"]) | dict(state["buffers"])
    return flatten_tensors(state.get(_KEPT_IN.get(kind, "")))


def _list_files(name: str) -> list[str]:
    """All files that a level may have tensors in."""
    return [start + name for start in ("level ", *_APART.values())]


def write_levels(path: Path | str, levels: Levels, last: Path | None = None) -> None:
    """Save the levels of a `NestedOptimizer` and the rest of its model, atomically, a file each.

    Args:
        path: folder of the snapshot.
        levels: `optimizer.levels`.
        last: an earlier snapshot, whose unchanged files are linked.
    """
    files = split_state({"plan": levels.plan.to_data(), "levels": levels.state_dict()})
    known = () if last is None else (last,)
    write_snapshot(Path(path), files, kind="levels", schema=_SCHEMAS["levels"], reuse=known)


def read_levels_state(path: Path | str) -> dict[str, Any]:
    """What `optimizer.levels.load_state_dict` takes, of a snapshot that `write_levels` wrote."""
    found = read_snapshot(Path(path), kind="levels", schema=_SCHEMAS["levels"])
    state: dict[str, Any] = join_state(found)["levels"]
    return state


def write_snapshot_state(path: Path, state: Mapping[str, Any], last: Path | None) -> None:
    """Write a learner's state as a snapshot folder; what an earlier one holds is linked."""
    known = () if last is None else (last,)
    write_snapshot(
        path, split_state(state), kind="learner", schema=_SCHEMAS["learner"], reuse=known
    )


def read_snapshot_state(path: Path) -> dict[str, Any]:
    """The state that `write_snapshot_state` wrote; raises SnapshotError if it is not whole."""
    return join_state(read_snapshot(path, kind="learner", schema=_SCHEMAS["learner"]))
