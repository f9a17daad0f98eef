"""What is wrong with a user's data is told in one line, by whatever command reads it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dart.cameras import KannalaBrandt
from dart.cli import main

SIZE = (48, 64)
DOMAIN = "format: manifest\npath: set/list.json\nsize: [48, 64]\nsplits: {test: [hall]}\n"
Row = dict[str, object]


def lens() -> KannalaBrandt:
    params = torch.tensor([24.0, 24.0, 32.0, 24.0, 0.02, 0.0, 0.0, 0.0])
    return KannalaBrandt(params, SIZE)


class Frames:
    """Three fisheye frames of a wall, their manifest and a domain file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "set"
        self.folder.mkdir()
        rays = lens().rays().numpy()
        self.distance = 2.0 / np.maximum(rays @ np.array([0.2, -0.1, 0.97]), 0.2)
        self.rows: list[Row] = []
        (self.folder / "lens.json").write_text(json.dumps(lens().to_dict()))
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.folder / f"{number}.png")
            np.save(self.folder / f"{number}.npy", self.distance.astype(np.float32))
            row = {"image": f"{number}.png", "depth": f"{number}.npy", "camera": "lens.json"}
            self.rows.append({**row, "convention": "range", "scene": "hall"})
        (root / "mine.yaml").write_text(DOMAIN)
        self.write()

    def write(self) -> None:
        (self.folder / "list.json").write_text(json.dumps(self.rows))

    def change(self, **columns: object) -> None:
        self.rows[1] |= columns
        self.write()

    def put_depth(self, depth: np.ndarray) -> None:
        np.save(self.folder / "1.npy", depth.astype(np.float32))

    def put_lens(self, **content: object) -> None:
        (self.folder / "lens.json").write_text(json.dumps(lens().to_dict() | content))

    def put_param(self, name: str, value: object) -> None:
        self.put_lens(params=lens().to_dict()["params"] | {name: value})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def save_depth_png(frames: Frames, *, keep: int | None = None) -> None:
    path = frames.folder / "1.depth.png"
    Image.fromarray((frames.distance * 1000).astype(np.uint16)).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    frames.change(depth=path.name, depth_scale=1000)


def link_out(frames: Frames) -> None:
    shutil.move(frames.folder / "1.npy", frames.root / "elsewhere.npy")
    (frames.folder / "1.npy").symlink_to(frames.root / "elsewhere.npy")


FULL = np.ones(SIZE)
FAULTS: dict[str, tuple[Callable[[Frames], object], str]] = {
    "truncated picture": (lambda f: cut(f.folder / "1.png"), "1.png: damaged or not a picture"),
    "truncated depth PNG": (lambda f: save_depth_png(f, keep=300), "1.depth.png: damaged or not a"),
    "truncated depth npy": (lambda f: cut(f.folder / "1.npy"), "1.npy: not a whole .npy file"),
    "depth of another size": (
        lambda f: f.put_depth(np.ones((24, 32))),
        "1.npy: depth of 32 x 24 pixels, but the image 1.png has 64 x 48",
    ),
    "all NaN": (lambda f: f.put_depth(FULL * np.nan), "no valid depth (100% NaN or infinite)"),
    "all negative": (lambda f: f.put_depth(-FULL), "no valid depth (100% negative)"),
    "all zero": (lambda f: f.put_depth(0 * FULL), "no valid depth (100% zero)"),
    "too few parameters": (
        lambda f: f.put_lens(params=[24.0, 24.0, 32.0]),
        "got 3 numbers; needed 8: fx, fy, cx, cy, k1",
    ),
    "too many parameters": (
        lambda f: f.put_lens(params=[24.0] * 9),
        "got 9 numbers; needed 8: fx, fy, cx, cy, k1",
    ),
    "camera of another resolution": (
        lambda f: f.put_lens(width=128, height=96),
        "64 x 48 pixels, but its camera is of 128 x 96",
    ),
    "zero focal length": (lambda f: f.put_param("fx", 0), "fx = 0; it must be positive"),
    "focal length that is no number": (lambda f: f.put_param("fx", float("nan")), "fx must be a"),
    "missing picture": (
        lambda f: (f.folder / "1.png").unlink(),
        "files of 1 of 3 frames are missing: ",
    ),
    "missing depth": (
        lambda f: (f.folder / "1.npy").unlink(),
        "files of 1 of 3 frames are missing: ",
    ),
    "missing camera": (
        lambda f: (f.folder / "lens.json").unlink(),
        "files of 3 of 3 frames are missing: ",
    ),
    "missing mask": (lambda f: f.change(mask="m.png"), "files of 1 of 3 frames are missing: "),
    "path upwards": (
        lambda f: f.change(depth="../elsewhere.npy"),
        "../elsewhere.npy: leaves the folder of the data set",
    ),
    "absolute path": (
        lambda f: f.change(image="/etc/hostname"),
        "/etc/hostname: leaves the folder of the data set",
    ),
    "camera upwards": (
        lambda f: f.change(camera="../lens.json"),
        "../lens.json: leaves the folder of the data set",
    ),
    "link out": (link_out, "1.npy: leaves the folder of the data set"),
}
# One of a kind: a frame, its camera, the listing, its paths.
THROUGH_A_DOMAIN_FILE = ("truncated depth npy", "zero focal length", "missing mask", "link out")


