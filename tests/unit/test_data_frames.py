import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dart.data.render as rendering
from dart.data.dataset import collate, open_domain
from dart.data.frames import (
    FrameStore,
    decode_image,
    decode_range,
    encode_image,
    encode_range,
    write_pack,
)
from dart.data.render import RenderOptions, render_frames
from dart.data.ship import shipped_splits
from dart.domains import DOMAINS, find_frames, fingerprint, pack_path
from dart.errors import UserError

SHIPPED = shipped_splits()


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rendered") / "set"
    return render_frames("rooms_pinhole", "train", count=4, out=out).folder


@pytest.fixture
def folder(rendered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rendered, tmp_path / "set"))


def test_range_is_exact_to_half_a_unit() -> None:
    distance = torch.linspace(0.01, 12, 96).reshape(8, 12)
    distance[0, 0] = 0
    back = decode_range(encode_range(distance, scale=2000.0), scale=2000.0, where="x")
    assert back[0, 0] == 0
    assert float((back - distance).abs().max()) <= 0.5 / 2000 + 1e-6


def test_a_range_picture_is_16_bit_and_of_the_documented_unit() -> None:
    content = encode_range(torch.tensor([[1.5, 40.0]]), scale=2000.0)
    assert np.array(Image.open(io.BytesIO(content))).tolist() == [[3000, 65535]]


def test_a_picture_survives_its_compression() -> None:
    ramp = torch.linspace(0, 1, 64).expand(3, 32, 64)
    back = decode_image(encode_image(ramp), where="x").float() / 255
    assert float((back - ramp).abs().max()) < 0.03


def test_a_picture_of_another_kind_is_refused() -> None:
    colour = encode_image(torch.zeros(3, 8, 8))
    with pytest.raises(UserError, match=r"a\.png: pixels of kind RGB, expected I;16"):
        decode_range(colour, scale=1.0, where="a.png")


def test_a_set_holds_the_first_scenes_with_all_their_views(rendered: Path) -> None:
    data = open_domain("rooms_pinhole", "train", folder=rendered)
    assert [(s.scene, s.key) for s in data] == [
        (0, "rooms_pinhole/train/000000-0"),
        (0, "rooms_pinhole/train/000000-1"),
        (0, "rooms_pinhole/train/000000-2"),
        (1, "rooms_pinhole/train/000001-0"),
    ]
    assert len({s.camera.key for s in data}) > 1


def test_samples_are_decoded_once_and_never_shared(rendered: Path) -> None:
    data = open_domain("rooms_pinhole", "train", folder=rendered)
    first = data[-1]
    first.distance.zero_()
    first.image.zero_()
    again = data[3]
    assert float(again.distance.max()) > 1
    assert again.valid.equal(again.distance > 0)
    with pytest.raises(IndexError):
        data[4]
    copy = pickle.loads(pickle.dumps(data))
    assert copy[3].image.equal(again.image)


def test_a_batch_keeps_the_order(rendered: Path) -> None:
    data = open_domain("rooms_pinhole", "train", folder=rendered)
    batch = collate(data[1:3])
    assert batch.keys == (data[1].key, data[2].key)
    assert batch.image.shape == (2, 3, 96, 128)
    assert batch.distance[1].equal(data[2].distance)
    with pytest.raises(ValueError, match="one size"):
        collate([])


