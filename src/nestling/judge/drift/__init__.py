"""Drift detectors: ADWIN, Page-Hinkley, KSWIN, HDDM; they notice that a stream has changed."""

from nestling.judge.drift.adwin import ADWIN
from nestling.judge.drift.by_name import DETECTORS, make_detector
from nestling.judge.drift.detector import Drift, DriftDetector
from nestling.judge.drift.hddm import HDDMAverage, HDDMWeighted
from nestling.judge.drift.kswin import KSWIN
from nestling.judge.drift.page_hinkley import PageHinkley

__all__ = [
    "ADWIN",
    "DETECTORS",
    "KSWIN",
    "Drift",
    "DriftDetector",
    "HDDMAverage",
    "HDDMWeighted",
    "PageHinkley",
    "make_detector",
]
