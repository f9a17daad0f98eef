"""``dart data check``: open every file of a data set and say what is wrong with it."""

from argparse import Namespace
from typing import Any

from rich.table import Table

from dart.commands.common import (
    create_console,
    create_progress,
    make_folder,
    print_json,
    write_whole,
)
from dart.data.checks import Report, check_dataset
from dart.data.sets import open_dataset
from dart.data.sets.base import DepthDataset
from dart.errors import UserError
from dart.pictures import draw_sheet


def data(options: Namespace) -> int:
    """Check a data set; 0 if nothing is wrong, 1 if something is."""
    if options.sample is not None and options.sample < 1:
        raise UserError(f"--sample {options.sample}: expected at least 1 frame")
    opened = open_dataset(options.path, options.format, split=options.split, on_missing="skip")
    if options.out is not None:
        make_folder(options.out)
    with create_progress() as bar:
        task = bar.add_task("opening", total=None)
        report = check_dataset(
            opened,
            splits=_list_splits(opened, options),
            sample=options.sample,
            on_frame=lambda done, total: bar.update(task, completed=done, total=total),
        )
    sheet = None
    if options.out is not None and report.rows:
        sheet = options.out / "contact_sheet.png"
        titles = ("image", "depth", "valid")
        write_whole(sheet, lambda path: draw_sheet(report.rows, path, titles=titles))
    if options.json:
        shown = None if sheet is None else str(sheet)
        print_json(
            {"data": str(options.path), "format": options.format, **report.to_dict()}
            | {"contact_sheet": shown}
        )
    else:
        _print(report, sheet)
    return 1 if report.problems else 0


def _list_splits(opened: DepthDataset, options: Namespace) -> dict[str, list[str]]:
    """Return split -> keys, where the whole set is checked and its format has splits."""
    listed: dict[str, list[str]] = {}
    for split in opened.splits if options.split is None else ():
        try:
            part = open_dataset(options.path, options.format, split=split, on_missing="skip")
        except UserError:  # an empty split, or one whose list is not there: it has no frames
            continue
        listed[split] = [entry.key for entry in part.entries]
    return listed


def _print(report: Report, sheet: Any) -> None:
    console = create_console()
    console.print(
        f"{report.opened} of {report.frames} frames opened, {report.scenes} scenes, "
        f"unit of depth: {report.units}"
    )
    if report.sizes:
        console.print("sizes: " + ", ".join(f"{size} ({n})" for size, n in report.sizes.items()))
    for name, lens in report.lenses.items():
        console.print(
            f"lens {name}: {lens['frames']} frames, up to {lens['largest_polar_degrees']:.1f} "
            f"degrees off axis, round trip {lens['round_trip_pixels']:.1e} pixels"
        )
    if report.percentiles:
        console.print(_table(report))
    for name, found in report.planarity.items():
        console.print(
            f"planes in {name}: {found['share_as_z']:.0%} of points read as z, "
            f"{found['share_as_range']:.0%} as range: {found['fits_better']}",
        )
    if sheet is not None:
        console.print(f"contact sheet: {sheet}")
    count = len(report.problems)
    console.print(f"{count} problem{'s' * (count > 1)}" if count else "no problem found")
    for problem in report.problems:
        console.print(f"  {problem.kind}: {problem.where}: {problem.text}")


def _table(report: Report) -> Table:
    table = Table(title="depth in the files [m]")
    columns = list(next(iter(report.percentiles.values()), {}))
    for column in ("group", *columns, "valid", "least valid"):
        justify = "left" if column == "group" else "right"
        table.add_column(column, justify=justify, overflow="fold")
    for group, values in report.percentiles.items():
        share = report.valid_share[group]
        cells = [f"{value:.3g}" for value in values.values()]
        table.add_row(group, *cells, f"{share['mean']:.1%}", f"{share['least']:.1%}")
    return table
