"""A study's report: one page that needs nothing else, with Markdown and tables beside it.

The numbers are those of ``compare_study`` and the figures those of ``dart.analysis.figures``, as
in the notebooks.
"""

from dart.analysis.report.writing import write_report

__all__ = ["write_report"]
