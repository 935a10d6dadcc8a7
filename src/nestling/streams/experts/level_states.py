"""One level of a stream learner within the state of all experts: taken out, and put back."""

from collections.abc import Iterable, Mapping
from typing import Any

from nestling.core.errors import ForeignSnapshot, suggest
from nestling.streams.experts.expert_arrays import NETWORKS, RIDGES, TREES

# Settings of all experts that a level's state depends on.
SETTINGS = ("names", "seed", "classifies", "settings", "level")


def find_part(name: str) -> str:
    """The part of the experts' arrays that a level is made of."""
    return "past" if name == "labels" else name


def take_level(pool: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The state of one level out of that of all experts; nothing is copied.

    Args:
        pool: what `ExpertPool.state_dict` gave, or so much of it as this level needs.
        name: of the level.

    Raises:
        ForeignSnapshot: there is no such level; names the nearest.
    """
    _check_name(name, pool["names"])
    is_model = name == "model"
    course: dict[str, Any] = {}
    for field, at in _list_places(name):
        course[field] = [pool[field][place] for place in at]
    if name in RIDGES:
        course["half_life"], course["num_solved"] = (
            pool[field][name] for field in ("half_lives", "num_solved")
        )
    if is_model:
        course["model"] = {key: one for key, one in pool["model"].items() if key != "tensors"}
    return {
        "name": name,
        "made": {field: pool[field] for field in SETTINGS},
        "sizes": dict(pool["sizes"]),
        "course": course,
        "tensors": pool["model"]["tensors"] if is_model else pool["parts"][find_part(name)],
    }


def put_level(pool: Mapping[str, Any], name: str, level: Mapping[str, Any]) -> dict[str, Any]:
    """The state of all experts in which one level is as it was saved; nothing else differs.

    Args:
        pool: what `ExpertPool.state_dict` gave, or all of it but the parts of other levels.
        name: of the level.
        level: what `take_level` gave.

    Raises:
        ForeignSnapshot: of another level, another learner, or from before columns, categories or
            classes appeared.
    """
    _check_name(name, pool["names"])
    missing = [
        field for field in ("name", "made", "sizes", "course", "tensors") if field not in level
    ]
    if missing or level["name"] != name:
        found = f"it lacks {missing[0]!r}" if missing else f"it is of level {level['name']!r}"
        raise ForeignSnapshot(
            f"the state is not of level {name!r}: {found}; give what that level's state_dict() gave"
        )
    for field in SETTINGS:
        if level["made"][field] != pool[field]:
            raise ForeignSnapshot(
                f"level {name!r} was saved with {field} {level['made'][field]!r}, this learner has "
                f"{pool[field]!r}; go back to a version of this learner"
            )
    # The module of a user sees what there was when it began, and does not grow.
    sizes = {} if name == "model" else pool["sizes"]
    for size, now in sizes.items():
        if level["sizes"].get(size) != now:
            raise ForeignSnapshot(
                f"level {name!r} was saved at {size} {level['sizes'].get(size)}, now it is {now}: "
                "the stream has grown since; go back to a later version, or restore the whole of "
                "that one"
            )
    course, changed = level["course"], dict(pool)
    for field, at in _list_places(name):
        values = list(pool[field])
        for place, value in zip(at, course[field], strict=True):
            values[place] = value
        changed[field] = values
    if name in RIDGES:
        changed["half_lives"] = {**pool["half_lives"], name: course["half_life"]}
        changed["num_solved"] = {**pool["num_solved"], name: course["num_solved"]}
    if name == "model":
        changed["model"] = {**course["model"], "tensors": level["tensors"]}
    else:
        changed["parts"] = {**pool["parts"], find_part(name): level["tensors"]}
    return changed


def _check_name(name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ForeignSnapshot(f"the snapshot has no level {name!r}; {suggest(name, known)}")


def _list_places(name: str) -> list[tuple[str, list[int]]]:
    """Where numbers of a level stand in the lists that experts share."""
    found: list[tuple[str, list[int]]] = []
    if name in NETWORKS:
        # Rates of all networks, then the decays of those that have one.
        decayed = NETWORKS[1:3]
        at = [NETWORKS.index(name)]
        if name in decayed:
            at.append(len(NETWORKS) + decayed.index(name))
        found.append(("rates", at))
    if name == "concepts":
        found.append(("clock", [0, 1]))
    if name in TREES:
        found.append(("anew", [TREES.index(name)]))
    return found
