"""``dart evaluate``: a network on built-in domains, or on a data set on disk."""

import json
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.table import Table

from dart.commands.common import (
    create_console,
    create_progress,
    make_folder,
    print_json,
    write_whole,
)
from dart.commands.reading import check_device, mean_errors
from dart.data.domain_file import find_domain
from dart.data.sets import open_dataset
from dart.data.sets.base import DepthDataset
from dart.domains import SPLITS
from dart.errors import UserError, did_you_mean
from dart.evaluation import (
    NOT_MEASURED,
    Evaluation,
    Evaluator,
    Setting,
    list_groups,
    summarise,
)
from dart.metrics import METRICS
from dart.models.checkpoint import load_checkpoint
from dart.pictures import draw_sheet
from dart.provenance import describe_environment
from dart.recipe import domain_label

_DOMAINS = ("rooms_pinhole", "rooms_fisheye", "rooms_stereographic")
_SHOWN = {"abs_rel": "AbsRel", "delta1": "delta1", "rmse": "RMSE [m]", "si_log": "SILog"}
_ROWS = (
    ("network", "none"),
    ("constant", "none"),
    ("network", "scale_median"),
    ("constant", "scale_median"),
)
_FOR_DATA = (
    "format",
    "out",
    "align",
    "width",
    "cloud_points",
    "max_distance",
    "evaluation_crop",
    "skip_unreadable",
)


def evaluate(options: Namespace) -> int:
    """Print every metric of a checkpoint on domains or on a data set on disk."""
    if options.data is None:
        for name in _FOR_DATA:
            if getattr(options, name):
                flag = "--as" if name == "format" else f"--{name.replace('_', '-')}"
                raise UserError(f"{flag} goes with --data PATH, which is not given")
        return _evaluate_domains(options)
    if options.domains is not None:
        raise UserError("give --domains or --data, not both")
    if options.format is None:
        raise UserError(f"--data {options.data}: --as FORMAT says how its files are read")
    return _evaluate_data(options)


def _evaluate_domains(options: Namespace) -> int:
    split = options.split or "test"
    if split not in SPLITS:
        raise UserError(
            f"--split {split}: built-in domains have {', '.join(SPLITS)}"
            f"{did_you_mean(split, SPLITS)}"
        )
    device = torch.device(check_device(options))
    model = load_checkpoint(options.checkpoint).to(device)
    means = {}
    for domain in options.domains or _DOMAINS:
        find_domain(domain)
        means[domain_label(domain)] = mean_errors(model, domain, split, device)
    if options.json:
        print_json({"checkpoint": options.checkpoint, "split": split, "domains": means})
        return 0
    table = Table(title=f"{options.checkpoint}: mean over the images of {split}")
    table.add_column("domain")
    for metric in METRICS:
        table.add_column(metric, justify="right")
    for domain, values in means.items():
        table.add_row(domain, *(f"{values[metric]:.4f}" for metric in METRICS))
    create_console().print(table)
    return 0


