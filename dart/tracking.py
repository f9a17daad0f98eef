"""MLflow's view of a study: written from the run folders, which are the truth.

The only module that imports MLflow. One experiment and one parent run a study, one child run a
cell. Everything here can be repeated: what is already logged is not logged again, and a lost
database comes back when the study is run once more.
"""

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# MLflow reads this when it is imported: nothing leaves the machine.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A server's client prints addresses among our tables.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunTag, ViewType
from PIL import Image, UnidentifiedImageError

from dart.curve_rows import split_last, takes_rows, write_rows
from dart.errors import UserError
from dart.locks import wait_for_lock
from dart.stores import hide_password
from dart.tracked_rows import ended, flatten_recipe, list_metrics, now, started

ARTIFACTS = ("predictions.png", "per_image.parquet", "adapter.safetensors", "result.json")
FAILURE_ARTIFACTS = ("traceback.txt",)
IMAGES = "predictions"
"""The name of a run's picture in MLflow's grid of images."""
FORMER = "former_run"
"""In place of ``run``: one that its study, edited since, asks no longer (``dart.views``)."""
BATCH = {"metrics": 1000, "params": 100}
"""MLflow's limits for one ``log_batch``."""
PAGE = 1000
TAG_LENGTH = 5000


def database_uri(results: Path) -> str:
    """Return MLflow's address of the results folder's database."""
    return f"sqlite:///{(results / 'mlflow.db').absolute()}"


def open_client(uri: str) -> MlflowClient:
    """Return a client of the database or server at an address; a new database gets its tables."""
    # It tells of every table it makes.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    return MlflowClient(uri, registry_uri=uri)


def describe_refusal(results: Path, uri: str | None, error: Exception) -> str:
    """Return one line for a database that MLflow refuses."""
    if uri is not None:
        other = "locate revision" in str(error) or "schema" in str(error)
        hint = "; its tables are of another version of MLflow" if other else ""
        return (
            f"--tracking-uri {hide_password(uri)}: MLflow cannot use it: {_one_line(error)}{hint}"
        )
    return (
        f"{results / 'mlflow.db'}: MLflow cannot use it: {_one_line(error)}; move it away, "
        "and it is written anew from the run folders"
    )


def read_statuses(uri: str, study: str) -> dict[str, str]:
    """Return key -> status of a study's runs in MLflow; the study's own stands under ``""``."""
    client = open_client(uri)
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        return {}
    runs = client.search_runs([experiment.experiment_id], max_results=50_000)
    return {run.data.tags.get("dart.key", ""): run.info.status for run in runs}


def register_champion(results: Path, study: str, key: str, *, uri: str | None = None) -> str:
    """Make a run's adapter the champion in MLflow's registry and return its version.

    Doing it again for the same run makes no second version.

    Raises:
        UserError: MLflow does not know the run, or cannot use its database.
    """
    name = f"dart-{study}"
    try:
        client = open_client(uri or database_uri(results))
        run = _find_run(client, study, key)
        if run is None:
            raise UserError(
                f"MLflow does not know run {key[:16]}; write it there: dart sync {study}"
            )
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=f"Champions of study {study}.")
        versions = client.search_model_versions(f"name = '{name}'")
        known = [version for version in versions if version.run_id == run.info.run_id]
        if known:
            version = known[0]
        else:
            source = f"{run.info.artifact_uri}/adapter.safetensors"
            version = client.create_model_version(name, source, run.info.run_id)
        client.set_registered_model_alias(name, "champion", version.version)
        return str(version.version)
    except UserError:
        raise
    except Exception as error:
        raise UserError(describe_refusal(results, uri, error)) from None


def _find_run(client: MlflowClient, study: str, key: str) -> Run | None:
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        return None
    runs = client.search_runs([experiment.experiment_id], f"tags.`dart.key` = '{key}'")
    return runs[0] if runs else None


@dataclass
class _Known:
    """What this process knows of a run in MLflow, so that it need not ask."""

    identity: str
    status: str = "RUNNING"
    tags: Mapping[str, str] = field(default_factory=dict)
    has_parameters: bool = False
    """This process logged them, and nothing but them."""


