"""Turns and ratios."""

from hypothesis import given
from hypothesis import strategies as st

from nestling.bench import median_ratio, time_rounds

SECONDS = st.lists(st.floats(0.1, 10.0), min_size=1, max_size=9)


def test_sides_take_turns_in_changing_order_after_a_warm_up() -> None:
    order: list[str] = []

    def note(name: str) -> float:
        order.append(name)
        return float(len(order))

    seconds = time_rounds({"a": lambda: note("a"), "b": lambda: note("b")}, num_rounds=2)
    assert "".join(order) == "baabba"
    assert seconds == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


@given(SECONDS, st.floats(0.5, 2.0))
def test_a_machine_that_slows_down_does_not_move_the_ratio(
    seconds: list[float], ratio: float
) -> None:
    both = {"a": [ratio * taken for taken in seconds], "b": seconds}
    assert abs(median_ratio(both, "a", "b") - ratio) < 1e-9
