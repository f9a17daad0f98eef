"""Renders sets of frames to disk: in parallel, with progress, and resumable after a kill.

A second run of the same command checks every file against its checksum and renders what lacks or
is damaged (see ``render_folder``).
"""

import multiprocessing
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from threading import Thread

import torch

from dart.data.frames import (
    FrameIndex,
    FrameRecord,
    encode_image,
    encode_range,
    sorted_frames,
    write_atomically,
)
from dart.data.render_folder import (
    Header,
    Journal,
    Place,
    hold_folder,
    read_earlier,
    refuse_unwritable,
)
from dart.data.renderer import Quality
from dart.data.styles import build_scene
from dart.data.views import render_frame
from dart.domains import cache_folder, check_domain, check_split
from dart.errors import UserError

RENDERER_VERSION = 1
"""Goes up whenever the same seed gives another picture."""

_WORTH_COMPILING = 200
"""Frames from which the half minute of compiling per worker pays."""
_SIDES = range(16, 4097)
"""Heights and widths in pixels that a frame may have."""

__all__ = ["RENDERER_VERSION", "RenderOptions", "RenderedSet", "cache_folder", "render_frames"]

OnFrame = Callable[[int, int], None]
"""Called with the number of frames done and the number in all."""


@dataclass(frozen=True)
class RenderOptions:
    """How frames are rendered."""

    size: tuple[int, int] | None = None
    """Height and width in pixels; none = the domain's own."""
    device: str = "cpu"
    """Torch device that traces the rays; the pictures agree up to rounding."""
    workers: int = 1
    """Processes, one thread each; 1 renders in this process."""


DEFAULT_OPTIONS = RenderOptions()


@dataclass(frozen=True)
class RenderedSet:
    """What ``render_frames`` leaves behind."""

    folder: Path
    frames: int
    """Frames in the set: those asked for, and what more a larger rendering had left there."""
    rendered: int
    """Frames that this call rendered."""
    damaged: int
    """Frames among those whose files were damaged or missing."""


@dataclass(frozen=True)
class _Task:
    """One scene and the views of it to render."""

    header: Header
    scene: int
    views: tuple[int, ...]
    out: Path
    quality: Quality


def render_frames(
    domain: str,
    split: str,
    *,
    count: int,
    out: Path,
    options: RenderOptions = DEFAULT_OPTIONS,
    on_frame: OnFrame | None = None,
) -> RenderedSet:
    """Render the first ``count`` frames of a split into the folder ``out``.

    Frames that are already there and whole are kept, so a killed run continues and a larger count
    extends; a smaller one takes nothing away.

    Args:
        domain: Name of a built-in domain.
        split: One of its splits.
        count: Number of frames, in the order of scenes and views.
        out: Folder; made if absent.
        options: Size, device and processes.
        on_frame: Told of the progress after every frame.

    Raises:
        UserError: unknown domain or split, a count, size or number of workers that is not
            possible, ``out`` holds frames of something else, is being written by another process
            or cannot be written to.
    """
    spec = check_split(domain, split)
    if not 1 <= count <= spec.capacity:
        raise UserError(
            f"count: {count} frames of {domain} {split}, allowed are 1 to {spec.capacity}"
        )
    if options.workers < 1:
        raise UserError(f"workers: {options.workers}, at least 1 is needed")
    size = _check_size(options.size or check_domain(domain).size)
    header = Header(domain, split, size, RENDERER_VERSION)
    out = Path(out)
    with hold_folder(out):
        earlier = read_earlier(out, header)
        wanted = [spec.locate(index) for index in range(max(count, earlier.finished))]
        missing = [place for place in wanted if place not in earlier.frames]
        if on_frame is not None:
            on_frame(len(wanted) - len(missing), len(wanted))
        if missing or not earlier.finished or earlier.finished < count:
            with refuse_unwritable(out):
                _complete(header, out, wanted, dict(earlier.frames), (options, on_frame))
    return RenderedSet(out, len(wanted), len(missing), earlier.damaged)


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    if not all(side in _SIDES for side in size):
        raise UserError(
            "size: {}x{} pixels, allowed are {low} to {high} a side".format(
                *size, low=_SIDES[0], high=_SIDES[-1]
            )
        )
    return size


