"""Sources: what is checked before a file is used, and what each reader finds in the real one."""

import errno
import hashlib
import os
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import DataError, SettingError
from nestling.data import find_folder
from nestling.data.sources import fetch_source, fetching, list_sources, obtain
from nestling.data.sources.images import (
    read_cifar10,
    read_emoji,
    read_mnist_10k,
    read_omniglot,
)
from nestling.data.sources.recordings import read_watch
from nestling.data.sources.source import Source, SourceFile
from nestling.data.sources.table_archives import encode_census, read_census, read_heart
from nestling.data.sources.templates import Grammar, expand
from nestling.data.sources.texts import read_banking77, read_clinc150, read_intents


def need(name: str) -> list[Path]:
    """Files of a source, or skip: tests never fetch."""
    try:
        return obtain(name, offline=True)
    except DataError as error:
        pytest.skip(str(error).split("; ")[0])


# --- finding and fetching


def test_every_source_states_terms_and_sums():
    names = [source.name for source in list_sources()]
    assert len(names) == len(set(names))
    for source in list_sources():
        assert source.licence
        assert source.about
        for file in source.files:
            assert file.num_bytes > 0
            assert len(file.sha256) == 64
            assert all(word.isprintable() and " " not in word for word in file.command)


def test_only_sets_that_no_registry_carries_have_no_command():
    without = [
        source.name for source in list_sources() if any(not file.command for file in source.files)
    ]
    assert without == ["cifar10-6k", "elec2", "covertype", "bike"]


def test_absent_data_says_the_one_command(tmp_path):
    with pytest.raises(DataError, match=r"data not fetched.*run: nestling data fetch emoji$"):
        obtain("emoji", tmp_path, offline=True)
    # No registry has it, so that fetching is refused before it starts.
    with pytest.raises(DataError, match="nestling data fetch cifar10-6k --from DIR"):
        obtain("cifar10-6k", tmp_path)
    with pytest.raises(SettingError, match="did you mean 'clinc150'"):
        obtain("clinc15", tmp_path)


def make_file(content: bytes, name: str, *command: str) -> SourceFile:
    return SourceFile(name, len(content), hashlib.sha256(content).hexdigest(), command)


@pytest.fixture
def tiny(monkeypatch):
    """A source of two small files, one of them fetched by pip."""
    files = (
        make_file(b"first\n", "a.whl", "pip", "download", "--no-deps", "a==1"),
        make_file(b"second\n", "b.txt", "curl", "-fsSL", "-o", "b.txt", "https://x.invalid/b"),
    )
    source = Source("tiny", "two files", "none", files)
    monkeypatch.setattr("nestling.data.sources.fetching.find_source", lambda _: source)
    return source


@pytest.fixture
def clients(tmp_path, monkeypatch):
    """Stand-ins for pip and curl, which write down how they were called."""

    def put(name: str, script: str) -> None:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {name} $@ >> {tmp_path}/calls\n{script}\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return put


def test_files_are_fetched_once_and_only_what_is_missing(tiny, clients, tmp_path):
    clients("pip", f"cat requirements.txt > {tmp_path}/asked; echo first > a.whl")
    clients("curl", "echo second > b.txt")
    folder = tmp_path / "folder"
    paths = obtain("tiny", folder)
    assert [path.read_text() for path in paths] == ["first\n", "second\n"]
    assert sorted(path.name for path in folder.iterdir()) == ["a.whl", "b.txt"]
    # pip looks at the hash before it runs a setup script.
    assert (tmp_path / "asked").read_text() == f"a==1 --hash=sha256:{tiny.files[0].sha256}\n"
    paths[1].write_text("damage\n")
    assert [path.read_text() for path in obtain("tiny", folder)] == ["first\n", "second\n"]
    calls = (tmp_path / "calls").read_text()
    assert (calls.count("pip"), calls.count("curl")) == (1, 2)


