import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dart.data.dataset import open_domain
from dart.data.domain_file import find_domain, fingerprint, read_domain_file
from dart.data.domain_frames import DomainFrames, choose_scenes
from dart.errors import UserError
from dart.recipe import ProtocolSpec, Recipe

CAMERA = {"model": "pinhole", "params": [40.0, 40.0, 32.0, 20.0], "width": 64, "height": 40}
BASE = """\
format: manifest
path: list.json
size: [48, 64]
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DART_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten scenes of two frames each, walls at 1 to 10 m."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "lens.json").write_text(json.dumps(CAMERA))
    rows = []
    for number in range(20):
        units = np.full((40, 64), 1000 + 500 * (number // 2), dtype=np.uint16)
        Image.fromarray(units).save(folder / f"{number}_d.png")
        pixels = np.full((40, 64, 3), 10 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        row = {"image": f"{number}.png", "depth": f"{number}_d.png", "camera": "lens.json"}
        row |= {"convention": "range", "depth_scale": 1000, "scene": f"room{number // 2}"}
        rows.append(row | {"split": "official" if number < 16 else "rest"})
    (folder / "list.json").write_text(json.dumps(rows))
    return folder


def domain(data: Path, splits: str, extra: str = "", name: str = "mine.yaml") -> str:
    (data / name).write_text(f"{BASE}{extra}splits: {splits}\n")
    return str(data / name)


def scenes(name: str, split: str) -> set[str]:
    frames = open_domain(name, split)
    assert isinstance(frames, DomainFrames)
    return {frames.data.scenes[sample.scene] for sample in frames[:]}


def test_shares_divide_scenes_and_never_frames(data: Path) -> None:
    name = domain(data, "{train: 0.6, val: 0.2, test: 0.2}")
    parts = {split: scenes(name, split) for split in ("train", "val", "test")}
    assert [len(parts[split]) for split in ("train", "val", "test")] == [6, 2, 2]
    assert set.union(*parts.values()) == {f"room{number}" for number in range(10)}
    assert len(open_domain(name, "train")) == 12
    assert {split: scenes(name, split) for split in parts} == parts


def test_lists_format_splits_and_shares_of_a_part(data: Path) -> None:
    name = domain(data, "{train: official, test: rest}")
    assert scenes(name, "train") == {f"room{number}" for number in range(8)}
    assert scenes(name, "test") == {"room8", "room9"}
    name = domain(data, "{train: [room3, room1], test: {fraction: 0.5}}")
    assert scenes(name, "train") == {"room1", "room3"}
    assert len(scenes(name, "test")) == 4
    assert not scenes(name, "test") & {"room1", "room3"}
    shares = "{train: {of: official, fraction: 0.75}, val: {of: official, fraction: 0.25}, "
    name = domain(data, shares + "test: rest}")
    assert len(scenes(name, "train")) == 6
    assert len(scenes(name, "val")) == 2


@pytest.mark.parametrize(
    ("splits", "told"),
    [
        ("{train: [room1], test: [room1, room2]}", "scene 'room1' is in train and test"),
        ("{train: official, test: [room1]}", "scene 'room1' is in train and test"),
        ("{train: [rom1]}", "no scene 'rom1', there are 10"),
        ("{train: 0.01}", "train: a share of 0.01 of 10 scenes is none"),
        ("{train: 0.8, test: 0.4}", "the shares add up to 1.2"),
        ("{train: offical}", "no split 'offical', allowed are official, rest; did you mean"),
        ("{train: {fraction: 0.5, scenes: [room1]}}", "give 'scenes' or 'fraction', not both"),
        ("{train: 0}", "greater than 0"),
        ("{training: 1}", "splits"),
        ("{}", "splits"),
    ],
)
def test_splits_that_cannot_be_are_refused(data: Path, splits: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        open_domain(domain(data, splits), "train")
    assert str(error.value).startswith(str(data / "mine.yaml"))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BASE + "splits: {test: 1}\nsizes: 3\n", "unknown key 'sizes', allowed are format, path"),
        (BASE.replace("manifest", "homs") + "splits: {test: 1}\n", "did you mean 'homes'"),
        (BASE.replace("list", "lost") + "splits: {test: 1}\n", "path: there is no"),
        (BASE + "splits: {test: 1}\ncamera: lens.yaml\n", "camera: there is no"),
        (BASE.split("size")[0] + "splits: {test: 1}\n", "'size: [height, width]' is missing"),
        (BASE.replace("48", "8") + "splits: {test: 1}\n", "at least 32 pixels"),
        (BASE, "'splits' is missing"),
        ("- 1\n", "a domain file is a mapping"),
        ("a: [\n", "not a readable YAML file"),
    ],
)
def test_a_wrong_domain_file_is_one_line(data: Path, text: str, told: str) -> None:
    (data / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        find_domain(str(data / "mine.yaml"), where="study.yaml:3: protocol.target")
    assert str(error.value).startswith(f"study.yaml:3: protocol.target: {data / 'mine.yaml'}")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_domain_file_that_is_not_there_and_a_split_that_is_not_named(data: Path) -> None:
    with pytest.raises(UserError, match="no such domain file"):
        read_domain_file(data / "other.yaml")
    name = domain(data, "{test: 1}")
    for ask in (open_domain, fingerprint):
        with pytest.raises(UserError, match="splits: there is no 'val', only test"):
            ask(name, "val")


def test_frames_fit_the_size_with_their_camera(data: Path) -> None:
    sample = open_domain(domain(data, "{test: 1}"), "test")[3]
    assert sample.image.shape == (3, 48, 64)
    assert sample.camera.size == (48, 64)
    assert sample.camera.params.tolist() == [40.0, 40.0, 32.0, 24.0]
    assert not sample.valid[:4].any()
    assert not sample.valid[-4:].any()
    assert torch.equal(sample.distance[4:-4], torch.full((40, 64), 1.5))
    assert torch.equal(sample.image[:, 4:-4], torch.full((3, 40, 64), 30 / 255))
    assert sample.key == "mine/3"


def test_frames_can_be_seen_through_another_lens(data: Path) -> None:
    lens = {"model": "kannala_brandt", "params": [30.0, 30.0, 48.0, 36.0, 0.1, 0.0, 0.0, 0.0]}
    (data / "fisheye.json").write_text(json.dumps(lens | {"width": 96, "height": 72}))
    sample = open_domain(domain(data, "{test: 1}", "camera: fisheye.json\n"), "test")[0]
    assert sample.camera.model == "kannala_brandt"
    assert sample.camera.params[:4].tolist() == [20.0, 20.0, 32.0, 24.0]
    assert 0.1 < float(sample.valid.float().mean()) < 0.3
    assert set(sample.distance[sample.valid].tolist()) == {1.0}
    (data / "fisheye.json").write_text(json.dumps(lens | {"width": 96, "height": 96}))
    with pytest.raises(UserError, match=r"which 'size'.* would stretch"):
        open_domain(domain(data, "{test: 1}", "camera: fisheye.json\n"), "test")[0]


@pytest.mark.parametrize("mib", [0, 0.2, 100])
def test_memory_bounds_what_is_kept_and_nothing_else(data: Path, mib: float) -> None:
    frames = open_domain(domain(data, "{test: 1}", f"cache_mib: {mib}\n"), "test")
    assert isinstance(frames, DomainFrames)
    first = [sample.distance.sum() for sample in frames[:]]
    kept = frames._kept
    size = sum(pixels.nbytes + distance.nbytes for pixels, distance, _ in kept.values())
    assert size <= mib * 2**20
    assert len(kept) == {0: 0, 0.2: 9, 100: 20}[mib]
    assert [sample.distance.sum() for sample in frames[:]] == first


def test_the_fingerprint_follows_what_the_data_says(data: Path) -> None:
    name = domain(data, "{train: official, test: rest}")
    first = fingerprint(name, "test")
    assert fingerprint(name, "test") == first
    assert fingerprint(name, "train") != first
    frames = open_domain(name, "test")
    assert frames.fingerprint == first
    os.utime(data / "0_d.png", ns=(1, 1))
    (data / "unlisted.png").write_bytes(b"x")
    assert (
        fingerprint(domain(data, "{train: official, test: rest}", "cache_mib: 3\n"), "test")
        == first
    )
    known = (data / "0_d.png").read_bytes()
    state = os.stat(data / "0_d.png")
    Image.fromarray(np.full((40, 64), 1001, dtype=np.uint16)).save(data / "0_d.png")
    assert len(known) == os.stat(data / "0_d.png").st_size
    os.utime(data / "0_d.png", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert fingerprint(name, "test") != first
    (data / "0_d.png").write_bytes(known)
    assert fingerprint(name, "test") == first
    (data / "lens.json").write_text(json.dumps(CAMERA | {"params": [41.0, 40.0, 32.0, 20.0]}))
    assert fingerprint(name, "test") != first
    (data / "lens.json").write_text(json.dumps(CAMERA))
    assert fingerprint(domain(data, "{train: official, test: [room9]}"), "test") != first


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/hostname"])
def test_a_plan_reads_no_file_outside_the_datas_folder(data: Path, name: str) -> None:
    (data.parent / "secret.npy").write_bytes(b"x")
    rows = json.loads((data / "list.json").read_text())
    rows[3]["depth"] = name if name.endswith(".npy") else f"{name}.npy"
    (data / "list.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"frames\[3\]: .*leaves the folder of the data set"):
        fingerprint(domain(data, "{train: official, test: rest}"), "test")


def test_a_moved_copy_is_the_same_data_and_stamps_say_otherwise(data: Path, tmp_path: Path) -> None:
    names = [domain(data, "{test: 1}"), domain(data, "{test: 1}", "identity: stamps\n", "s.yaml")]
    before = [fingerprint(name, "test") for name in names]
    (tmp_path / "moved").mkdir()
    for path in data.iterdir():
        (tmp_path / "moved" / path.name).write_bytes(path.read_bytes())
    moved = [str(tmp_path / "moved" / Path(name).name) for name in names]
    after = [fingerprint(name, "test") for name in moved]
    assert after[0] == before[0]
    assert after[1] != before[1]
    (data / "3_d.png").unlink()
    with pytest.raises(UserError, match=r"3_d\.png: cannot be read"):
        fingerprint(names[0], "test")


def test_remembered_hashes_are_used_and_a_damaged_memory_does_no_harm(
    data: Path, tmp_path: Path
) -> None:
    name = domain(data, "{test: 1}")
    for path in data.iterdir():
        os.utime(path, ns=(10**18, 10**18))
    first = fingerprint(name, "test")
    (tmp_path / "cache").mkdir(exist_ok=True)
    for memory in (tmp_path / "cache").rglob("*.json"):
        memory.write_text("[1")
    assert fingerprint(name, "test") == first


def test_a_whole_folder_is_the_identity_of_other_formats(tmp_path: Path) -> None:
    folder = tmp_path / "homes"
    folder.mkdir()
    for name in ("a.jpg", "a_range.png", "a.json", ".hidden"):
        (folder / name).write_bytes(name.encode())
    text = "format: homes\npath: homes\nsize: [32, 64]\nsplits: {test: 1}\n"
    (tmp_path / "h.yaml").write_text(text)
    first = fingerprint(str(tmp_path / "h.yaml"), "test")
    (folder / ".hidden").write_bytes(b"other")
    assert fingerprint(str(tmp_path / "h.yaml"), "test") == first
    (folder / "a_range.png").write_bytes(b"A_range.png")
    assert fingerprint(str(tmp_path / "h.yaml"), "test") != first


def test_a_protocol_calls_files_by_their_stem_wherever_they_lie() -> None:
    here = ProtocolSpec(target="/a/mine.yaml", source=("/b/yours.yml", "rooms_pinhole"))
    assert here.roles == {
        "yours": "source",
        "rooms_pinhole": "source",
        "mine": "target",
        "rooms_stereographic": "held_out",
    }
    assert here.locate("mine") == "/a/mine.yaml"
    assert here.locate("rooms_pinhole") == "rooms_pinhole"
    assert ProtocolSpec.model_validate_json(here.model_dump_json()) == here
    there = ProtocolSpec(target="/c/mine.yaml", source=("/b/yours.yml", "rooms_pinhole"))
    keys = {
        Recipe(variant="x", pretrained_sha256="1", data={}, protocol=protocol).key
        for protocol in (here, there)
    }
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"target": "a/rooms_fisheye.yaml"}, "'rooms_fisheye' is a built-in domain"),
        ({"target": "a/x.yaml", "source": ("b/x.yaml",)}, "'x' is the name of"),
        ({"target": "a/x.yaml", "source": ("a/x.yaml",)}, "named twice"),
        ({"target": "a/x y.yaml"}, "letters, digits"),
    ],
)
def test_names_that_results_would_confuse_are_refused(names: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ProtocolSpec(**names)


def test_a_plan_with_a_domain_file_needs_no_torch(data: Path) -> None:
    name = domain(data, "{test: 1}")
    code = (
        "import sys\nfrom dart.data.domain_file import find_domain, fingerprint\n"
        f"find_domain({name!r})\nfingerprint({name!r}, 'test')\n"
        "import dart.studies.plan, dart.studies.spec\n"
        "assert not {'torch', 'timm', 'mlflow', 'cv2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_scenes_are_drawn_by_name_alone(data: Path) -> None:
    found = read_domain_file(domain(data, "{train: 0.5, test: 0.5}"))
    names = tuple(f"room{number}" for number in range(10))
    forward = choose_scenes(found, lambda _: names)
    backward = choose_scenes(found, lambda _: names[::-1])
    assert forward == backward
