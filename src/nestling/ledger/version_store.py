"""Versions with their snapshots: how a folder that was written becomes a line of the log."""

from collections.abc import Callable, Mapping
from pathlib import Path

from nestling.ledger.version_diff import SavedModel, digest_levels, measure_changes
from nestling.ledger.version_log import VersionLog, digest_plan
from nestling.ledger.version_record import Origin, VersionRecord

# Opens the snapshot in a folder, whatever it is of.
OpenSaved = Callable[[Path], SavedModel]


def add_version(
    log: VersionLog,
    origin: Origin,
    open_saved: OpenSaved,
    *,
    at: float,
    snapshot: str,
    digests: Mapping[str, str] | None = None,
    contract_digest: str = "",
    by: str = "",
    reason: str = "",
    clause: str = "",
    num_examples: int = 0,
    behaviour: Mapping[str, float] | None = None,
) -> VersionRecord:
    """Make a version of a snapshot that has been written: how far each level moved is measured.

    Changes are those since the version before and since the last human validation, or, where
    nobody has validated yet, since the first version.

    Args:
        log: of the run.
        origin: how it came about; "validated" starts the change since validation anew.
        open_saved: opens a snapshot by its folder.
        at: seconds since 1970, UTC.
        snapshot: folder of the snapshot, relative to the run's.
        digests: level -> sha256 of its tensors, if they are known; else they are computed.
        contract_digest: of the contract in force.
        by: who made it.
        reason: in words.
        clause: that it cites.
        num_examples: learned by then.
        behaviour: "probe/view" -> figure.

    Raises:
        ClockError: the clock went back; nothing is written.
        SnapshotError: a snapshot cannot be read.
    """
    log.check_time(at)
    saved = open_saved(log.folder / snapshot)
    own = digest_levels(saved) if digests is None else dict(digests)

    def measure_from(base: VersionRecord | None) -> dict[str, float]:
        if base is None:
            return {}
        if all(base.digests.get(name) == digest for name, digest in own.items()):
            return dict.fromkeys(own, 0.0)
        return measure_changes(open_saved(log.folder / base.snapshot), saved, base.digests, own)

    changes = measure_from(log.records[-1] if log.records else None)
    since = dict.fromkeys(own, 0.0) if origin == "validated" else measure_from(log.baseline)
    return log.add(
        origin,
        at=at,
        snapshot=snapshot,
        digests=own,
        plan_digest=digest_plan(saved.plan),
        contract_digest=contract_digest,
        by=by,
        reason=reason,
        clause=clause,
        num_examples=num_examples,
        changes=changes,
        since_validation=since,
        behaviour=behaviour,
    )
