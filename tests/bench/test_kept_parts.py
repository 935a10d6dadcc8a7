"""Parts that are kept, of any suite."""

from pathlib import Path

from nestling.bench.promises.kept_parts import Measure, measure_parts
from nestling.bench.suites.parallel_cells import CellFolders


def test_other_settings_measure_again(tmp_path: Path) -> None:
    measured: list[int] = []

    def make(num_seeds: int) -> dict[str, Measure]:
        def measure(_: CellFolders) -> tuple[dict[str, float], list[dict[str, object]]]:
            measured.append(num_seeds)
            return {"figure": float(num_seeds)}, [{"seed": num_seeds - 1}]

        return {"a": measure}

    place = CellFolders(tmp_path, offline=True)
    for num_seeds in (2, 2, 3):
        settings = {"num_seeds": num_seeds}
        figures, rows = measure_parts(make(num_seeds), place, settings=settings)
        assert figures == {"figure": float(num_seeds)}
        assert [(row["part"], row["seed"]) for row in rows] == [("a", num_seeds - 1)]
    assert measured == [2, 3]
