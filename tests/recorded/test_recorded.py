"""Nothing moves: the same bits as were recorded before the house was rebuilt."""

import json

import pytest

from recorded.setups import FILE, SETUPS, read_machine, run

RECORDED = json.loads(FILE.read_text())


def test_every_setup_is_recorded() -> None:
    assert RECORDED["setups"].keys() == SETUPS.keys()
    assert len(SETUPS) >= 16


@pytest.mark.parametrize("name", SETUPS)
def test_the_same_bits(name: str) -> None:
    if read_machine() != RECORDED["machine"]:
        pytest.skip(f"recorded on {RECORDED['machine']}, this is {read_machine()}")
    assert run(name) == RECORDED["setups"][name]
