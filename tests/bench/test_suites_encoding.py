"""Features on disk: computed once, found again, made anew when damaged."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nestling.bench.suites import encoding
from nestling.bench.suites.encoding import Encoder, encode_once, encode_suite
from nestling.core.errors import DataError
from nestling.data import class_incremental
from nestling.data.suites import Suite


class Counting:
    """Features that can be told: length and first byte. Counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.num_loads = 0

    def load(self) -> "Counting":
        self.num_loads += 1
        return self

    def __call__(self, raw: Sequence[bytes]) -> Tensor:
        self.asked += raw
        return torch.tensor([[len(one), one[0] if one else 0] for one in raw]).float()


RAW = [b"abc", b"d", b"", b"abc", b"ef"]
WANTED = [[3.0, 97.0], [1.0, 100.0], [0.0, 0.0], [3.0, 97.0], [2.0, 101.0]]


def test_each_is_computed_once_and_found_in_order(tmp_path: Path) -> None:
    encoder, cache = Counting(), tmp_path / "deep" / "features.safetensors"
    assert encode_once(RAW, cache, encoder.load).tolist() == WANTED
    assert sorted(encoder.asked) == [b"", b"abc", b"d", b"ef"]
    assert encode_once(RAW[::-1], cache, encoder.load).tolist() == WANTED[::-1]
    assert encoder.num_loads == 1  # nothing was missing
    more = encode_once([*RAW, b"new"], cache, encoder.load)
    assert more.tolist() == [*WANTED, [3.0, 110.0]]
    assert encoder.asked[4:] == [b"new"]
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]  # no drafts are left


def test_an_interrupted_encoding_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_BLOCK", 2)
    encoder, cache = Counting(), tmp_path / "features"

    def fail_late(raw: Sequence[bytes]) -> Tensor:
        if b"ef" in raw:
            raise KeyboardInterrupt
        return encoder(raw)

    with pytest.raises(KeyboardInterrupt):
        encode_once([b"a", b"b", b"c", b"d", b"ef"], cache, lambda: fail_late)
    assert encode_once([b"a", b"b", b"c", b"d", b"ef"], cache, encoder.load)[-1, 0] == 2.0
    assert encoder.asked == [b"a", b"b", b"c", b"d", b"ef"]


@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_damaged_file_is_made_anew(damage: str, tmp_path: Path) -> None:
    encoder, cache = Counting(), tmp_path / "features"
    encode_once(RAW, cache, encoder.load)
    whole = cache.read_bytes()
    cache.write_bytes({"cut": whole[:-3], "other": b"x" * 200, "empty": b""}[damage])
    assert encode_once(RAW, cache, encoder.load).tolist() == WANTED
    assert cache.read_bytes() == whole


@pytest.mark.parametrize(
    ("names", "features"), [((2, 32), (3, 2)), ((1, 8), (1, 2)), ((4, 32), (4,))]
)
def test_another_programs_file_is_made_anew(
    names: tuple[int, ...], features: tuple[int, ...], tmp_path: Path
) -> None:
    cache = tmp_path / "features"
    held = {"names": torch.zeros(names, dtype=torch.uint8), "features": torch.ones(features)}
    save_file(held, cache)
    assert encode_once(RAW, cache, Counting().load).tolist() == WANTED


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match="cannot keep features in"):
        encode_once(RAW, tmp_path / "file" / "features", Counting().load)


def make_texts(name: str) -> Suite:
    texts = ["one", "three", "five", "seven", "nine", "eleven"]
    rows, y = torch.arange(6), torch.tensor([0, 0, 1, 1, 2, 2])
    made = class_incremental(rows, y, rows, y, num_experiences=3, seed=0)
    return Suite(
        name=name,
        kind="class-incremental",
        experiences=made,
        num_classes=3,
        batch_size=2,
        epochs=1,
        known_task_at_training=False,
        known_task_at_test=False,
        features="text",
        note="Numbers.",
        texts=[
            ([texts[r] for r in one.train[0].tolist()], [texts[r] for r in one.test[0].tolist()])
            for one in made
        ],
    )


def test_a_suite_of_texts_gets_features_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights"
    monkeypatch.setattr(encoding, "obtain", lambda *_, **__: [weights])
    encoder = Counting()
    fake = Encoder("fake", "Lengths.", lambda path: encoder.load() if path == weights else None)
    monkeypatch.setitem(encoding.ENCODERS, "numbers", fake)
    suite = make_texts("numbers")
    found = encode_suite(suite, tmp_path, offline=True)
    for before, after, (learned, tested) in zip(
        suite.experiences, found.experiences, suite.texts, strict=True
    ):
        assert after.train[0].tolist() == [[len(t), ord(t[0])] for t in learned]
        assert after.test[0].tolist() == [[len(t), ord(t[0])] for t in tested]
        assert torch.equal(after.train[1], before.train[1])
    assert (found.features, found.about_features) == ("encoded", "Lengths.")
    assert (tmp_path / "encoded" / "fake-numbers.safetensors").is_file()
    assert encode_suite(make_texts("others"), tmp_path, offline=True).texts  # no encoder: as it is
