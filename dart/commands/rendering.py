"""``dart render``."""

from argparse import Namespace

from rich.console import Console

from dart.commands.common import create_progress
from dart.data.render import cache_folder, render_frames
from dart.domains import check_domain
from dart.errors import UserError


def render(options: Namespace) -> int:
    """Render frames of a built-in domain."""
    check_domain(options.domain)
    for name in ("count", "workers"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: expected at least 1")
    out = options.out or cache_folder(options.domain, options.split)
    with create_progress() as progress:
        task = progress.add_task(f"{options.domain}/{options.split}", total=options.count)
        render_frames(
            options.domain,
            options.split,
            count=options.count,
            out=out,
            workers=options.workers,
            on_frame=lambda done, _: progress.update(task, completed=done),
        )
    Console().print(f"{options.count} frames lie in {out}")
    return 0
