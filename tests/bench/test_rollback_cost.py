"""What a rollback costs is measured on both sides alike, and its exactness checked as it runs."""

import math

import pytest

from nestling.bench.governance import rollback_cost
from nestling.bench.governance.rollback_cost import measure_rollback
from nestling.core.errors import VersionError


def test_a_small_model_is_measured() -> None:
    found = measure_rollback(num_levels=6, width=8, num_rounds=2)
    assert next(iter(found)) == "rollback_over_read"
    assert len(found) == 8
    assert all(math.isfinite(value) and value > 0.0 for value in found.values())


def test_a_rollback_that_is_not_exact_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback_cost, "digest_tensors", lambda _: "another")
    with pytest.raises(VersionError, match="is not what the log says"):
        measure_rollback(num_levels=3, width=8, num_rounds=1)
