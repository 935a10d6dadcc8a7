"""Effect of changes by group: every group's figure before and after, with its interval.

Also what a proposal would have done that was refused.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nestling.judge.probes.probe_result import ProbePart
from nestling.report.audit.audit_records import AuditRecords, AuditVersion, ProbeReading
from nestling.report.audit.record_facts import list_live
from nestling.report.audit.wording import NOTHING, say_difference, say_reading, say_time

SHOWN_VIEWS = ("spine", "whole")
_PROPOSAL_ID = re.compile(r"p\d+")
_OTHER_DATA = "The data of the probe changed in between, so before and after do not compare."


@dataclass(frozen=True)
class GroupEffect:
    """One group before and after one change, in both views.

    Attributes:
        group: such as "sex=female", or "all rows".
        cells: before, after and difference on the spine alone, then the same of the whole; without
            the difference for what was only tried.
        worse: whether the figure got worse in a view by more than the intervals' overlap explains.
    """

    group: str
    cells: tuple[str, ...]
    worse: bool


@dataclass(frozen=True)
class ChangeEffect:
    """What one committed change did to the groups of a probe.

    Attributes:
        version: id that the change made.
        at: when, UTC.
        clause: that it cites.
        rows: one per group.
        note: what must be known to read them; empty if nothing.
    """

    version: str
    at: str
    clause: str
    rows: tuple[GroupEffect, ...]
    note: str


@dataclass(frozen=True)
class GroupCurve:
    """Figures of one group in one view, a point per version that was measured.

    Attributes:
        group: by name.
        points: (place of the version, figure, low, high); NaN where it was not judged.
    """

    group: str
    points: tuple[tuple[int, float, float, float], ...]


@dataclass(frozen=True)
class ProbeEffects:
    """A probe with groups: its curves and what each change did.

    Attributes:
        probe, metric, better: of the probe.
        versions: ids along the curves.
        committed: places of versions that a committed change made.
        curves: view -> a curve per group.
        changes: newest first.
        too_few: what was too small to be judged, in words.
    """

    probe: str
    metric: str
    better: str
    versions: tuple[str, ...]
    committed: tuple[int, ...]
    curves: dict[str, tuple[GroupCurve, ...]]
    changes: tuple[ChangeEffect, ...]
    too_few: tuple[str, ...]


@dataclass(frozen=True)
class TriedEffect:
    """What a proposal would have done to the groups of a probe.

    Attributes:
        probe, metric, better: of the probe.
        rows: one per group.
        note: what must be known to read them; empty if nothing.
    """

    probe: str
    metric: str
    better: str
    rows: tuple[GroupEffect, ...]
    note: str


def list_tried(readings: Sequence[ProbeReading], proposal: str) -> tuple[TriedEffect, ...]:
    """What a proposal would have done to every probe that has groups or slices.

    Args:
        readings: all of the run, in the order of the record.
        proposal: id, such as "p0001".
    """
    tried = [one for one in readings if proposal and one.version == proposal]
    names = dict.fromkeys(one.result.probe for one in tried if one.result.parts)
    return tuple(_try_probe(readings, tried, name) for name in names)


def _try_probe(
    readings: Sequence[ProbeReading], tried: Sequence[ProbeReading], name: str
) -> TriedEffect:
    after = {one.view: one for one in tried if one.result.probe == name}
    some = next(iter(after.values()))
    # The live model as it was last measured before the proposal was.
    before = {
        one.view: one
        for one in readings
        if one.result.probe == name
        and one.at <= after.get(one.view, some).at
        and not _PROPOSAL_ID.fullmatch(one.version)
    }
    pairs = [(before.get(view), after.get(view)) for view in SHOWN_VIEWS]
    note = _OTHER_DATA if any(_have_other_data(*pair) for pair in pairs) else ""
    rows = []
    for group in ("all rows", *_list_groups(pairs)):
        parts = [[_find_part(reading, group) for reading in pair] for pair in pairs]
        cells = tuple(say_reading(part) for pair in parts for part in pair)
        worse = any(_is_worse(one, other, some.result.better) for one, other in parts)
        rows.append(GroupEffect(group, cells, worse and not note))
    return TriedEffect(name, some.result.metric, some.result.better, tuple(rows), note)


def list_effects(records: AuditRecords) -> list[ProbeEffects]:
    """The effect of every committed change on every probe that has groups or slices."""
    names = dict.fromkeys(one.result.probe for one in records.probes if one.result.parts)
    return [_follow_probe(records, name) for name in names]


def _follow_probe(records: AuditRecords, name: str) -> ProbeEffects:
    # A version is measured when it is made; the live model also later, without a version.
    readings = [
        one
        for one in list_live(records)
        if one.result.probe == name and one.view in SHOWN_VIEWS and one.version
    ]
    # The last reading of a version is the one that holds; later ones come from later checks.
    latest = {(one.view, one.version): one for one in readings}
    known = {version.id: place for place, version in enumerate(records.versions)}
    measured = dict.fromkeys(one.version for one in readings)
    order = sorted(measured, key=lambda id: known.get(id, len(known)))
    commits = [version for version in records.versions if version.origin == "committed"]
    some = next(one.result for one in records.probes if one.result.probe == name)
    return ProbeEffects(
        probe=name,
        metric=some.metric,
        better=some.better,
        versions=tuple(order),
        committed=tuple(order.index(one.id) for one in commits if one.id in order),
        curves={
            view: _draw_view([latest.get((view, version)) for version in order])
            for view in SHOWN_VIEWS
            if any(one.view == view for one in readings)
        },
        changes=tuple(_compare(readings, latest, commit) for commit in reversed(commits)),
        too_few=tuple(dict.fromkeys(few for one in readings for few in one.result.too_few)),
    )


def _draw_view(readings: Sequence[ProbeReading | None]) -> tuple[GroupCurve, ...]:
    groups = dict.fromkeys(
        part.name for reading in readings if reading is not None for part in reading.result.parts
    )
    curves = []
    for group in groups:
        points = []
        for place, reading in enumerate(readings):
            part = _find_part(reading, group)
            if part is not None:
                points.append((place, part.value, part.low, part.high))
        curves.append(GroupCurve(group, tuple(points)))
    return tuple(curves)


def _compare(
    readings: Sequence[ProbeReading],
    latest: dict[tuple[str, str], ProbeReading],
    commit: AuditVersion,
) -> ChangeEffect:
    pairs = []
    note = ""
    for view in SHOWN_VIEWS:
        after = latest.get((view, commit.id))
        before = latest.get((view, commit.parent)) or _find_before(readings, view, commit)
        if _have_other_data(before, after):
            note = _OTHER_DATA
        pairs.append((before, after))
    rows = []
    for group in ("all rows", *_list_groups(pairs)):
        cells: list[str] = []
        worse = False
        for before, after in pairs:
            one, other = (_find_part(reading, group) for reading in (before, after))
            change = other.value - one.value if one and other and not note else math.nan
            cells += [say_reading(one), say_reading(other), say_difference(change)]
            worse = worse or (after is not None and _is_worse(one, other, after.result.better))
        rows.append(GroupEffect(group, tuple(cells), worse and not note))
    if not any(reading for pair in pairs for reading in pair):
        rows, note = [], "The probe was measured neither before nor after this change."
    return ChangeEffect(commit.id, say_time(commit.at), commit.clause or NOTHING, tuple(rows), note)


def _have_other_data(before: ProbeReading | None, after: ProbeReading | None) -> bool:
    if before is None or after is None:
        return False
    return before.result.data_digest != after.result.data_digest


def _list_groups(pairs: Sequence[tuple[ProbeReading | None, ProbeReading | None]]) -> list[str]:
    """Every group that some reading has, in the order in which they are met."""
    readings = [reading for pair in pairs for reading in pair if reading is not None]
    return list(dict.fromkeys(part.name for one in readings for part in one.result.parts))


def _find_before(
    readings: Sequence[ProbeReading], view: str, commit: AuditVersion
) -> ProbeReading | None:
    """The last reading before a change, if its parent was not measured."""
    earlier = [
        one
        for one in readings
        if one.view == view and one.at <= commit.at and one.version != commit.id
    ]
    return earlier[-1] if earlier else None


def _find_part(reading: ProbeReading | None, group: str) -> ProbePart | None:
    if reading is None:
        return None
    result = reading.result
    if group == "all rows":
        return ProbePart(group, result.value, result.low, result.high, result.num_examples)
    return next((part for part in result.parts if part.name == group), None)


def _is_worse(before: ProbePart | None, after: ProbePart | None, better: str) -> bool:
    """Whether the intervals lie apart, on the wrong side."""
    if before is None or after is None:
        return False
    return after.high < before.low if better == "higher" else after.low > before.high
