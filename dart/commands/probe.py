"""``dart probe``."""

from argparse import Namespace
from collections.abc import Mapping

import torch
from rich.table import Table

from dart.commands.common import create_console, create_progress, print_json
from dart.commands.reading import check_device
from dart.data.dataset import open_domain
from dart.data.domain_file import find_domain
from dart.errors import UserError
from dart.models.checkpoint import load_checkpoint
from dart.probe import REAL, describe, summarize
from dart.probe import probe as probe_camera
from dart.recipe import domain_label


def probe(options: Namespace) -> int:
    """Print how much the prediction changes when only the camera input does."""
    device = torch.device(check_device(options))
    if options.count is not None and options.count < 1:
        raise UserError(f"--count {options.count}: expected at least 1 image")
    for domain in options.domains:
        find_domain(domain)
    model = load_checkpoint(options.checkpoint).to(device)
    results = {}
    with create_progress() as progress:
        for domain in options.domains:
            data = open_domain(domain, options.split)
            count = len(data) if options.count is None else min(options.count, len(data))
            task = progress.add_task(f"{domain}/{options.split}", total=count)
            table = probe_camera(
                model,
                [data[index] for index in range(count)],
                device=device,
                on_images=lambda done, task=task: progress.update(task, completed=done),
            )
            arms = summarize(table)
            results[domain_label(domain)] = {"images": count, "arms": arms, "says": describe(arms)}
    if options.json:
        told = {"checkpoint": str(options.checkpoint), "split": options.split}
        print_json({**told, "domains": results})
        return 0
    console = create_console()
    for domain, result in results.items():
        console.print(_table(f"{domain}/{options.split}", result["images"], result["arms"]))
        console.print(f"{domain}: {result['says']}")
    return 0


def _table(title: str, images: int, arms: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title=f"{title}: means over {images} images; only the camera input is changed")
    table.add_column("camera input", no_wrap=True)
    for column in ("|log ratio|", "median", "shape", "> 1 %", "abs_rel", "change"):
        table.add_column(column, justify="right")
    for name, values in arms.items():
        table.add_row(
            name,
            f"{values['mean_abs_log_ratio']:.4f}",
            f"{values['median_ratio']:.4f}",
            f"{values['shape_change']:.4f}",
            f"{values['share_changed']:.1%}",
            f"{values['abs_rel']:.4f}",
            "" if name == REAL else f"{values['abs_rel_change']:+.1%}",
        )
    return table
