"""Renders sets of frames to disk: in parallel, with progress, and resumable after a kill.

Every frame is written whole and then noted in a journal; a second run of the same command renders
what the journal lacks. The index is written last: a folder with an index is complete.
"""

import json
import multiprocessing
import platform
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import torch

from dart.data.frames import (
    INDEX,
    FrameIndex,
    FrameRecord,
    FrameStore,
    encode_image,
    encode_range,
    sorted_frames,
    write_atomically,
)
from dart.data.renderer import Quality
from dart.data.styles import build_scene
from dart.data.views import render_frame
from dart.domains import cache_folder, check_domain, check_split
from dart.errors import UserError

RENDERER_VERSION = 1
"""Goes up whenever the same seed gives another picture."""

_JOURNAL = "journal.jsonl"
_WORTH_COMPILING = 200
"""Frames from which the half minute of compiling per worker pays."""

__all__ = ["RENDERER_VERSION", "cache_folder", "render_frames"]

OnFrame = Callable[[int, int], None]
"""Called with the number of frames done and the number in all."""


@dataclass(frozen=True)
class _Task:
    """One scene and the views of it to render."""

    domain: str
    split: str
    scene: int
    views: tuple[int, ...]
    out: Path
    compiled: bool


def render_frames(
    domain: str,
    split: str,
    *,
    count: int,
    out: Path,
    workers: int = 1,
    on_frame: OnFrame | None = None,
) -> Path:
    """Render the first ``count`` frames of a split into the folder ``out`` and return it.

    Frames that are already there are kept, so a killed run continues and a larger count extends.

    Args:
        domain: Name of a built-in domain.
        split: One of its splits.
        count: Number of frames, in the order of scenes and views.
        out: Folder; made if absent.
        workers: Processes, one thread each; 1 renders in this process.
        on_frame: Told of the progress after every frame.

    Raises:
        UserError: unknown domain or split, a count or number of workers that is not possible, or
            ``out`` holds frames of something else.
    """
    spec = check_split(domain, split)
    if not 1 <= count <= spec.capacity:
        raise UserError(
            f"count: {count} frames of {domain} {split}, allowed are 1 to {spec.capacity}"
        )
    if workers < 1:
        raise UserError(f"workers: {workers}, at least 1 is needed")
    out = Path(out)
    done = _done_before(out, domain=domain, split=split)
    wanted = [spec.locate(index) for index in range(count)]
    missing = [place for place in wanted if place not in done]
    compiled = len(missing) >= _WORTH_COMPILING * workers and shutil.which("g++") is not None
    tasks = _tasks(missing, _Task(domain, split, -1, (), out, compiled))
    if on_frame is not None:
        on_frame(count - len(missing), count)
    if missing:
        _make_folder(out)
        _run(tasks, done, workers=workers, report=(on_frame, count))
    _finish(out, domain=domain, split=split, frames=[done[place] for place in wanted])
    return out


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / INDEX).unlink(missing_ok=True)
        (out / _JOURNAL).touch()
    except OSError as error:
        raise UserError(f"{out}: cannot be written to ({error.strerror})") from None


def _tasks(places: list[tuple[int, int]], template: _Task) -> list[_Task]:
    """Return one task per scene."""
    views: dict[int, list[int]] = {}
    for scene, view in places:
        views.setdefault(scene, []).append(view)
    common = (template.domain, template.split)
    return [
        _Task(*common, scene, tuple(of_scene), template.out, template.compiled)
        for scene, of_scene in views.items()
    ]


def _run(
    tasks: list[_Task],
    done: dict[tuple[int, int], FrameRecord],
    *,
    workers: int,
    report: tuple[OnFrame | None, int],
) -> None:
    """Render every task, adding to ``done`` and to the journal."""
    on_frame, count = report
    start = count - sum(len(task.views) for task in tasks)
    with (tasks[0].out / _JOURNAL).open("a", encoding="utf-8") as journal:
        for finished, record in enumerate(_results(tasks, workers), start=start + 1):
            done[record.scene, record.view] = record
            journal.write(json.dumps(asdict(record)) + "\n")
            journal.flush()
            if on_frame is not None:
                on_frame(finished, count)


def _results(tasks: list[_Task], workers: int) -> Iterator[FrameRecord]:
    """Yield the record of every frame as it is finished."""
    if workers == 1:
        for task in tasks:
            yield from _render_scene(task)
        return
    # Spawned, not forked: torch's thread pool does not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_use_one_thread)
    try:
        for future in as_completed([pool.submit(_render_scene, task) for task in tasks]):
            yield from future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def _render_scene(task: _Task) -> list[FrameRecord]:
    """Render the views of one scene, write their files and return their records."""
    domain, split = check_domain(task.domain), check_split(task.domain, task.split)
    scene = build_scene(domain.style, task.scene)
    records = []
    for view in task.views:
        rendering, camera = render_frame(
            domain,
            scene,
            seed=task.scene,
            view=view,
            quality=Quality(split.samples_per_pixel, task.compiled),
        )
        image = encode_image(rendering.image)
        ranges = encode_range(rendering.distance, scale=domain.range_scale)
        record = FrameRecord(
            key=f"{task.domain}/{task.split}/{task.scene:06d}-{view}",
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


def _done_before(out: Path, *, domain: str, split: str) -> dict[tuple[int, int], FrameRecord]:
    """Return the frames that an earlier run finished in ``out``."""
    records: list[FrameRecord] = []
    if (out / INDEX).is_file():
        records += FrameStore(out).index.frames
    if (out / _JOURNAL).is_file():
        records += _read_journal(out / _JOURNAL)
    wrong = [r.key for r in records if not r.key.startswith(f"{domain}/{split}/")]
    if wrong:
        raise UserError(
            f"{out}: holds frames of {wrong[0].rsplit('/', 1)[0]}, not of {domain}/{split}; "
            "choose another folder"
        )
    return {
        (record.scene, record.view): record
        for record in records
        if (out / record.image_file).is_file() and (out / record.range_file).is_file()
    }


def _read_journal(path: Path) -> list[FrameRecord]:
    """Return the journal's records; a kill may have cut its last line short."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(FrameRecord(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return records


def _finish(out: Path, *, domain: str, split: str, frames: list[FrameRecord]) -> None:
    """Write the index, which makes the set complete."""
    spec = check_domain(domain)
    index = FrameIndex(
        domain=domain,
        split=split,
        size=spec.size,
        range_scale=spec.range_scale,
        frames=sorted_frames(frames),
        recipe={
            "command": f"dart render {domain} --split {split} --count {len(frames)}",
            "renderer_version": RENDERER_VERSION,
            "samples_per_pixel": spec.splits[split].samples_per_pixel,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    )
    write_atomically(out / INDEX, index.to_json().encode())
    (out / _JOURNAL).unlink(missing_ok=True)
