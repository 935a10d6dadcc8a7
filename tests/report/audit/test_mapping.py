"""The mapping of rules to sections: versioned, whole, and without any claim."""

from datetime import date

from nestling.report.audit.audit_page import SECTIONS
from nestling.report.audit.mapping import DISCLAIMER, MAPPING, MAPPING_DATE, MAPPING_VERSION


def test_every_demand_points_to_sections_that_exist() -> None:
    assert len({one.rule for one in MAPPING}) == len(MAPPING)
    for one in MAPPING:
        assert one.sections
        assert set(one.sections) <= set(SECTIONS) - {"mapping"}
        assert one.asks
        assert one.silent, "no page answers all of a demand"


def test_every_section_answers_some_demand() -> None:
    pointed = {section for one in MAPPING for section in one.sections}
    assert pointed == set(SECTIONS) - {"mapping"}


def test_the_mapping_has_a_version_and_claims_nothing() -> None:
    assert MAPPING_VERSION
    assert isinstance(MAPPING_DATE, date)
    assert "claims no conformity" in DISCLAIMER
