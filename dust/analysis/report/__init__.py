"""A test as one page of HTML that opens from disk and asks no other address for anything."""

from dust.analysis.report.build import build_report, write_report

__all__ = ["build_report", "write_report"]
