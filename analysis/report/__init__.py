"""The report of a study: one self-contained HTML page."""

from analysis.report.page import render

__all__ = ["render"]
