import json
import os
import resource
from pathlib import Path

import pytest

from dart.data.dataset import open_domain
from dart.data.frames import FrameStore
from dart.data.render import RENDERER_VERSION, RenderedSet, RenderOptions, render_frames
from dart.data.render_folder import hold_folder
from dart.data.ship import shipped_splits
from dart.domains import DOMAINS, fingerprint
from dart.errors import UserError

SMALL = RenderOptions(size=(24, 32))


def render(
    out: Path, count: int = 3, *, domain: str = "rooms_pinhole", options: RenderOptions = SMALL
) -> RenderedSet:
    return render_frames(domain, "val", count=count, out=out, options=options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return render(tmp_path / "set").folder


def identity(folder: Path) -> str:
    return fingerprint("rooms_pinhole", "val", folder=folder)


def test_a_set_of_another_size_sees_the_same(folder: Path, tmp_path: Path) -> None:
    larger = render(tmp_path / "larger", options=RenderOptions(size=(48, 64)))
    small = open_domain("rooms_pinhole", "val", folder=folder)
    large = open_domain("rooms_pinhole", "val", folder=larger.folder)
    assert small[0].image.shape == (3, 24, 32)
    assert FrameStore(larger.folder).index.size == (48, 64)
    for one, other in zip(small, large, strict=True):
        assert one.camera.resize((48, 64)).key == other.camera.key
        # The ray through a pixel's centre lies between those of the four smaller ones.
        quarters = other.distance.reshape(24, 2, 32, 2).permute(0, 2, 1, 3).flatten(2)
        between = (quarters.amin(-1) - 0.01 <= one.distance) & (
            one.distance <= quarters.amax(-1) + 0.01
        )
        assert float(between.float().mean()) > 0.9


def test_damaged_frames_are_rendered_again(folder: Path) -> None:
    before, whole = identity(folder), FrameStore(folder).index.frames
    ranges = folder / whole[0].range_file
    ranges.write_bytes(ranges.read_bytes()[:-1] + b"\0")
    (folder / whole[2].image_file).unlink()
    untouched = (folder / whole[1].image_file).stat().st_mtime_ns
    again = render(folder)
    assert (again.frames, again.rendered, again.damaged) == (3, 2, 2)
    assert identity(folder) == before
    assert (folder / whole[1].image_file).stat().st_mtime_ns == untouched
    done = render(folder)
    assert (done.rendered, done.damaged) == (0, 0)


def test_a_smaller_count_takes_nothing_away(folder: Path) -> None:
    before = identity(folder)
    again = render(folder, 1)
    assert (again.frames, again.rendered) == (3, 0)
    assert identity(folder) == before


def test_a_finished_set_that_is_extended_and_killed_keeps_its_frames(folder: Path) -> None:
    def kill(done: int, _: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_frames("rooms_pinhole", "val", count=6, out=folder, options=SMALL, on_frame=kill)
    again = render(folder, 6)
    assert (again.frames, again.rendered, again.damaged) == (6, 2, 0)


@pytest.mark.parametrize("state", ["finished", "killed"])
@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("size", r"set: holds frames of 24x32, not of 96x128; choose another folder"),
        ("domain", r"set: holds frames of rooms_pinhole/val, not of rooms_fisheye/val"),
        ("version", r"set: holds frames of renderer version 0, not of version 1"),
    ],
)
def test_a_folder_of_something_else_is_refused(
    folder: Path, state: str, fault: str, text: str
) -> None:
    index = folder / "index.json"
    content = json.loads(index.read_text())
    version = 0 if fault == "version" else RENDERER_VERSION
    if state == "killed":
        header = {"domain": "rooms_pinhole", "split": "val", "size": [24, 32]}
        lines = [{**header, "renderer_version": version}, *content["frames"]]
        (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        index.unlink()
    else:
        content["recipe"]["renderer_version"] = version
        index.write_text(json.dumps(content))
    files = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match=text):
        render(
            folder,
            domain="rooms_fisheye" if fault == "domain" else "rooms_pinhole",
            options=RenderOptions() if fault == "size" else SMALL,
        )
    assert sorted(folder.rglob("*")) == files


def test_a_folder_that_another_process_writes_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "set"
    with (
        hold_folder(out),
        pytest.raises(UserError, match=f"set: process {os.getpid()} is rendering into it; wait"),
    ):
        render(out)
    assert render(out).rendered == 3


def test_a_full_disk_leaves_nothing_half_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "full"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond 700 bytes: a picture does not fit, the journal's header does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, hard))
    try:
        with pytest.raises(
            UserError, match=r"full: cannot be written to \(File too large\)"
        ) as told:
            render(out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(told.value)
    left = sorted(path.name for path in out.rglob("*") if path.is_file())
    assert left == [".lock", "journal.jsonl"]
    render(out)
    assert identity(out) == identity(folder)


@pytest.mark.parametrize("size", [(8, 32), (24, 5000)])
def test_impossible_sizes_are_refused(size: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pixels, allowed are 16 to 4096 a side"):
        render(tmp_path / "set", options=RenderOptions(size=size))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("name", "split"), [pair for pair in shipped_splits() if pair[1] == "test"]
)
def test_a_shipped_frame_is_what_the_renderer_makes(name: str, split: str, tmp_path: Path) -> None:
    shipped = open_domain(name, split)[0]
    folder = render_frames(name, split, count=1, out=tmp_path / "set").folder
    again = open_domain(name, split, folder=folder)[0]
    assert again.camera.key == shipped.camera.key
    # On the processor that made the packs every bit agrees; another may round a few edges apart.
    assert float((again.image - shipped.image).abs().mean()) < 2e-3
    units = (again.distance - shipped.distance).abs() * DOMAINS[name].range_scale
    assert float((units < 1.5).float().mean()) > 0.998
