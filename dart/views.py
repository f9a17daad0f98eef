"""A ready-made view of a study in MLflow's pages, and the links that open it.

The view is a tag of the experiment, in the form that MLflow's own page writes when a view is
shared. That form is not documented, so a plain link that compares the runs goes with it.
"""

import json
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import Run

from dart.errors import UserError
from dart.recipe import ZERO_SHOT
from dart.tracking import FORMER, IMAGES, database_uri, describe_refusal, open_client

TAG = "mlflow.sharedViewState."
TAG_LENGTH = 5000
"""What MLflow allows for a tag of an experiment."""
COMPARED = 100
"""Runs in the link that compares them: some browsers refuse a longer one."""
DRAWN = 1000
"""Runs that a chart draws."""
PAGE = 1000
MOST_FACTORS = 6
OBJECTIVES = ("adaptation", "forgetting")
SECTION = "dart"


@dataclass(frozen=True)
class View:
    """What opens a study in MLflow's pages."""

    experiment: str
    key: str
    """Of the ready-made view; empty where there is none."""
    runs: Mapping[str, str]
    """Key of a run -> its identity in MLflow, best adaptation first."""

    def link(self, server: str) -> str:
        """Return the address of the ready-made view."""
        return (
            f"{server}/#/experiments/{self.experiment}/runs?workflowType=machine_learning"
            f"&compareRunsMode=CHART&viewStateShareKey={self.key}"
        )

    def compare_link(self, server: str) -> str:
        """Return the address of MLflow's own comparison of the runs."""
        chosen = list(self.runs.values())[:COMPARED]
        runs = quote(json.dumps(chosen, separators=(",", ":")))
        experiments = quote(json.dumps([self.experiment]))
        return f"{server}/#/compare-runs?runs={runs}&experiments={experiments}"

    def run_link(self, server: str, key: str) -> str:
        """Return the address of one run."""
        return f"{server}/#/experiments/{self.experiment}/runs/{self.runs[key]}"


def find_view(results: Path, study: str, *, uri: str | None = None) -> View:
    """Return what MLflow knows of a study, without writing anything.

    Raises:
        UserError: MLflow does not know the study, or cannot be used.
    """
    _, experiment, runs = _read(results, study, uri)
    return View(experiment, "", _identities(runs))


def write_view(
    results: Path, study: str, *, metric: str, keys: Collection[str], uri: str | None = None
) -> View:
    """Write the view of a study into its experiment; doing it again changes nothing.

    Runs that the study, edited since, asks no longer stay in MLflow and are tagged, so that the
    view leaves them out.

    Args:
        results: The results folder; its database is used unless ``uri`` is given.
        study: The study's name.
        metric: Its metric.
        keys: Of the runs that it asks.
        uri: Another database's or a server's address.

    Raises:
        UserError: MLflow does not know the study, or cannot be used.
    """
    client, experiment, every = _read(results, study, uri)
    runs = [run for run in every if run.data.tags["dart.key"] in keys]
    content = json.dumps(describe_view(runs, metric=metric), separators=(",", ":"))
    assert len(content) <= TAG_LENGTH
    # The page keeps in the browser what it was given under a key: other content, another key.
    key = f"dart{zlib.crc32(content.encode()):08x}"
    try:
        for name in client.get_experiment(experiment).tags:
            if name.startswith(f"{TAG}dart") and name != TAG + key:
                client.delete_experiment_tag(experiment, name)
        client.set_experiment_tag(experiment, TAG + key, content)
        for run in every:
            kind = "run" if run.data.tags["dart.key"] in keys else FORMER
            if run.data.tags["dart.kind"] != kind:
                client.set_tag(run.info.run_id, "dart.kind", kind)
    except Exception as error:
        raise UserError(describe_refusal(results, uri, error)) from None
    return View(experiment, key, _identities(runs))


def _identities(runs: Sequence[Run]) -> dict[str, str]:
    return {run.data.tags["dart.key"]: run.info.run_id for run in runs}


def _read(results: Path, study: str, uri: str | None) -> tuple[MlflowClient, str, list[Run]]:
    """Return a client, the study's experiment and its finished runs."""
    if uri is None and not (results / "mlflow.db").is_file():
        raise UserError(f"no {results / 'mlflow.db'}; write it from the runs: dart sync {study}")
    try:
        client = open_client(uri or database_uri(results))
        experiment = client.get_experiment_by_name(study)
        runs = [] if experiment is None else list(_find_runs(client, experiment.experiment_id))
    except Exception as error:
        raise UserError(describe_refusal(results, uri, error)) from None
    if experiment is None or not runs:
        raise UserError(
            f"MLflow knows no finished run of study {study!r}; write it there: dart sync {study}"
        )
    return client, experiment.experiment_id, runs


def _find_runs(client: MlflowClient, experiment: str) -> Iterator[Run]:
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment],
            "tags.`dart.kind` != 'study' AND attributes.status = 'FINISHED'",
            max_results=PAGE,
            page_token=token,
            order_by=["metrics.adaptation DESC"],
        )
        yield from page
        token = page.token
        if not token:
            return


def describe_view(runs: Sequence[Run], *, metric: str) -> dict[str, Any]:
    """Return the view in the form of MLflow's page: charts of every run of a study.

    Both objectives against each other, with the factors, and each as bars; the pictures of the
    predictions where they were logged as images.

    Args:
        runs: The study's finished runs.
        metric: The study's metric.
    """
    charts: list[dict[str, Any]] = [
        {
            "type": "SCATTER",
            "xaxis": {"key": "adaptation", "type": "METRIC"},
            "yaxis": {"key": "forgetting", "type": "METRIC"},
        },
        {
            "type": "PARALLEL",
            "selectedParams": find_factors(runs),
            "selectedMetrics": list(OBJECTIVES),
            "showAllRuns": True,
        },
        *({"type": "BAR", "metricKey": name} for name in OBJECTIVES),
    ]
    if any("mlflow.loggedImages" in run.data.tags for run in runs):
        charts.append({"type": "IMAGE", "imageKeys": [IMAGES], "step": 0, "showRunParams": False})
    common = {
        "deleted": False,
        "isGenerated": False,
        "metricSectionId": SECTION,
        "runsCountToCompare": DRAWN,
    }
    section = {
        "uuid": SECTION,
        "name": "adaptation and forgetting",
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }
    return {
        # Runs that belong to a parent appear as rows of their own only when a metric sorts them.
        "orderByKey": "metrics.`adaptation`",
        "orderByAsc": False,
        "searchFilter": "tags.`dart.kind` = 'run'",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [
            *(f"metrics.`{name}`" for name in (*OBJECTIVES, f"target/{metric}_after")),
            "params.`variant`",
            "params.`seed`",
        ],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "SHOWALL",
        "runsVisibilityMap": {},
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "groupBy": None,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": False,
        "autoRefreshEnabled": False,
        "compareRunSections": [section],
        "compareRunCharts": [
            {**common, "uuid": f"{SECTION}{i}", **chart} for i, chart in enumerate(charts)
        ],
    }


def find_factors(runs: Sequence[Run]) -> list[str]:
    """Return the parameters that differ between runs and that every trained run has.

    A run that lacks one of a chart's parameters is not drawn.
    """
    trained = [run.data.params for run in runs if run.data.params.get("variant") != ZERO_SHOT]
    shared = set.intersection(*(set(params) for params in trained)) if trained else set()
    differing = {name for name in shared if len({params[name] for params in trained}) > 1}
    others = sorted(differing - {"variant", "seed", "protocol.metric"})
    return ["variant", *others[: MOST_FACTORS - 1]]
