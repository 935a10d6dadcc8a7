"""Events wait for their labels within bounds, and say what became of those that do not."""

import json
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from nestling.core.errors import (
    CorruptSnapshot,
    DataError,
    ForeignSnapshot,
    SettingError,
    UnknownEvent,
)
from nestling.streams.late_labels import WaitingEvents

IDS = st.sampled_from([0, 1, "0", "a"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), IDS, st.integers(0, 3)),
        st.tuples(st.just("take"), IDS, st.just(0)),
        st.tuples(st.just("expire"), st.just(0), st.integers(0, 3)),
        st.tuples(st.just("resume"), st.just(0), st.just(0)),
    ),
    min_size=20,
    max_size=60,
)


def make_record(number: int) -> dict[str, np.ndarray]:
    """Of three layouts, by turns."""
    record = {"x": np.arange(number % 3) + number / 7, "label": np.array(number % 5)}
    return record if number % 2 else {**record, "mask": np.array([[True], [False]])}


def resume(waiting: WaitingEvents) -> WaitingEvents:
    data, arrays = waiting.state_dict()
    twin = WaitingEvents(waiting.max_events, waiting.max_age)
    twin.load_state_dict(json.loads(json.dumps(data)), load(save(arrays)))
    assert json.dumps(twin.state_dict()[0]) == json.dumps(data)
    return twin


