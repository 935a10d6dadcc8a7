"""Parts of a suite that are measured one by one and kept, so that an interrupted run goes on."""

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nestling.bench.suites.cell_files import identify_code
from nestling.bench.suites.parallel_cells import CellFolders, Progress
from nestling.bench.timing import Figures, Rows
from nestling.core.errors import JobError, SettingError, suggest
from nestling.core.machine import fingerprint, use_threads
from nestling.store import write_whole

Measure = Callable[[CellFolders], tuple[Figures, Rows]]


def measure_parts(
    parts: Mapping[str, Measure],
    place: CellFolders,
    names: Sequence[str] = (),
    *,
    settings: Mapping[str, int] | None = None,
    codes: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> tuple[Figures, Rows]:
    """Measure parts with one thread, each once by the same code on the same machine.

    Args:
        parts: name -> what measures it, in the order in which they run.
        place: parts are kept in its folder, in `parts/`; one of other code, another machine or
            other settings is measured again.
        names: of parts; none for all.
        settings: that the parts were made with, such as the number of seeds.
        codes: part -> name of the code that it depends on; of one that is not named it is all of
            the package.
        progress: told what is measured next, and the share that is done.

    Returns: the figures of these parts, and their rows; each row says its part and the code
        that measured it.

    Raises:
        SettingError: no such part.
        JobError: a part's file is damaged.
        DataError: data that cannot be had.
    """
    for name in names:
        if name not in parts:
            raise SettingError(f"part {name!r}; {suggest(name, parts)}")
    chosen = [name for name in parts if not names or name in names]
    figures: Figures = {}
    rows: Rows = []
    with use_threads(1):
        for number, name in enumerate(chosen):
            if progress is not None:
                progress(name, number / len(chosen))
            code = (codes or {}).get(name) or identify_code()
            found, seen = _measure_once(name, parts[name], place, dict(settings or {}), code)
            figures |= found
            rows += [{"part": name, **row, "code": code} for row in seen]
    return figures, rows


def _measure_once(
    name: str, measure: Measure, place: CellFolders, settings: dict[str, int], code: str
) -> tuple[Figures, Rows]:
    path = place.folder / "parts" / f"{name}.json"
    key: dict[str, object] = {"part": name, "code": code, "machine": fingerprint()}
    key |= {"settings": settings} if settings else {}
    known = _read_part(path, key)
    if known is not None:
        return known
    gc.collect()  # a model and its memory refer to each other, and the last part's are large
    figures, rows = measure(place)
    write_whole(path, json.dumps({**key, "figures": figures, "rows": rows}, indent=1) + "\n")
    return figures, rows


def _read_part(path: Path, key: dict[str, object]) -> tuple[Figures, Rows] | None:
    """What the file holds; None if there is none, or if it was measured otherwise."""
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if any(data[name] != value for name, value in key.items()):
            return None
        figures = {str(name): float(value) for name, value in data["figures"].items()}
        return figures, [dict(row) for row in data["rows"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobError(
            f"'{path}' is damaged ({type(error).__name__}); delete it to measure it again"
        ) from None
