"""Reading results: tidy frames, the final table and figures, without torch or MLflow.

Figures are in ``dart.analysis.figures``, imported apart because seaborn takes a second.
"""

from dart.analysis.tables import load_runs, load_study, print_table, summarize, to_json
from dart.analysis.verdicts import compare_study

__all__ = ["compare_study", "load_runs", "load_study", "print_table", "summarize", "to_json"]
