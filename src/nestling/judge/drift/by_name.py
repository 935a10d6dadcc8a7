"""Drift detectors by the names that plans and files use."""

from collections.abc import Mapping

from nestling.core.arguments import name_kind
from nestling.core.errors import SettingError, suggest
from nestling.judge.drift.adwin import ADWIN
from nestling.judge.drift.detector import DriftDetector
from nestling.judge.drift.hddm import HDDMAverage, HDDMWeighted
from nestling.judge.drift.kswin import KSWIN
from nestling.judge.drift.page_hinkley import PageHinkley

# Every drift detector by its name.
DETECTORS: Mapping[str, type[DriftDetector]] = {
    kind.kind: kind for kind in (ADWIN, PageHinkley, KSWIN, HDDMAverage, HDDMWeighted)
}


def make_detector(kind: str, settings: Mapping[str, object] | None = None) -> DriftDetector:
    """Make a drift detector by its name.

    Args:
        kind: "adwin", "page_hinkley", "kswin", "hddm_average" or "hddm_weighted".
        settings: of that detector, by name; None for its defaults.

    Raises:
        SettingError: no such detector, or a setting that it does not have or cannot bear.

    >>> make_detector("adwin", {"delta": 0.01})
    ADWIN(delta=0.01, clock=32, max_buckets=5, min_window_length=5, grace_period=10, restart=True)
    """
    if not isinstance(kind, str) or kind not in DETECTORS:
        shown = repr(kind) if isinstance(kind, str) else name_kind(kind)
        raise SettingError(f"no drift detector {shown}; {suggest(str(kind), DETECTORS)}")
    return DETECTORS[kind](**(settings or {}))
