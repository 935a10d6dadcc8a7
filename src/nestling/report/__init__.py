"""Run folders: the records of a run, its plots and its HTML report."""

from nestling.report.page import write_demo_picture, write_report
from nestling.report.run_folder import Run, RunWriter, read_run

__all__ = ["Run", "RunWriter", "read_run", "write_demo_picture", "write_report"]
