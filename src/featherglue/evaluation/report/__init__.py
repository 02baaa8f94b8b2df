"""Reports: results of `evaluate` and `benchmark` as one HTML page."""

from featherglue.evaluation.report.page import write_report
from featherglue.evaluation.report.result_files import read_results

__all__ = ["read_results", "write_report"]