def test_other_bytes_are_refused_and_nothing_is_left(tiny, clients, tmp_path):
    clients("pip", "echo other > a.whl")
    with pytest.raises(DataError, match="sha256"):
        fetch_source("tiny", tmp_path / "folder")
    clients("pip", "true")
    with pytest.raises(DataError, match=r"gave no a\.whl"):
        fetch_source("tiny", tmp_path / "folder")
    clients("pip", "echo no network >&2; exit 1")
    with pytest.raises(DataError, match="failed: no network"):
        fetch_source("tiny", tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []


def test_copies_from_a_folder(tiny, tmp_path):
    copies, folder = tmp_path / "copies", tmp_path / "folder"
    copies.mkdir()
    (copies / "a.whl").write_text("first\n")
    with pytest.raises(DataError, match=r"name the folder that holds b\.txt"):
        fetch_source("tiny", folder, source=copies)
    (copies / "b.txt").write_text("second\n")
    assert fetch_source("tiny", folder, source=copies) == folder
    assert len(obtain("tiny", folder, offline=True)) == 2


def test_a_named_folder_is_looked_into_before_the_cache(tiny, tmp_path, monkeypatch):
    named, cache = tmp_path / "named", tmp_path / ".cache" / "nestling"
    named.mkdir()
    cache.mkdir(parents=True)
    (named / "a.whl").write_text("first\n")
    (cache / "b.txt").write_text("second\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NESTLING_DATA", str(named))
    assert obtain("tiny", offline=True) == [named / "a.whl", cache / "b.txt"]
    with pytest.raises(DataError, match=r"no intact b\.txt"):
        obtain("tiny", named, offline=True)


def test_a_folder_that_is_a_file(tiny, clients, tmp_path):
    clients("pip", "echo first > a.whl")
    (tmp_path / "folder").write_text("")
    with pytest.raises(DataError, match=r"cannot fetch a\.whl into .*folder'"):
        fetch_source("tiny", tmp_path / "folder")


def test_missing_clients_say_so(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"needs pip, which is not installed.*--from"):
        fetch_source("tiny", tmp_path / "folder")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        OSError("no more words"),
    ],
)
def test_what_the_system_refuses_is_one_line_and_leaves_nothing(tiny, tmp_path, monkeypatch, error):
    copies, folder = tmp_path / "copies", tmp_path / "folder"
    copies.mkdir()
    for name in ("a.whl", "b.txt"):
        (copies / name).write_text("first\n")

    def copy_half(_: Path, draft: Path) -> None:
        draft.write_text("fir")
        raise error

    monkeypatch.setattr("shutil.copyfile", copy_half)
    with pytest.raises(
        DataError, match=f"cannot fetch a.whl .*{error.strerror or error}"
    ) as caught:
        fetch_source("tiny", folder, source=copies)
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


def test_a_client_that_hangs_is_stopped_with_all_that_it_started(
    tiny, clients, tmp_path, monkeypatch
):
    # The child holds the client's stderr, so that ending the client alone would not free us.
    clients("pip", f"echo fir > a.whl; sleep 60 & echo $! > {tmp_path}/child; wait")
    monkeypatch.setattr(fetching, "START_S", 1.0)
    begin = time.monotonic()
    with pytest.raises(DataError, match=r"took more than 1 s and was stopped"):
        fetch_source("tiny", tmp_path / "folder")
    assert time.monotonic() - begin < 30.0
    assert list((tmp_path / "folder").iterdir()) == []
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    # Gone, or dead and only not yet collected by init.
    assert not child.exists() or child.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_the_folder_is_the_named_one_or_the_environments(tmp_path, monkeypatch):
    monkeypatch.setenv("NESTLING_DATA", str(tmp_path))
    assert find_folder() == tmp_path
    assert find_folder(Path("x")) == Path("x")
    monkeypatch.delenv("NESTLING_DATA")
    assert find_folder().name == "nestling"


# --- templates

GRAMMAR = Grammar(
    (), {"the": "[the|my]", "loop": "<loop>"}, {"state": ("on", "o[f]f")}, {"n": (3, 5)}
)


@pytest.mark.parametrize(
    ("template", "sentences"),
    [
        ("(a|b) c", {"a c", "b c"}),
        ("[very] well", {"well", "very well"}),
        ("turn {state:value}", {"turn on", "turn off", "turn of"}),
        ("<the> lamp", {"lamp", "the lamp", "my lamp"}),
        ("(a;b)", {"a b", "b a"}),
        ("{n} %", {"3 %", "4 %", "5 %"}),
        ("x[(a|b)]", {"x", "xa", "xb"}),
        ("{name}", {"lamp", "fan"}),
    ],
)
def test_templates_mean_what_they_say(template, sentences):
    generator = torch.Generator().manual_seed(0)
    assert {expand(template, GRAMMAR, generator) for _ in range(80)} == sentences


