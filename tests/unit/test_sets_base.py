import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal

import h5py
import numpy as np
import pytest
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from PIL import Image

from dart.cameras import Camera, KannalaBrandt, Pinhole
from dart.data.sample import collate
from dart.data.sets import FORMATS, find_format, open_dataset
from dart.data.sets.base import (
    DepthDataset,
    Entry,
    read_hdf5,
    read_npy,
    read_png16,
    read_rgb,
    resolve_inside,
)
from dart.errors import UserError

SIZE = (24, 32)
PINHOLE = Pinhole(torch.tensor([20.0, 21.0, 16.5, 11.0]), SIZE)
FISHEYE = KannalaBrandt(
    torch.tensor([9.0, 9.0, 16.0, 12.0, 0.0, 0.0, 0.0, 0.0]), SIZE, max_polar=1.2
)
NORMAL = np.array([0.2, -0.3, 0.9])


class Folder(DepthDataset):
    """Pictures ``SCENE_NUMBER.png`` with millimetres in ``SCENE_NUMBER_depth.png``."""

    name: ClassVar[str] = "folder"
    splits = ("train", "test")
    min_distance = 0.5
    max_distance = 10.0
    camera: Camera = PINHOLE
    convention: Literal["z", "range"] = "z"

    def _list(self) -> Iterable[Entry]:
        for path in sorted(self.folder.glob("*_depth.png")):
            stem = path.name.removesuffix("_depth.png")
            yield Entry(stem, stem.split("_")[0], self.folder / f"{stem}.png", path)

    def _read_image(self, entry: Entry) -> UInt8[ndarray, "h w 3"]:
        return read_rgb(entry.image)

    def _read_depth(self, entry: Entry) -> Float[ndarray, "h w"]:
        assert entry.depth is not None
        if entry.depth.with_suffix(".npy").exists():
            return np.asarray(read_npy(entry.depth.with_suffix(".npy")))
        return (read_png16(entry.depth) / 1000).astype(np.float32)

    def _read_camera(self, entry: Entry) -> Camera:  # noqa: ARG002
        return self.camera

    def _read_mask(self, entry: Entry) -> Bool[ndarray, "h w"] | None:
        path = self.folder / f"{entry.key}_mask.npy"
        return np.asarray(read_npy(path)) if path.exists() else None

    def _crop(self, size: tuple[int, int]) -> Bool[ndarray, "h w"] | None:
        counted = np.zeros(size, dtype=bool)
        counted[4:-4, 5:-5] = True
        return counted


class Ranges(Folder):
    convention: Literal["z", "range"] = "range"
    camera = FISHEYE


def write_frame(folder: Path, stem: str, depth: ndarray, size: tuple[int, int] = SIZE) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{stem}.png")
    Image.fromarray(depth.astype(np.uint16)).save(folder / f"{stem}_depth.png")


def plane(camera: Camera, *, z: bool) -> ndarray:
    """Return millimetres of a tilted plane 2 m away: along the axis, or along the ray."""
    rays = camera.to(dtype=torch.float64).rays().numpy()
    distance = 2000 / (rays @ NORMAL).clip(0.1)
    return (distance * rays[..., 2] if z else distance).round()


def one(folder: Path, depth: ndarray | None = None) -> Folder:
    write_frame(folder, "a_0", np.full(SIZE, 2000) if depth is None else depth)
    return Folder(folder)


@pytest.mark.parametrize("kind", [Folder, Ranges])
def test_distances_of_a_tilted_plane_lie_on_it(tmp_path: Path, kind: type[Folder]) -> None:
    write_frame(tmp_path, "a_0", plane(kind.camera, z=kind.convention == "z"))
    sample = kind(tmp_path)[0]
    points = sample.camera.rays() * sample.distance[..., None]
    assert sample.valid.sum() > 300
    error = points.numpy()[sample.valid.numpy()] @ NORMAL - 2.0
    assert np.abs(error).max() < 1e-3  # half a millimetre of the file, along the ray
    assert torch.equal(sample.valid, sample.distance > 0)


def test_a_plane_read_in_the_wrong_convention_is_no_plane(tmp_path: Path) -> None:
    write_frame(tmp_path, "a_0", plane(PINHOLE, z=False))
    sample = Folder(tmp_path)[0]
    points = (sample.camera.rays() * sample.distance[..., None]).numpy()[sample.valid.numpy()]
    assert np.abs(points @ NORMAL - 2.0).max() > 0.3