class StudyTracker:
    """The record of one study in MLflow.

    Args:
        results: The results folder; the database is ``mlflow.db`` in it.
        name: The study's name, which becomes the experiment's.
        about: Tags of the parent run: question, baseline, metric.
        uri: A server's or another database's address; the results folder's own unless given.

    Raises:
        UserError: MLflow cannot use the database.
    """

    def __init__(
        self, results: Path, name: str, *, about: Mapping[str, str], uri: str | None = None
    ) -> None:
        self.name = name
        self.uri = uri or database_uri(results)
        try:
            # Two processes that create MLflow's tables at once both fail.
            with wait_for_lock(results / ".mlflow.lock"):
                self.client = open_client(self.uri)
                self.experiment = self._open_experiment(results, about)
            self.runs = self._read_runs()
            self.parent = self._open_parent(about)
            self._close_abandoned()
        except Exception as error:
            raise UserError(describe_refusal(results, uri, error)) from None

    def _read_runs(self) -> dict[str, _Known]:
        return {
            run.data.tags["dart.key"]: _Known(run.info.run_id, run.info.status, run.data.tags)
            for run in self._all_runs()
            if run.data.tags.get("dart.kind") in ("run", FORMER) and "dart.key" in run.data.tags
        }

    def _open_experiment(self, results: Path, about: Mapping[str, str]) -> Experiment:
        experiment = self.client.get_experiment_by_name(self.name)
        if experiment is None:
            # A server keeps artifacts itself.
            at_server = self.uri.startswith("http")
            folder = results / "mlartifacts" / self.name
            location = None if at_server else folder.absolute().as_uri()
            tags = {
                "mlflow.note.content": about.get("question", ""),
                # Opens the view of runs and charts, not the one of language models.
                "mlflow.experimentKind": "custom_model_development",
            }
            identity = self.client.create_experiment(
                self.name, artifact_location=location, tags=tags
            )
            return self.client.get_experiment(identity)
        if experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
        return experiment

    def _all_runs(self) -> Iterator[Run]:
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [self.experiment.experiment_id],
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=PAGE,
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def _open_parent(self, about: Mapping[str, str]) -> str:
        parents = self.client.search_runs(
            [self.experiment.experiment_id],
            "tags.`dart.kind` = 'study'",
            order_by=["attributes.start_time ASC"],
        )
        tags = {"dart.kind": "study", "dart.study": self.name}
        tags |= {f"dart.{name}": value for name, value in about.items()}
        if not parents:
            run = self.client.create_run(
                self.experiment.experiment_id, tags=tags, run_name=self.name
            )
            return run.info.run_id
        identity = parents[0].info.run_id
        self.client.log_batch(identity, tags=[RunTag(*pair) for pair in tags.items()])
        self.client.update_run(identity, status="RUNNING")
        return identity

    def _close_abandoned(self) -> None:
        """Say of runs that were cut off that they were: the study's lock is ours."""
        for run in self.runs.values():
            if run.status == "RUNNING":
                self._end(run, "KILLED")

    def _end(self, run: _Known, status: str, moment: int | None = None) -> None:
        self.client.set_terminated(run.identity, status, moment)
        run.status = status

    def start(self, cell: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
        """Note that a cell is being trained."""
        run = self._child(cell)
        if run.status != "RUNNING":
            self.client.update_run(run.identity, status="RUNNING")
            run.status = "RUNNING"
        if not run.has_parameters:
            self._log_rows(run, dict(flatten_recipe(recipe)))
            run.has_parameters = not run.tags

    def abandon(self, cell: Mapping[str, Any], *, failure: str | None = None) -> None:
        """Note that a cell was interrupted, or cut off by a failure of the machine.

        A cell that was refused before it began has no run to note it on.
        """
        if cell["key"] not in self.runs:
            return
        run = self.runs[cell["key"]]
        if failure is not None:
            self.client.set_tag(run.identity, "dart.failure", failure)
            run.tags = {**run.tags, "dart.failure": failure}
        self._end(run, "KILLED" if failure is None else "FAILED")

    def sync(
        self,
        cell: Mapping[str, Any],
        recipe: Mapping[str, Any],
        *,
        result: Mapping[str, Any],
        folder: Path,
    ) -> None:
        """Log a committed cell, unless this attempt at it is logged already.

        Args:
            cell: Its entry in ``cells.json``.
            recipe: The run's recipe.
            result: The run's record, in the study's metric.
            folder: The run's folder.
        """
        run = self._child(cell, started=started(result))
        attempt = str(result.get("ended"))
        status = "FINISHED" if result["status"] == "finished" else "FAILED"
        if run.tags.get("dart.logged") == attempt:
            if run.status != status:
                self._end(run, status, ended(result))
            return
        # Whatever stops what follows, the next attempt at it takes nothing for logged.
        begun, run.has_parameters = run.has_parameters, False
        for name in (*ARTIFACTS, *FAILURE_ARTIFACTS):
            if (folder / name).exists():
                self.client.log_artifact(run.identity, str(folder / name))
        if begun or not self.client.list_artifacts(run.identity, "images"):
            self._log_picture(run, folder / "predictions.png")
        tags = self._failure_tags(run, result) | {"dart.logged": attempt}
        # The tag that says all is logged comes in the last batch: a kill before it means again.
        params = {} if begun else dict(flatten_recipe(recipe))
        rows = list(list_metrics(result, folder))
        if takes_rows(self.uri):
            earlier, rows = split_last(rows)
            write_rows(self.uri, run.identity, earlier)
        self._log_rows(run, params, rows, tags=tags)
        run.tags = tags
        self._end(run, status, ended(result))

    def _failure_tags(self, run: _Known, result: Mapping[str, Any]) -> dict[str, str]:
        """Return the tags of a failure; those of an earlier attempt that hold no more go."""
        tags = {"dart.failure": result.get("failure"), "dart.reason": result.get("reason")}
        failed = result["status"] == "failed"
        kept = {name: value[:TAG_LENGTH] for name, value in tags.items() if failed and value}
        for name in tags:
            if name not in kept and name in run.tags:
                self.client.delete_tag(run.identity, name)
        return kept

    def _log_picture(self, run: _Known, path: Path) -> None:
        """Log a picture so that the page shows it in its grid of images."""
        if path.exists():
            # A damaged picture costs the picture, not the run's numbers and status.
            with suppress(UnidentifiedImageError), Image.open(path) as image:
                self.client.log_image(run.identity, image.convert("RGB"), key=IMAGES, step=0)

    def progress(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Log how far the study itself is, at its parent run.

        Args:
            metrics: Name -> value, as ``hypervolume/daa``.
            step: Counts trials.
        """
        moment = now()
        self.client.log_batch(
            self.parent, [Metric(name, value, moment, step) for name, value in metrics.items()]
        )

    def close(
        self, status: str, *, summary: Mapping[str, float], artifacts: Sequence[Path] = ()
    ) -> None:
        """Close the parent run.

        Args:
            status: FINISHED, FAILED or KILLED.
            summary: Metrics of the whole study, as ``adaptation/daa``.
            artifacts: Files to keep with the parent.
        """
        moment = now()
        metrics = [
            Metric(name, value, moment, 0)
            for name, value in summary.items()
            if math.isfinite(value)
        ]
        for start in range(0, len(metrics), BATCH["metrics"]):
            self.client.log_batch(self.parent, metrics[start : start + BATCH["metrics"]])
        for path in artifacts:
            if path.exists():
                self.client.log_artifact(self.parent, str(path))
        self.client.set_terminated(self.parent, status)

    def _child(self, cell: Mapping[str, Any], *, started: int | None = None) -> _Known:
        known = self.runs.get(cell["key"])
        if known is not None:
            return known
        tags = {
            "mlflow.parentRunId": self.parent,
            "dart.kind": "run",
            "dart.study": self.name,
            **{f"dart.{name}": str(cell[name]) for name in ("key", "variant", "seed", "trial")},
        }
        run = self.client.create_run(
            self.experiment.experiment_id,
            start_time=started,
            tags=tags,
            run_name=f"{cell['variant']}-t{cell['trial']}-s{cell['seed']}",
        )
        known = self.runs[cell["key"]] = _Known(run.info.run_id)
        return known

    def _log_rows(
        self,
        run: _Known,
        parameters: Mapping[str, str],
        rows: Sequence[tuple[str, float, int, int]] = (),
        *,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log parameters, metrics and tags in as few batches as MLflow's limits allow.

        Every batch is a transaction of its own, and those are what a database takes time for.
        """
        params = [Param(*pair) for pair in parameters.items()]
        metrics = [Metric(*row) for row in rows]
        count = max(-(-len(params) // BATCH["params"]), -(-len(metrics) // BATCH["metrics"]), 1)
        for i in range(count):
            last = i == count - 1
            self.client.log_batch(
                run.identity,
                metrics=metrics[i * BATCH["metrics"] : (i + 1) * BATCH["metrics"]],
                params=params[i * BATCH["params"] : (i + 1) * BATCH["params"]],
                tags=[RunTag(*pair) for pair in (tags or {}).items()] if last else (),
            )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