@given(st.text(alphabet="ab()[]|;<>{} ", max_size=12), st.integers(0, 9))
def test_any_template_expands_or_is_refused(template, seed):
    try:
        text = expand(template, GRAMMAR, torch.Generator().manual_seed(seed))
    except DataError:
        return
    assert not set("()[]|;") & set(text)


@pytest.mark.parametrize("template", ["(a", "a)", "[a)", "<nothing>", "<loop>"])
def test_broken_templates(template):
    with pytest.raises(DataError):
        expand(template, GRAMMAR, torch.Generator())


# --- the real archives


def test_mnist_10k():
    x, y = read_mnist_10k(*need("mnist-10k"))
    assert x.shape == (10_000, 28, 28)
    assert (y.diff() >= 0).all()
    assert y.bincount().tolist() == [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    assert (x.min(), x.max()) == (0.0, 1.0)


def test_cifar10():
    x, y, x_test, y_test = read_cifar10(*need("cifar10-6k"))
    assert x.shape == (5000, 3, 32, 32)
    assert y.bincount().tolist() == [500] * 10
    assert y_test.bincount().tolist() == [100] * 10
    assert x_test.max() <= 1.0


def test_omniglot():
    found = read_omniglot(need("omniglot"))
    # 20 drawers of 242 characters; Latin and Greek, which stand twice, are taken once.
    assert Counter(Counter(found.characters).values()) == {20: 242}
    assert found.ink.shape == (4840, 105, 105)
    assert 0.03 < found.ink.double().mean() < 0.2
    assert found.drawers.bincount().tolist() == [0, *[242] * 20]


def test_emoji_of_both_vendors_have_the_same_names_and_categories():
    google, twitter = (
        read_emoji(path, vendor)
        for path, vendor in zip(need("emoji"), ("google", "twitter"), strict=True)
    )
    assert google.names == twitter.names
    assert google.categories == twitter.categories
    assert google.pixels.shape == (1911, 3, 64, 64)
    # Drawn by other hands: not one is alike.
    assert not (google.pixels == twitter.pixels).flatten(1).all(1).any()


def test_texts():
    parts = read_clinc150(*need("clinc150"))
    assert {part: len(rows) for part, rows in parts.items()} == {
        "train": 15_000,
        "val": 3_000,
        "test": 4_500,
    }
    assert len({intent for _, intent in parts["test"]}) == 150


def test_banking77():
    train, test = (read_banking77(path) for path in need("banking77"))
    assert (len(train), len(test)) == (10_003, 3_080)
    assert {label for _, label in train} == {label for _, label in test}


def test_intents_of_65_languages():
    grammars = read_intents(*need("home-assistant-intents"))
    assert len(grammars) == 65
    assert len({intent for _, intent in grammars["de"].templates}) == 42
    generator = torch.Generator().manual_seed(0)
    for grammar in grammars.values():
        for template, _ in grammar.templates[:3]:
            assert not set("()[]|;<>{}") & set(expand(template, grammar, generator))


def test_heart():
    table = read_heart(*need("heart"))
    assert Counter(table.groups) == {
        "Cleveland": 304,
        "Hungary": 292,
        "VA Long Beach": 199,
        "Switzerland": 123,
    }
    assert table.x.shape == (918, len(table.columns))
    assert table.x.isfinite().all()
    # Switzerland measured no cholesterol: its zeros count as missing.
    swiss = torch.tensor([group == "Switzerland" for group in table.groups])
    assert (table.x[swiss, table.columns.index("chol missing")] == 1.0).all()


def test_census():
    census = read_census(*need("census"))
    assert (len(census.train), len(census.test)) == (199_523, 99_762)
    table = encode_census(census.train[:500], census.words)
    assert set(table.groups) == {"94", "95"}
    assert table.x.shape == (500, len(table.columns))
    # One word of each of 32 columns.
    assert (table.x[:, 7:].sum(1) == 32).all()
    assert 0 < table.y.sum() < 100


def test_watch():
    found = read_watch(*need("watch"))
    pairs = Counter(zip(found.people.tolist(), found.exercises.tolist(), strict=True))
    assert pairs == {(person, exercise): 2 for person in range(1, 11) for exercise in range(7)}
    assert sum(len(one) for one in found.samples) == 244_102