def test_rendering_again_changes_nothing_and_more_extends(folder: Path) -> None:
    before = (folder / "index.json").read_text()
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jpg")}
    render_frames("rooms_pinhole", "train", count=4, out=folder)
    assert (folder / "index.json").read_text() == before
    render_frames("rooms_pinhole", "train", count=5, out=folder)
    assert len(FrameStore(folder).index.frames) == 5
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_killed_rendering_goes_on_where_it_stopped(
    rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"

    def kill(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_frames("rooms_pinhole", "train", count=4, out=out, on_frame=kill)
    with pytest.raises(UserError, match="never finished; run the same dart render again"):
        open_domain("rooms_pinhole", "train", folder=out)
    # A kill may cut the journal's last line short: that frame is made again.
    journal = out / "journal.jsonl"
    journal.write_text(journal.read_text()[:-20])

    drawn = []
    render_frame = rendering.render_frame

    def count(*args: object, **kwargs: object) -> object:
        drawn.append((kwargs["seed"], kwargs["view"]))
        return render_frame(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(rendering, "render_frame", count)
    render_frames("rooms_pinhole", "train", count=4, out=out)
    assert drawn == [(0, 2), (1, 0)]
    assert fingerprint("rooms_pinhole", "train", folder=out) == fingerprint(
        "rooms_pinhole", "train", folder=rendered
    )
    assert not journal.exists()


def test_two_processes_make_the_same_set(rendered: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    options = RenderOptions(workers=2)
    render_frames("rooms_pinhole", "train", count=4, out=out, options=options)
    assert fingerprint("rooms_pinhole", "train", folder=out) == fingerprint(
        "rooms_pinhole", "train", folder=rendered
    )


def test_a_folder_of_other_frames_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="holds frames of rooms_pinhole/train, not of rooms_fish"):
        render_frames("rooms_fisheye", "train", count=1, out=folder)
    with pytest.raises(UserError, match="holds frames of rooms_pinhole train, not of rooms_fish"):
        open_domain("rooms_fisheye", "train", folder=folder)


@pytest.mark.parametrize(
    ("count", "workers", "text"),
    [
        (0, 1, "count: 0 frames of rooms_pinhole val, allowed are 1 to 10000"),
        (10_001, 1, "count: 10001 frames of rooms_pinhole val, allowed are 1 to 10000"),
        (1, 0, "workers: 0, at least 1 is needed"),
    ],
)
def test_impossible_requests_are_refused(
    count: int, workers: int, text: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=text):
        render_frames(
            "rooms_pinhole",
            "val",
            count=count,
            out=tmp_path,
            options=RenderOptions(workers=workers),
        )


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/set: cannot be written to"):
        render_frames("rooms_pinhole", "val", count=1, out=tmp_path / "file" / "set")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("image/000000-0.jpg", None, r"image/000000-0.jpg: cannot be read \(.*No such file"),
        ("range/000000-0.png", b"no picture", "range/000000-0.png: checksum differs"),
        ("index.json", b"{", "index.json: not an index of rendered frames"),
        ("index.json", b'{"format": 1}', "index.json: not an index of rendered frames"),
    ],
)
def test_a_damaged_set_names_the_file(
    folder: Path, name: str, content: bytes | None, text: str
) -> None:
    path = folder / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=text) as caught:
        open_domain("rooms_pinhole", "train", folder=folder)[0]
    assert "\n" not in str(caught.value)


def test_a_picture_that_does_not_decode_is_named() -> None:
    with pytest.raises(UserError, match=r"a\.jpg: damaged picture"):
        decode_image(encode_image(torch.zeros(3, 8, 8))[:200], where="a.jpg")


def test_another_format_is_told(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "format": 99}))
    with pytest.raises(UserError, match="index format 99, this version reads 1"):
        open_domain("rooms_pinhole", "train", folder=folder)


def test_a_pack_reads_as_its_folder_does(folder: Path, tmp_path: Path) -> None:
    pack = tmp_path / "pack.zip"
    write_pack(folder, pack)
    first = pack.read_bytes()
    write_pack(folder, pack)
    assert pack.read_bytes() == first
    packed = open_domain("rooms_pinhole", "train", folder=pack)
    loose = open_domain("rooms_pinhole", "train", folder=folder)
    assert packed.fingerprint == loose.fingerprint
    assert packed.fingerprint == fingerprint("rooms_pinhole", "train", folder=pack)
    assert packed[2].image.equal(loose[2].image)
    pack.write_bytes(first[: len(first) // 2])
    for read in (open_domain, fingerprint):
        with pytest.raises(UserError, match=r"pack\.zip"):
            read("rooms_pinhole", "train", folder=pack)


def test_a_pack_without_a_file_names_it(folder: Path, tmp_path: Path) -> None:
    pack = tmp_path / "pack.zip"
    with zipfile.ZipFile(pack, "w") as archive:
        archive.write(folder / "index.json", "index.json")
    with pytest.raises(UserError, match=r"image/000000-0\.jpg: missing from the pack"):
        open_domain("rooms_pinhole", "train", folder=pack)[0]


def test_the_fingerprint_follows_the_frames(folder: Path) -> None:
    before = fingerprint("rooms_pinhole", "train", folder=folder)
    path = folder / "index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "recipe": {"torch": "another"}}))
    assert fingerprint("rooms_pinhole", "train", folder=folder) == before
    index["frames"][0]["range_sha256"] = "0"
    path.write_text(json.dumps(index))
    assert fingerprint("rooms_pinhole", "train", folder=folder) != before


@pytest.mark.parametrize(("name", "split"), SHIPPED)
def test_shipped_packs_are_whole(name: str, split: str) -> None:
    assert find_frames(name, split) == pack_path(name, split)
    data = open_domain(name, split)
    spec = DOMAINS[name].splits[split]
    assert len(data) == spec.shipped
    assert len({sample.key for sample in data}) == len(data)
    for sample in data:
        assert sample.image.shape == (3, *DOMAINS[name].size)
        assert sample.scene in spec.scenes
        inside, (near, far) = sample.camera.valid(), DOMAINS[name].distances
        assert not (sample.valid & ~inside).any()
        # Only the sky, and what lies beyond the domain's range, is unknown.
        assert sample.valid.equal(inside) or DOMAINS[name].style == "streets"
        assert float(sample.distance[sample.valid].min()) >= near
        assert float(sample.distance.max()) <= far
    assert data.fingerprint == fingerprint(name, split)


def test_shipped_packs_are_small() -> None:
    assert sum(pack_path(*split).stat().st_size for split in SHIPPED) < 8_000_000
