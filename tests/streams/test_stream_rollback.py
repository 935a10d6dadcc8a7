"""One level of a stream learner goes back, live and in files; all others stay bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from made_streams import learn_all, make_either, make_growing, make_learner
from torch import nn

import nestling as nl
from nestling.core.errors import ForeignSnapshot, SnapshotError, UnknownLevel
from nestling.core.params import digest_tensors
from nestling.streams.experts.expert_arrays import CLASS_EXPERTS, VALUE_EXPERTS
from nestling.streams.stream_state import SavedStream, read_stream_level


def make_full(values: bool) -> Any:
    """With a module as an expert, too."""
    torch.manual_seed(0)
    learner = nl.StreamRegressor if values else nl.StreamClassifier
    return learner(model=nn.LazyLinear(1 if values else 3))


@pytest.mark.parametrize("values", [False, True], ids=["classes", "values"])
def test_each_level_goes_back_live_and_in_files(tmp_path: Path, values: bool) -> None:
    first = make_either(120, values=values)  # columns and classes all appear
    rest = first[40:]
    learner = make_learner(values=values)
    learn_all(learner, first)
    learner.snapshot(tmp_path / "one")
    then, states = (
        learner.levels.digests(),
        {n: one.state_dict() for n, one in learner.levels.items()},
    )
    learn_all(learner, rest)
    learner.snapshot(tmp_path / "two")
    now = learner.levels.digests()
    assert {name for name in now if now[name] != then[name]} == set(now)
    one, two = SavedStream(tmp_path / "one"), SavedStream(tmp_path / "two")
    assert list(one) == list(now)
    names = VALUE_EXPERTS if values else CLASS_EXPERTS
    for name in names:
        assert digest_tensors(one.read_tensors(name)) == then[name]
        learner.restore(tmp_path / "two")
        asked = learner.predict_one(rest[0][0])  # what was foreseen then must not be learned from
        learner.levels[name].load_state_dict(states[name])
        assert learner.levels.digests() == now | {name: then[name]}
        two.write_with(tmp_path / f"with {name}", name, one)
        twin = make_learner(values=values)
        twin.restore(tmp_path / f"with {name}")
        assert twin.levels.digests() == learner.levels.digests()
        # Both go on alike, and each from the level as it was.
        learn_all(learner, rest[:20])
        learn_all(twin, rest[:20])
        assert twin.levels.digests() == learner.levels.digests()
        assert twin.predict_one(rest[0][0]) == learner.predict_one(rest[0][0])
        del asked
    with pytest.raises(ForeignSnapshot, match=r"no level 'spin'.*did you mean 'spine'"):
        two.write_with(tmp_path / "none", "spin", one)
    assert not (tmp_path / "none").exists()


def test_a_level_from_before_the_stream_grew_or_of_another_learner_is_refused(
    tmp_path: Path,
) -> None:
    examples = make_growing(100)
    learner = nl.StreamClassifier()
    learn_all(learner, examples[:20])
    learner.snapshot(tmp_path / "one")
    learn_all(learner, examples[20:])
    learner.snapshot(tmp_path / "two")
    before = learner.levels.digests()
    state = read_stream_level(tmp_path / "one", "adamw")
    with pytest.raises(ForeignSnapshot, match="the stream has grown since"):
        learner.levels["adamw"].load_state_dict(state)
    with pytest.raises(ForeignSnapshot, match="the stream has grown since"):
        SavedStream(tmp_path / "two").write_with(
            tmp_path / "three", "adamw", SavedStream(tmp_path / "one")
        )
    own = learner.levels["adamw"].state_dict()
    with pytest.raises(ForeignSnapshot, match="it is of level 'adamw'"):
        learner.levels["sgd"].load_state_dict(own)
    other = nl.StreamClassifier(seed=5)
    learn_all(other, examples)
    with pytest.raises(ForeignSnapshot, match="saved with seed 5, this learner has 0"):
        learner.levels["adamw"].load_state_dict(other.levels["adamw"].state_dict())
    with pytest.raises(UnknownLevel, match="did you mean 'adamw'"):
        learner.levels["adam"].load_state_dict(own)
    with pytest.raises(SnapshotError):
        read_stream_level(tmp_path / "none", "adamw")
    assert learner.levels.digests() == before
    assert not (tmp_path / "three").exists()


def test_knobs_go_back_with_a_level_and_freezes_stay() -> None:
    examples = make_either(60, values=False)
    learner = nl.StreamClassifier()
    learn_all(learner, examples)
    state = learner.levels["adamw"].state_dict()
    learner.levels["adamw"].control(reason="test", lr=0.5, freeze=nl.Freeze(until="release"))
    learner.levels["sgd"].control(reason="test", lr=0.25)
    learner.levels["adamw"].load_state_dict(state)
    assert learner.levels["adamw"].spec.lr == state["spec"]["lr"]
    assert learner.levels["adamw"].spec.freeze is not None
    assert learner.levels["sgd"].spec.lr == 0.25


def test_the_module_of_a_user_goes_back_with_its_moments(tmp_path: Path) -> None:
    examples = make_either(40, values=False)
    torch.manual_seed(0)
    learner = nl.StreamClassifier(model=nn.LazyLinear(3))
    learn_all(learner, examples[:20])
    learner.snapshot(tmp_path / "one")
    then = learner.levels.digests()
    learn_all(learner, examples[20:])
    now = learner.levels.digests()
    state = read_stream_level(tmp_path / "one", "model")
    learner.levels["model"].load_state_dict(state)
    assert learner.levels.digests() == now | {"model": then["model"]}
    assert learner.levels["model"].state_dict()["course"]["model"]["num_updates"] == 20
