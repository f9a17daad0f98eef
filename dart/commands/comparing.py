"""``dart compare``: the verdicts of a study."""

import sys
from argparse import Namespace

from dart.analysis.verdict_tables import print_comparison, to_dict, to_latex, to_markdown
from dart.analysis.verdicts import compare_study
from dart.commands.common import print_json


def compare(options: Namespace) -> int:
    """Print what may be claimed of every variant of a study against the baseline."""
    comparison = compare_study(
        options.study,
        baseline=options.baseline,
        metric=options.metric,
        results=options.results,
        tracking_uri=options.tracking_uri,
    )
    if options.json:
        print_json(to_dict(comparison))
    elif options.markdown or options.latex:
        write = to_markdown if options.markdown else to_latex
        sys.stdout.write(write(comparison) + "\n")
    else:
        print_comparison(comparison)
    return 0