def assert_same_record(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert list(one) == list(other)
    for name in one:
        assert (one[name].dtype, one[name].shape) == (other[name].dtype, other[name].shape)
        assert one[name].tobytes() == other[name].tobytes()


@given(STEPS, st.integers(1, 4), st.integers(0, 6))
def test_waiting_events_are_as_a_plain_dict(steps: list, max_events: int, max_age: int) -> None:
    waiting = WaitingEvents(max_events, max_age)
    model: dict[Any, int] = {}
    fates: dict[Any, str] = {}
    now, num_dropped, delays = 0, 0, []
    for action, event_id, ahead in steps:
        if action == "put":
            if event_id in model:
                before = json.dumps(waiting.state_dict()[0])
                with pytest.raises(DataError, match="waits for its label already"):
                    waiting.put(event_id, now + ahead, make_record(now))
                assert json.dumps(waiting.state_dict()[0]) == before
                continue
            now += ahead
            dropped = waiting.put(event_id, now, make_record(now))
            model[event_id] = now
            fates.pop(event_id, None)
            expected = next(iter(model)) if len(model) > max_events else None
            assert dropped == expected
            if len(model) > max_events:
                del model[expected]
                fates[expected] = "too many newer"
                num_dropped += 1
        elif action == "take" and event_id in model:
            record, delay = waiting.take(event_id)
            number = model.pop(event_id)
            fates[event_id] = "answered already"
            assert delay == now - number
            assert_same_record(record, make_record(number))
            delays.append(delay)
        elif action == "take":
            with pytest.raises(UnknownEvent, match=fates.get(event_id, "never given")):
                waiting.take(event_id)
        elif action == "expire":
            now += ahead
            old = [one for one, number in model.items() if now - number > max_age]
            assert waiting.expire(now) == old
            for one in old:
                del model[one]
                fates[one] = "for its age"
            num_dropped += len(old)
        else:
            waiting = resume(waiting)
        while len(fates) > max_events:
            del fates[next(iter(fates))]
        assert waiting.ids == list(model)
        assert (waiting.num_waiting, len(waiting)) == (len(model), len(model))
        assert all(one in waiting for one in model)
        assert (waiting.num_dropped, waiting.num_answered) == (num_dropped, len(delays))
        assert waiting.num_bytes == sum(
            array.nbytes for number in model.values() for array in make_record(number).values()
        )
        weights = [2 ** (-age / 100) for age in range(len(delays))][::-1]
        mean = np.average(delays, weights=weights) if delays else 0.0
        assert waiting.mean_delay == pytest.approx(mean)


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_record_is_copied(order: Literal["C", "F"]) -> None:
    waiting = WaitingEvents()
    array = np.ones((2, 3), order=order)
    waiting.put("a", 5, {"x": array})
    array[:] = 0.0
    _, arrays = waiting.state_dict()
    arrays["0.x"][:] = 7.0
    record, delay = waiting.take("a")
    assert record["x"].tolist() == [[1.0] * 3] * 2
    assert delay == 0
    assert record["x"].flags.c_contiguous
    record["x"][:] = 2.0  # it is the caller's own now


def test_other_byte_orders_are_kept_as_ours() -> None:
    waiting = WaitingEvents()
    waiting.put("a", 0, {"x": np.arange(3, dtype=">i4")[::-1]})
    record, _ = resume(waiting).take("a")
    assert record["x"].tolist() == [2, 1, 0]
    assert record["x"].dtype == np.dtype("=i4")


def test_ids_are_told_apart() -> None:
    waiting = WaitingEvents()
    waiting.put(1, 0, {})
    waiting.put("1", 0, {})
    assert waiting.ids == [1, "1"]
    assert np.int64(1) in waiting
    waiting.take(np.str_("1"))
    assert waiting.ids == [1]
    assert resume(waiting).ids == [1]


@pytest.mark.parametrize("event_id", [None, True, 1.0, (1,), b"a", [1]])
def test_no_id(event_id: object) -> None:
    waiting = WaitingEvents()
    for act in (lambda: waiting.put(event_id, 3, {}), lambda: waiting.take(event_id)):
        with pytest.raises(DataError, match="give a str or an int"):
            act()
    waiting.put("a", 0, {})  # the number was not taken over


def test_bad_events_change_nothing() -> None:
    waiting = WaitingEvents()
    waiting.put("a", 10, {"x": np.zeros(2)})
    before = json.dumps(waiting.state_dict()[0])
    with pytest.raises(DataError, match="event number 9 after 10"):
        waiting.put("b", 9, {})
    with pytest.raises(DataError, match="event number 9 after 10"):
        waiting.expire(9)
    for array in (np.array(["x"]), np.array([None]), np.array([1j]), np.zeros(1, "g")):
        with pytest.raises(DataError, match="array 'y' of an event has dtype"):
            waiting.put("b", 11, {"x": np.zeros(2), "y": array})
    with pytest.raises(UnknownEvent, match="never given"):
        waiting.take("b")
    assert json.dumps(waiting.state_dict()[0]) == before
    assert waiting.num_bytes == 16


def test_an_answered_id_may_come_again() -> None:
    waiting = WaitingEvents()
    waiting.put("a", 0, {"x": np.zeros(1)})
    waiting.take("a")
    with pytest.raises(UnknownEvent, match="answered already"):
        waiting.take("a")
    waiting.put("a", 1, {"x": np.ones(1)})
    assert waiting.take("a")[0]["x"].tolist() == [1.0]


def test_an_event_says_why_it_was_dropped() -> None:
    waiting = WaitingEvents(max_events=2, max_age=5)
    for number, event_id in enumerate("abc"):
        waiting.put(event_id, number, {})
    assert waiting.expire(7) == ["b"]
    for event_id, why in [("a", "too many newer"), ("b", "for its age"), ("x", "never given")]:
        with pytest.raises(UnknownEvent, match=why):
            waiting.take(event_id)
    # Of as many as may wait it is remembered, of the last ones.
    waiting.take("c")
    with pytest.raises(UnknownEvent, match="never given, or is long gone"):
        waiting.take("a")
    # What came again is remembered by its last end.
    waiting.put("b", 8, {})
    waiting.take("b")
    waiting.put("d", 8, {})
    waiting.take("d")
    with pytest.raises(UnknownEvent, match="answered already"):
        waiting.take("b")


def test_the_mean_delay_forgets_with_its_half_life() -> None:
    waiting = WaitingEvents()
    delays = [50] * 300 + [10] * 100
    now = 0
    for number, delay in enumerate(delays):
        waiting.put(number, now, {})
        now += delay
        waiting.expire(now)
        assert waiting.take(number)[1] == delay
    weights = 0.5 ** (np.arange(400)[::-1] / 100)
    assert waiting.mean_delay == pytest.approx(np.average(delays, weights=weights))
    assert waiting.mean_delay == pytest.approx(10 + 40 * 7 / 15)  # 1/2 + 1/4 + 1/8 + 1/16


@pytest.mark.parametrize(("max_events", "max_age"), [(0, 1), (1, -1)])
def test_settings(max_events: int, max_age: int) -> None:
    with pytest.raises(SettingError, match="max_events is"):
        WaitingEvents(max_events, max_age)


def test_a_bad_state_changes_nothing() -> None:
    waiting = WaitingEvents()
    for number in range(4):
        waiting.put(number, number, make_record(number))
    data, arrays = waiting.state_dict()
    other = WaitingEvents(max_events=3)
    with pytest.raises(ForeignSnapshot, match="bounds"):
        other.load_state_dict(data, arrays)
    assert other.num_waiting == 0
    twin = WaitingEvents()
    twin.put("kept", 0, {"x": np.zeros(1)})
    for name in arrays:
        for bad in ({k: v for k, v in arrays.items() if k != name}, {**arrays, name: np.zeros(0)}):
            with pytest.raises(CorruptSnapshot, match=f"array '{name}'"):
                twin.load_state_dict(data, bad)
    assert twin.ids == ["kept"]


def test_memory_is_bounded() -> None:
    waiting = WaitingEvents(max_events=50, max_age=30)
    for number in range(5000):
        waiting.put(number, number, {"x": np.zeros(4)})
        waiting.expire(number)
        if number % 3 == 0:
            waiting.take(number)
    assert waiting.num_waiting <= 31
    assert waiting.num_bytes == 32 * waiting.num_waiting
    data, arrays = waiting.state_dict()
    assert len(json.dumps(data)) < 3000
    assert set(arrays) == {"0.x"}