def _complete(
    header: Header,
    out: Path,
    wanted: list[Place],
    done: dict[Place, FrameRecord],
    how: tuple[RenderOptions, OnFrame | None],
) -> None:
    """Render what of ``wanted`` is not ``done``, and write the index of all that is wanted."""
    options, on_frame = how
    missing = [place for place in wanted if place not in done]
    journal = Journal(out, header, done)
    tasks = _tasks(missing, header, out, options)
    start = len(wanted) - len(missing)
    for finished, record in enumerate(_results(tasks, options.workers), start=start + 1):
        done[record.scene, record.view] = record
        journal.note(record)
        if on_frame is not None:
            on_frame(finished, len(wanted))
    journal.close(_index(header, [done[place] for place in wanted], options))


def _tasks(places: list[Place], header: Header, out: Path, options: RenderOptions) -> list[_Task]:
    """Return one task per scene."""
    on_cpu = torch.device(options.device).type == "cpu"
    worth_it = len(places) >= _WORTH_COMPILING * options.workers
    quality = Quality(
        check_split(header.domain, header.split).samples_per_pixel,
        compiled=worth_it and on_cpu and shutil.which("g++") is not None,
        device=options.device,
    )
    views: dict[int, list[int]] = {}
    for scene, view in places:
        views.setdefault(scene, []).append(view)
    return [
        _Task(header, scene, tuple(of_scene), out, quality) for scene, of_scene in views.items()
    ]


def _results(tasks: list[_Task], workers: int) -> Iterator[FrameRecord]:
    """Yield the record of every frame as it is finished."""
    if workers == 1:
        for task in tasks:
            yield from _render_scene(task)
        return
    # Spawned, not forked: torch's thread pool does not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        for future in as_completed([pool.submit(_render_scene, task) for task in tasks]):
            yield from future.result()
    except BrokenProcessPool:
        raise UserError(
            f"{tasks[0].out}: a worker was killed, for want of memory perhaps; "
            "the same command with fewer workers goes on from here"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Use one thread, and end with the parent: a killed one leaves no worker behind."""
    torch.set_num_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _render_scene(task: _Task) -> list[FrameRecord]:
    """Render the views of one scene, write their files and return their records."""
    domain = replace(check_domain(task.header.domain), size=task.header.size)
    scene = build_scene(domain.style, task.scene)
    records = []
    for view in task.views:
        rendering, camera = render_frame(
            domain, scene, seed=task.scene, view=view, quality=task.quality
        )
        image = encode_image(rendering.image)
        ranges = encode_range(rendering.distance, scale=domain.range_scale)
        record = FrameRecord(
            key=f"{domain.name}/{task.header.split}/{task.scene:06d}-{view}",
            scene=task.scene,
            view=view,
            camera=camera.to_dict(),
            image_sha256=sha256(image).hexdigest(),
            range_sha256=sha256(ranges).hexdigest(),
        )
        write_atomically(task.out / record.image_file, image)
        write_atomically(task.out / record.range_file, ranges)
        records.append(record)
    return records


def _index(header: Header, frames: list[FrameRecord], options: RenderOptions) -> FrameIndex:
    """Return the index of a complete set."""
    spec = check_domain(header.domain)
    command = f"dart render {header.domain} --split {header.split} --count {len(frames)}"
    if header.size != spec.size:
        command += " --size {}x{}".format(*header.size)
    if options.device != "cpu":
        command += f" --device {options.device}"
    return FrameIndex(
        domain=header.domain,
        split=header.split,
        size=header.size,
        range_scale=spec.range_scale,
        frames=sorted_frames(frames),
        recipe={
            "command": command,
            "renderer_version": header.renderer_version,
            "samples_per_pixel": spec.splits[header.split].samples_per_pixel,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    )