@pytest.fixture
def frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Frames:
    monkeypatch.setenv("DART_CACHE", str(tmp_path / "cache"))
    return Frames(tmp_path)


def left(root: Path) -> list[str]:
    """Return the files of the cache and the output that are not whole results."""
    found = [*(root / "cache").rglob("*"), *(root / "out").rglob("*")]
    return [str(path) for path in found if path.is_file() and path.parent.name != "hashes"]


def test_without_a_fault_every_command_reads_the_frames(
    frames: Frames, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = str(frames.folder / "list.json")
    assert main(["data", "check", manifest, "--as", "manifest"]) == 0
    domain = str(frames.root / "mine.yaml")
    assert main(["evaluate", "rooms_small", "--domains", domain, "--json"]) == 0
    command = ["evaluate", "rooms_small", "--data", manifest, "--as", "manifest", "--width", "64"]
    assert main([*command, "--align", "none", "--json", "--cloud-points", "0"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_a_command_in_one_line_and_leaves_nothing_behind(
    name: str, frames: Frames, capsys: pytest.CaptureFixture[str]
) -> None:
    plant, told = FAULTS[name]
    plant(frames)
    data = ["--data", str(frames.folder / "list.json"), "--as", "manifest", "--width", "64"]
    commands = [["evaluate", "rooms_small", *data, "--out", str(frames.root / "out")]]
    if name in THROUGH_A_DOMAIN_FILE:
        commands.append(["evaluate", "rooms_small", "--domains", str(frames.root / "mine.yaml")])
    for command in commands:
        assert main(command) == 2, command
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("error: ")
        assert shown.err.count("\n") == 1
        assert told in shown.err
        assert str(frames.folder) in shown.err
        assert left(frames.root) == []


@pytest.mark.parametrize("name", FAULTS)
def test_the_check_names_the_fault_and_goes_on(
    name: str, frames: Frames, capsys: pytest.CaptureFixture[str]
) -> None:
    plant, told = FAULTS[name]
    plant(frames)
    command = ["data", "check", str(frames.folder / "list.json"), "--as", "manifest"]
    status = main([*command, "--out", str(frames.root / "out")])
    shown = capsys.readouterr()
    if name.startswith(("missing camera", "path", "absolute", "camera upwards", "link")):
        # Nothing can be read, or the listing itself is refused.
        assert status == 2
        assert shown.err.count("\n") == 1
        assert told in shown.err
        assert left(frames.root) == []
        return
    assert status == 1
    assert " problem" in shown.out
    if name.startswith("missing"):
        gone = {"picture": "1.png", "depth": "1.npy", "mask": "m.png"}[name.split()[1]]
        assert f"missing: 1: {frames.folder / gone} does not exist" in shown.out
        assert "2 of 3 frames opened" in shown.out
    else:
        assert told in shown.out
    assert all("/." not in path for path in left(frames.root))


@pytest.mark.parametrize(("factor", "told"), [(1e3, "millimetres"), (1e-3, "once too often")])
def test_units_off_by_a_thousand_are_a_problem_of_the_check(
    factor: float, told: str, frames: Frames, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        np.save(frames.folder / f"{number}.npy", (frames.distance * factor).astype(np.float32))
    # Every value is wrong alike: only its size tells.
    limits = ["data", "check", str(frames.folder / "list.json"), "--as", "manifest"]
    assert main(limits) == 1
    shown = capsys.readouterr().out
    assert "units: manifest: median depth" in shown
    assert told in shown
    assert "unit of depth: not metres, see the problems" in shown


def test_some_invalid_pixels_are_counted_and_never_used(
    frames: Frames, capsys: pytest.CaptureFixture[str]
) -> None:
    depth = frames.distance.copy()
    depth[20, 10:14] = [np.nan, np.inf, -1.0, 0.0]
    frames.put_depth(depth)
    command = ["data", "check", str(frames.folder / "list.json"), "--as", "manifest", "--json"]
    assert main(command) == 1
    report = json.loads(capsys.readouterr().out)
    assert [problem["kind"] for problem in report["problems"]] == ["negative"]
    assert report["invalid_pixels"]["not finite"] == 2
    assert report["invalid_pixels"]["zero"] == report["invalid_pixels"]["negative"] == 1


def test_unreadable_and_missing_frames_are_left_out_only_when_asked(
    frames: Frames, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(frames.folder / "1.png")
    (frames.folder / "2.npy").unlink()
    data = ["--data", str(frames.folder / "list.json"), "--as", "manifest", "--width", "64"]
    command = ["evaluate", "rooms_small", *data, "--json", "--cloud-points", "0"]
    assert main(command) == 2
    assert "2.npy; on_missing='skip' (or --skip-unreadable)" in capsys.readouterr().err
    assert main([*command, "--skip-unreadable"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["frames"] == 1
    assert "1.png: damaged or not a picture" in json.dumps(report["unreadable"])
    assert report["missing"] == {"2": f"{frames.folder / '2.npy'} does not exist"}
