"""Data of probes from files: a CSV in the columns of a run, its texts kept for groups."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nestling.core.errors import DataError, SettingError
from nestling.data import RawTable, TableEncoding, read_columns
from nestling.judge.contract.probe_spec import ProbeSpec
from nestling.judge.probes import ProbeData, load_probe_data


def read_probe_data(
    spec: ProbeSpec, encoding: TableEncoding | None, folders: Sequence[Path]
) -> ProbeData:
    """Data of a probe: from its function, or from a file with the columns of a run.

    Args:
        spec: with `data` as "module:function" or the path of a CSV or Parquet file.
        encoding: of the run's tables; None where there is no run.
        folders: where a relative path starts, the first that has the file.

    Returns: inputs as the run sees them, targets (in the units of the file, if they are values),
        and all columns of the file as texts.

    Raises:
        SettingError: a file without a run, whose columns could be read in no way.
        DataError: no such file, or one that has other columns than the run.
    """
    if ":" in spec.data:
        return load_probe_data(spec)
    if encoding is None or not encoding.columns:
        raise SettingError(
            f"probe {spec.name!r}: data {spec.data!r} is a file, which only a run that learned "
            "columns of a table can read; write data = 'module:function', or check such a run"
        )
    places = [folder / spec.data for folder in folders]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        looked = ", ".join(f"'{place}'" for place in places)
        raise DataError(f"probe {spec.name!r}: no file {looked}; correct its data in the contract")
    table = read_columns(path)
    # Columns of groups may stand beside those that the run learned from.
    known = {code.name for code in encoding.columns} | {encoding.target}
    learned = replace(table, columns={k: v for k, v in table.columns.items() if k in known})
    y = encoding.encode_targets(learned) if encoding.target in table.columns else None
    if y is not None and encoding.targets == "values":
        y = encoding.decode_values(y)
    return ProbeData(encoding.encode_inputs(learned), y, _read_texts(table))


def _read_texts(table: RawTable) -> dict[str, list[str]]:
    return {
        name: [cell if isinstance(cell, str) else f"{cell:g}" for cell in cells]
        for name, cells in table.columns.items()
    }


def name_positive(spec: ProbeSpec, encoding: TableEncoding | None) -> ProbeSpec:
    """A specification whose positive class is a number, where the run's classes have names."""
    positive = spec.settings.get("positive")
    if encoding is None or not isinstance(positive, str) or positive not in encoding.labels:
        return spec
    number = encoding.labels.index(positive)
    return replace(spec, settings={**spec.settings, "positive": number})
