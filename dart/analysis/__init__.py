"""Reading results: tidy frames, the final table and figures, without torch or MLflow.

Figures are in ``dart.analysis.figures``, imported apart because seaborn takes a second.
"""

from dart.analysis.tables import load_runs, load_study, print_table, summarize, to_json

__all__ = ["load_runs", "load_study", "print_table", "summarize", "to_json"]