def test_pixels_that_do_not_count_are_zero_and_invalid(tmp_path: Path) -> None:
    depth = np.full(SIZE, 2.0, dtype=np.float32)
    depth[0, :5] = [np.nan, np.inf, -3.0, 0.0, -np.inf]
    depth[1, :2] = [0.4, 10.5]
    depth[2, :2] = [0.5, 10.0]
    data = one(tmp_path)
    np.save(tmp_path / "a_0_depth.npy", depth)
    sample = data[0]
    expected = np.ones(SIZE, dtype=bool)
    expected[0, :5] = expected[1, :2] = False
    assert np.array_equal(sample.valid.numpy(), expected)
    assert torch.isfinite(sample.distance).all()
    assert not sample.distance[~sample.valid].any()
    mask = np.ones(SIZE, dtype=bool)
    mask[10:, :] = expected[10:, :] = False
    np.save(tmp_path / "a_0_mask.npy", mask)
    assert np.array_equal(data[0].valid.numpy(), expected)
    expected[:4] = expected[-4:] = expected[:, :5] = expected[:, -5:] = False
    assert np.array_equal(Folder(tmp_path, evaluation=True)[0].valid.numpy(), expected)


def test_pixels_outside_the_image_circle_do_not_count(tmp_path: Path) -> None:
    write_frame(tmp_path, "a_0", np.full(SIZE, 2000))
    sample = Ranges(tmp_path)[0]
    v, u = np.indices(SIZE) + 0.5
    assert np.array_equal(sample.valid.numpy(), np.hypot(u - 16, v - 12) < 9 * 1.2)


def test_keys_scenes_slices_and_splits(tmp_path: Path) -> None:
    for stem in ("a_0", "a_1", "b_0"):
        write_frame(tmp_path, stem, np.full(SIZE, 2000))
    data = Folder(tmp_path, split="train")
    assert len(data) == 3
    assert data.scenes == ("a", "b")
    assert [sample.key for sample in data[1:]] == ["a_1", "b_0"]
    assert [sample.scene for sample in data[:]] == [0, 0, 1]
    assert data[-1].key == "b_0"
    with pytest.raises(IndexError):
        data[3]
    with pytest.raises(UserError, match=r"no split 'tran', allowed are train, test; did you mean"):
        Folder(tmp_path, split="tran")


def test_raw_frames_are_what_the_files_say(tmp_path: Path) -> None:
    raw = one(tmp_path, np.full(SIZE, 60_000)).read_raw(0)
    assert raw.depth is not None
    assert np.array_equal(raw.depth, np.full(SIZE, 60, dtype=np.float32))
    assert np.array_equal(raw.image, np.array(Image.open(tmp_path / "a_0.png")))
    assert raw.convention == "z"


@pytest.mark.parametrize(
    ("depth", "told"),
    [
        (np.zeros(SIZE), "no valid depth (100% zero)"),
        (np.full(SIZE, 60_000), "the rest 60 to 60 m); counted are 0.5 to 10 m"),
    ],
)
def test_a_frame_without_valid_depth_is_an_error(tmp_path: Path, depth: ndarray, told: str) -> None:
    with pytest.raises(UserError) as error:
        one(tmp_path, depth)[0]
    assert str(tmp_path / "a_0_depth.png") in str(error.value)
    assert told in str(error.value)


def test_a_frame_of_nan_and_negative_depth_says_so(tmp_path: Path) -> None:
    depth = np.full(SIZE, -1.0, dtype=np.float32)
    depth[:12] = np.nan
    data = one(tmp_path)
    np.save(tmp_path / "a_0_depth.npy", depth)
    with pytest.raises(UserError, match=r"no valid depth \(50% NaN or infinite, 50% negative\)"):
        data[0]


