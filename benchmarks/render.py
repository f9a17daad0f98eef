"""Frames per second of the renderer, by style, with one and with more processes.

Every row renders the same frames into an empty folder; the ratio says what more processes bring on
this machine. The start of the processes is counted, as a user waits for it too. The processor time
a frame holds whatever else the machine does, but includes the processes' start.

Run: ``python benchmarks/render.py [--device cuda] [--workers 1 2] [--count 12] [--size 96x128]``
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import torch

from dart.data.render import RenderOptions, render_frames
from dart.domains import DOMAINS

DOMAIN_OF = {spec.style: name for name, spec in DOMAINS.items() if spec.lens.model == "pinhole"}


def measure(domain: str, count: int, options: RenderOptions) -> tuple[float, float]:
    """Return frames per second, and processor seconds a frame, of a rendering from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.perf_counter(), processor_seconds()
        render_frames(domain, "train", count=count, out=Path(folder) / "set", options=options)
        return count / (time.perf_counter() - start), (processor_seconds() - used) / count


def processor_seconds() -> float:
    """Return the processor time of this process and of those it has ended."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def main() -> None:
    """Print a table, and one JSON line with the machine's load before and after."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--count", type=int, default=12, help="frames a row")
    parser.add_argument("--size", default="96x128")
    parser.add_argument("--styles", nargs="+", default=list(DOMAIN_OF), choices=list(DOMAIN_OF))
    options = parser.parse_args()
    height, width = (int(side) for side in options.size.split("x"))
    torch.set_num_threads(1)
    report: dict[str, object] = {
        "device": options.device,
        "size": options.size,
        "count": options.count,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
    }
    print(f"{'style':12s}{'workers':>8s}{'frames/s':>10s}{'ratio':>8s}{'CPU s/frame':>14s}")
    for style in options.styles:
        first = 0.0
        for workers in options.workers:
            how = RenderOptions((height, width), options.device, workers)
            rate, busy = measure(DOMAIN_OF[style], options.count, how)
            first = first or rate
            print(f"{style:12s}{workers:8d}{rate:10.2f}{rate / first:8.2f}{busy:14.2f}")
            report[f"{style}/{workers}"] = {"frames/s": round(rate, 3), "cpu_s": round(busy, 3)}
    report["load_after"] = os.getloadavg()[0]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
