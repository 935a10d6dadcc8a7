"""Levels of a plan as the tables of a file: what is written out, which keys there are."""

from dataclasses import fields

from nestling.levels.drift_watch import DriftWatch
from nestling.levels.spec import AnySpec, Concepts, Copy, Level, Memory, Sleep
from nestling.optim.specs import name_rules


def keep_choice(data: dict[str, object], spec: AnySpec) -> None:
    """Write out what tells alternatives apart, though it is a default of its own class."""
    if isinstance(spec, Level | Sleep) and "optimizer" in data:
        data["optimizer"] = name_rules(spec.optimizer, data["optimizer"])
    if isinstance(spec, Level):
        if spec.gate:
            raw = data["gate"] if isinstance(data.get("gate"), list) else []
            data["gate"] = [
                {"kind": gate.kind} | _as_dict(entry)
                for gate, entry in zip(spec.gate, _as_list(raw), strict=True)
            ]
        data.setdefault("match", list(spec.match))
    if isinstance(spec, Copy) and spec.rule is not None:
        data["rule"] = {"kind": spec.rule.kind} | _as_dict(data.get("rule"))


def list_keys(raw: object) -> list[str]:
    """The keys that a level of a file may have."""
    kinds: dict[str, type[AnySpec]] = {
        "gradient": Level,
        "copy": Copy,
        "memory": Memory,
        "concepts": Concepts,
        "sleep": Sleep,
        "watch": DriftWatch,
    }
    kind = kinds.get(str(raw.get("kind"))) if isinstance(raw, dict) else None
    return [] if kind is None else [field.name for field in fields(kind)]


def _as_dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