@pytest.mark.parametrize("name", ["a_0.png", "a_0_depth.png"])
@pytest.mark.parametrize("keep", [0, 20, 0.5, 0.98])
def test_a_truncated_picture_is_named_in_one_line_and_nothing_else_is_said(
    tmp_path: Path, name: str, keep: float, capfd: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(1)
    data = one(tmp_path, generator.integers(500, 9000, SIZE))
    content = (tmp_path / name).read_bytes()
    size = keep if isinstance(keep, int) else int(keep * len(content))
    (tmp_path / name).write_bytes(content[:size])
    with pytest.raises(UserError) as error:
        data[0]
    assert str(error.value).startswith(f"{tmp_path / name}: damaged or not a picture")
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_flipped_bit_in_a_depth_picture_is_found(tmp_path: Path) -> None:
    data = one(tmp_path, np.random.default_rng(1).integers(500, 9000, SIZE))
    content = bytearray((tmp_path / "a_0_depth.png").read_bytes())
    content[len(content) // 2] ^= 16
    (tmp_path / "a_0_depth.png").write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"a_0_depth.png: damaged"):
        data[0]


def test_depth_of_another_size_and_a_camera_of_another_size_are_refused(tmp_path: Path) -> None:
    write_frame(tmp_path, "a_0", np.full((12, 32), 2000))
    with pytest.raises(UserError, match=r"a_0_depth.png: depth of 32 x 12 pixels.*has 32 x 24"):
        Folder(tmp_path)[0]
    write_frame(tmp_path, "a_0", np.full((48, 64), 2000), size=(48, 64))
    with pytest.raises(UserError, match=r"a_0.png: 64 x 48 pixels, but its camera is of 32 x 24"):
        Folder(tmp_path)[0]


def test_pictures_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    data = one(tmp_path)
    Image.fromarray(np.full(SIZE, 7, dtype=np.uint8)).save(tmp_path / "a_0_depth.png")
    with pytest.raises(UserError, match=r"a_0_depth.png: pixels of kind L"):
        data[0]
    Image.fromarray(np.full(SIZE, 700, dtype=np.uint16)).save(tmp_path / "a_0.png")
    with pytest.raises(UserError, match=r"a_0.png: pixels of kind I;16"):
        data[0]
    Image.fromarray(np.full(SIZE, 7, dtype=np.uint8)).save(tmp_path / "grey.png")
    assert np.array_equal(read_rgb(tmp_path / "grey.png"), np.full((*SIZE, 3), 7))


def test_missing_files_are_counted_named_and_left_out_only_when_asked(tmp_path: Path) -> None:
    for stem in ("a_0", "a_1", "b_0"):
        write_frame(tmp_path, stem, np.full(SIZE, 2000))
    (tmp_path / "a_1.png").unlink()
    with pytest.raises(UserError, match=r"files of 1 of 3 frames are missing: .*a_1.png; on_mis"):
        Folder(tmp_path)
    data = Folder(tmp_path, on_missing="skip")
    assert data.skipped == ("a_1",)
    assert data.missing == {"a_1": tmp_path / "a_1.png"}
    assert [entry.key for entry in data.entries] == ["a_0", "b_0"]
    for stem in ("a_0", "b_0"):
        (tmp_path / f"{stem}.png").unlink()
    with pytest.raises(UserError, match="files of 3 of 3 frames are missing"):
        Folder(tmp_path, on_missing="skip")


def test_empty_missing_and_doubled_listings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no frame of format folder"):
        Folder(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        Folder(tmp_path / "nowhere")

    class Twice(Folder):
        def _list(self) -> Iterable[Entry]:
            return [*super()._list()] * 2

    one(tmp_path)
    with pytest.raises(UserError, match="two frames are called 'a_0'"):
        Twice(tmp_path)


def test_no_path_leaves_the_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "x.png").write_bytes(b"")
    (inside / "link.png").symlink_to(outside / "x.png")
    (inside / "folder").symlink_to(outside)
    for path in ("../outside/x.png", str(outside / "x.png"), "link.png", "folder/x.png"):
        with pytest.raises(UserError, match="leaves the folder of the data set"):
            resolve_inside(inside, path, where="list.txt:3")
    assert resolve_inside(inside, "a/../b.png") == inside / "a/../b.png"
    one(inside)
    (inside / "a_0.png").rename(outside / "a_0.png")
    (inside / "a_0.png").symlink_to(outside / "a_0.png")
    with pytest.raises(UserError, match=r"a_0.png: leaves the folder"):
        Folder(inside)


def test_a_folder_that_is_itself_a_link_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    one(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert len(Folder(tmp_path / "link")) == 1


def test_worker_processes_read_the_same_samples(tmp_path: Path) -> None:
    for stem in ("a_0", "a_1", "b_0", "b_1"):
        write_frame(tmp_path, stem, plane(PINHOLE, z=True))
    data = Folder(tmp_path)
    here = collate([data[index] for index in range(4)])
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=2, collate_fn=collate)  # pyright: ignore[reportArgumentType]
    batches = list(loader)
    assert torch.equal(torch.cat([batch.distance for batch in batches]), here.distance)
    assert torch.equal(torch.cat([batch.image for batch in batches]), here.image)
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(again[3].distance, data[3].distance)


def test_formats_and_options_are_checked_by_name(tmp_path: Path) -> None:
    for name in FORMATS:
        assert find_format(name).name == name
    with pytest.raises(UserError, match=r"unknown format 'home'.*did you mean 'homes'"):
        open_dataset(tmp_path, "home")
    with pytest.raises(UserError, match=r"no option 'evaluate'.*did you mean 'evaluation'"):
        open_dataset(tmp_path, "homes", evaluate=True)
    with pytest.raises(UserError, match="on_missing is 'ignore', allowed are 'error' and 'skip'"):
        open_dataset(tmp_path, "homes", on_missing="ignore")


def test_hdf5_names_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["depth"] = np.arange(6.0).reshape(3, 2)
    assert np.array_equal(read_hdf5(path, "depth", 1), [2, 3])
    with pytest.raises(UserError, match="no array 'depths', it has depth; did you mean 'depth'"):
        read_hdf5(path, "depths")
    with pytest.raises(UserError, match="depth has 3 items, none numbered 3"):
        read_hdf5(path, "depth", 3)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(UserError, match=r"x.h5: not a whole HDF5 file"):
        read_hdf5(path, "depth")
    with pytest.raises(UserError, match=r"y\.h5: no such file"):
        read_hdf5(tmp_path / "y.h5", "depth")
