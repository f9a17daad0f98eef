"""``dart render``."""

import re
import time
from argparse import Namespace

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dart.commands.common import print_json
from dart.commands.reading import check_device
from dart.data.render import RenderedSet, RenderOptions, cache_folder, render_frames
from dart.data.ship import ship_packs
from dart.domains import DOMAINS, check_domain, check_split, fingerprint
from dart.errors import UserError


class _Rate(ProgressColumn):
    """Frames per second."""

    def render(self, task: Task) -> Text:
        """Return the text of the column."""
        return Text(f"{task.speed:.1f} frames/s" if task.speed else "")


def _create_progress() -> Progress:
    """Return a bar on the error stream, with frames per second and the time that is left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(),
               TimeRemainingColumn())  # fmt: skip
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def render(options: Namespace) -> int:
    """Render frames of a built-in domain, or every pack that ships."""
    if options.workers < 1:
        raise UserError(f"--workers {options.workers}: expected at least 1")
    how = RenderOptions(_parse_size(options.size), check_device(options), options.workers)
    if options.packs:
        return _render_packs(options, how)
    if options.domain is None or options.count is None:
        raise UserError("dart render takes a domain and --count, or --packs")
    domain = check_domain(options.domain)
    check_split(domain.name, options.split)
    if options.count < 1:
        raise UserError(f"--count {options.count}: expected at least 1")
    out = options.out or cache_folder(domain.name, options.split, how.size)
    start = time.monotonic()
    with _create_progress() as progress:
        task = progress.add_task(f"{domain.name}/{options.split}", total=options.count)
        done = render_frames(
            domain.name,
            options.split,
            count=options.count,
            out=out,
            options=how,
            on_frame=lambda done, total: progress.update(task, completed=done, total=total),
        )
    _report(options, done, seconds=time.monotonic() - start)
    return 0


def _parse_size(text: str | None) -> tuple[int, int] | None:
    """Return height and width.

    Raises:
        UserError: the text is not of the form HxW.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise UserError(f"--size {text}: expected HxW in pixels, for instance 96x128")
    return int(match[1]), int(match[2])


def _report(options: Namespace, done: RenderedSet, *, seconds: float) -> None:
    """Say what lies where now."""
    if options.json:
        print_json(
            {
                "domain": options.domain,
                "split": options.split,
                "folder": str(done.folder),
                "frames": done.frames,
                "rendered": done.rendered,
                "damaged": done.damaged,
                "seconds": round(seconds, 2),
                "fingerprint": fingerprint(options.domain, options.split, folder=done.folder),
            }
        )
        return
    console = Console(soft_wrap=True)
    if done.damaged:
        console.print(f"{done.damaged} damaged frames were rendered again")
    rate = f" ({done.rendered / seconds:.1f} frames/s)" if done.rendered else ""
    console.print(f"{done.frames} frames lie in {done.folder}; {done.rendered} are new{rate}")


def _render_packs(options: Namespace, how: RenderOptions) -> int:
    """Make every pack that ships, in ``--out`` or in the project's own folder."""
    if options.domain or options.count or how.size:
        raise UserError("--packs makes all packs as they ship: give no domain, --count or --size")
    work = cache_folder(next(iter(DOMAINS)), "test").parent.with_name("packs")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    with _create_progress() as progress:
        bars = {}

        def show(name: str, done: int, count: int) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name)
            progress.update(bars[name], completed=done, total=count)

        packs = ship_packs(work, packs=options.out, options=how, on_frame=show)
    sizes = {pack.name: pack.stat().st_size for pack in packs}
    if options.json:
        print_json({"folder": str(packs[0].parent), "bytes": sizes})
    else:
        text = f"{len(sizes)} packs, {sum(sizes.values()) / 2**20:.2f} MiB, lie in "
        Console(soft_wrap=True).print(text + str(packs[0].parent))
    return 0
