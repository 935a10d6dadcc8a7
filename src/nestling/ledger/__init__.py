"""The record of a run, and its report."""

from nestling.ledger.report import write_demo_picture, write_report
from nestling.ledger.run import Run, RunWriter, read_run

__all__ = ["Run", "RunWriter", "read_run", "write_demo_picture", "write_report"]
