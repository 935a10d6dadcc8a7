"""Digests are written into the text of a contract, and nothing else of it changes."""

import pytest

from nestling.core.errors import SettingError
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.signing import sign_contract

TEXT = """# The contract of the clinic.
name = "triage"

[must_stay_fixed]
parameters = ["norm.*", "embed"]  # statistics of the study

[[may_change]]  # after what is fixed
id = "M1"
level = "head"
what = "drift"
"""
DIGESTS = {"norm.w": "ab" * 32, "embed": "12" * 32, "head.w": "cd" * 32}


def test_comments_and_order_stay() -> None:
    signed = sign_contract(TEXT, DIGESTS)
    assert signed.startswith(TEXT.rstrip())
    contract = Contract.from_toml(signed)
    assert dict(contract.must_stay_fixed.digests) == {"norm.w": "ab" * 32, "embed": "12" * 32}
    assert contract.may_change == Contract.from_toml(TEXT).may_change


def test_signed_anew_it_has_one_table_of_the_new_digests() -> None:
    once = sign_contract(TEXT, DIGESTS)
    assert sign_contract(once, DIGESTS) == once
    more = once + '\n# The owner.\n[[levels]]\nname = "head"  # fast\nrole = "fast"\n'
    twice = sign_contract(more, DIGESTS | {"norm.w": "ef" * 32})
    contract = Contract.from_toml(twice)
    assert contract.must_stay_fixed.digests["norm.w"] == "ef" * 32
    assert contract.levels[0].name == "head"
    assert "# The owner." in twice
    assert twice.count("# Written by") == twice.count("[must_stay_fixed.digests]") == 1


def test_digests_in_another_form_are_replaced() -> None:
    inline = (
        'name = "triage"\n[must_stay_fixed]\nparameters = "norm.*"\n'
        f'digests = {{ "norm.w" = "{"00" * 32}" }}\n'
    )
    contract = Contract.from_toml(sign_contract(inline, DIGESTS))
    assert dict(contract.must_stay_fixed.digests) == {"norm.w": "ab" * 32}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "triage"\n', "'c.toml' fixes no parameters"),
        ('name = "a"\n[must_stay_fixed]\nparameters = "nrom"\n', "match nothing of this model"),
        ("name = ", "'c.toml' is not TOML"),
    ],
)
def test_nothing_to_sign(text: str, said: str) -> None:
    with pytest.raises(SettingError, match=said) as caught:
        sign_contract(text, DIGESTS, "'c.toml'")
    assert "\n" not in str(caught.value)