def _evaluate_data(options: Namespace) -> int:
    device = torch.device(check_device(options))
    given = {
        "width": options.width,
        "cloud_points": options.cloud_points,
        "alignments": options.align and tuple(dict.fromkeys(options.align)),
        "skip_unreadable": options.skip_unreadable,
    }
    setting = Setting(**{name: value for name, value in given.items() if value is not None})
    data = _open(options)
    model = load_checkpoint(options.checkpoint).to(device)
    if options.out is not None:
        make_folder(options.out)
    with create_progress() as bar:
        tasks: dict[str, Any] = {}

        def on_frame(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        evaluation = Evaluator(model, data, setting, device=device).run(on_frame=on_frame)
    summary = summarise(evaluation.per_image)
    report = _describe(options, data, setting, evaluation)
    report["results"] = nest(summary)
    if options.out is not None:
        write(options.out, evaluation, summary, report)
    if options.json:
        print_json(report)
    else:
        _print(summary, report)
    return 0


def _open(options: Namespace) -> DepthDataset:
    data = open_dataset(
        options.data,
        options.format,
        split=options.split,
        evaluation=options.evaluation_crop,
        on_missing="skip" if options.skip_unreadable else "error",
    )
    limit = options.max_distance
    if limit is not None:
        if not data.min_distance < limit <= data.max_distance:
            raise UserError(
                f"--max-distance {limit:g}: format {data.name} counts {data.min_distance:g} to "
                f"{data.max_distance:g} m"
            )
        data.max_distance = limit
    return data


def _describe(
    options: Namespace, data: DepthDataset, setting: Setting, evaluation: Evaluation
) -> dict[str, Any]:
    frames = evaluation.per_image[["image", "convention"]].drop_duplicates()
    return {
        "checkpoint": options.checkpoint,
        "data": str(options.data),
        "format": options.format,
        "split": options.split,
        "evaluation_crop": options.evaluation_crop,
        "counted_metres": [data.min_distance, data.max_distance],
        **asdict(setting),
        "frames": len(frames),
        "conventions": frames["convention"].value_counts().to_dict(),
        "missing": {key: f"{path} does not exist" for key, path in data.missing.items()},
        "unreadable": evaluation.unreadable,
        "constants": evaluation.constants,
        "not_measured": NOT_MEASURED,
        "aggregation": "per image, then the mean over images, and the mean over scenes of those",
        "environment": describe_environment(device=options.device, threads=torch.get_num_threads()),
    }


def nest(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one object for each group, scene, predictor and alignment, metrics inside."""
    keys = ["level", "name", "scene", "convention", "predictor", "alignment"]
    content = []
    for labels, rows in summary.groupby(keys, sort=False):
        means = {
            str(metric): {"images": image, "scenes": scene}
            for metric, image, scene in zip(
                rows["metric"], rows["mean_images"], rows["mean_scenes"], strict=True
            )
        }
        counts = {name: int(rows[name].iloc[0]) for name in ("images", "scenes")}
        content.append({**dict(zip(keys, labels, strict=True)), **counts, "mean_over": means})
    return content


def _value(rows: pd.DataFrame, how: tuple[str, str], metric: str, mean: str) -> float | None:
    chosen = rows[
        (rows["predictor"] == how[0]) & (rows["alignment"] == how[1]) & (rows["metric"] == metric)
    ]
    return None if chosen.empty else float(chosen[mean].iloc[0])


def _lines(summary: pd.DataFrame) -> list[list[str]]:
    """Return the cells of the short table; a network that its constant beats gets a ``*``."""
    lines = []
    for name, rows in list_groups(summary):
        counts = [str(int(rows[column].iloc[0])) for column in ("images", "scenes")]
        convention = str(rows["convention"].iloc[0])
        for how in _ROWS:
            if _value(rows, how, "abs_rel", "mean_images") is None:
                continue
            cells = [name, convention, *counts, *how]
            for mean in ("mean_images", "mean_scenes"):
                for metric in _SHOWN:
                    value = _value(rows, how, metric, mean)
                    floor = _value(rows, ("constant", how[1]), metric, mean)
                    assert value is not None
                    assert floor is not None
                    higher = METRICS[metric].higher_is_better
                    worse = value < floor if higher else value > floor
                    digits = 1 if metric == "si_log" else 3
                    cells.append(f"{value:.{digits}f}{'*' if worse else ''}")
            lines.append(cells)
    return lines


_HEAD = ["group", "kind", "images", "scenes", "predictor", "alignment"]


def to_markdown(summary: pd.DataFrame) -> str:
    """Return the short table: each group, network and constant, means over images and scenes."""
    head = [*_HEAD, *_SHOWN.values(), *(f"{name}, by scene" for name in _SHOWN.values())]
    rows = [head, ["---"] * len(_HEAD) + ["---:"] * (2 * len(_SHOWN)), *_lines(summary)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows) + "\n"


def write(
    folder: Path, evaluation: Evaluation, summary: pd.DataFrame, report: Mapping[str, Any]
) -> None:
    """Write the tables, the summary and the contact sheet; each file is whole or absent."""
    text = json.dumps(report, indent=1, allow_nan=False)
    titles = ("image", "truth", "prediction", "|error|")
    write_whole(
        folder / "per_image.parquet", lambda p: evaluation.per_image.to_parquet(p, index=False)
    )
    write_whole(folder / "per_angle.csv", lambda p: evaluation.per_angle.to_csv(p, index=False))
    write_whole(folder / "summary.csv", lambda p: summary.to_csv(p, index=False))
    write_whole(folder / "summary.json", lambda p: p.write_text(text))
    write_whole(folder / "summary.md", lambda p: p.write_text(to_markdown(summary)))
    write_whole(
        folder / "contact_sheet.png", lambda p: draw_sheet(evaluation.rows, p, titles=titles)
    )


def _print(summary: pd.DataFrame, report: Mapping[str, Any]) -> None:
    table = Table(
        title=f"{report['checkpoint']} on {report['data']} ({report['format']}): means over images",
        caption="* worse than a constant that knows the group's median depth",
    )
    for column in (*_HEAD, *_SHOWN.values()):
        justify = "left" if column in _HEAD else "right"
        table.add_column(column, justify=justify, overflow="fold")
    for cells in _lines(summary):
        table.add_row(*cells[: len(_HEAD) + len(_SHOWN)])
    console = create_console()
    console.print(table)
    left_out = {**report["missing"], **report["unreadable"]}
    if left_out:
        console.print(f"left out: {len(left_out)} frames")
        for key, reason in left_out.items():
            console.print(f"  {key}: {reason}")
