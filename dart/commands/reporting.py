"""``dart report``: a study as one page that needs no network."""

import logging
import sys
import webbrowser
from argparse import Namespace
from pathlib import Path

import matplotlib

from dart.analysis.records import Study, open_study
from dart.analysis.report import write_report
from dart.commands.common import print_json, results_folder
from dart.errors import UserError
from dart.stores import SERVERS
from dart.views import find_view

SERVER = "http://127.0.0.1:5000"
"""Where ``dart ui`` serves unless told otherwise."""


def report(options: Namespace) -> int:
    """Write the report of a study and say where it lies."""
    results = results_folder(options)
    uri = options.tracking_uri
    study = open_study(options.study, results=results, tracking_uri=uri)
    out = options.out or results / "reports" / study.record.study
    matplotlib.use("agg")  # no window, whatever the desktop
    page = write_report(
        study.folder,
        out,
        results=study.results,
        baseline=options.baseline,
        metric=options.metric,
        links=_links(study, results, uri),
    )
    if options.json:
        print_json({"page": str(page), "folder": str(out)})
    else:
        sys.stdout.write(f"{page}\n")
    if options.open:
        webbrowser.open(page.absolute().as_uri())
    return 0


def _links(study: Study, results: Path, uri: str | None) -> dict[str, str]:
    """Return the address of every run in MLflow; none where MLflow does not know the study."""
    try:
        view = find_view(results, study.record.study, uri=uri)
    except UserError as error:
        logging.getLogger(__name__).warning("no links to MLflow: %s", error)
        return {}
    server = uri if uri and uri.startswith(SERVERS) else SERVER
    return {key: view.run_link(server, key) for key in view.runs}
