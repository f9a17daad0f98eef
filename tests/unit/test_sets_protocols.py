"""What each published format has of its own: crops, splits, options, oddities of its files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dart.data.sets import open_dataset
from dart.data.sets.kitti import KittiEigen
from dart.data.sets.kitti360 import Kitti360Fisheye
from dart.errors import UserError
from tests.helpers.set_files import (
    Pixels,
    pixel_grid,
    unit,
    write_npy,
    write_picture,
    write_png16,
    write_text,
)
from tests.helpers.set_fisheyes import kitti360_fisheye, woodscape_calibration
from tests.helpers.set_writers import WRITERS, kitti_eigen, nyuv2_bts, nyuv2_labelled


def bounds(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """Return the first and last row, then column, of the True pixels."""
    rows, columns = mask.any(1).nonzero().ravel(), mask.any(0).nonzero().ravel()
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def fill(published_depth: Path, size: tuple[int, int], units: int) -> None:
    """Make every pixel of a depth picture valid, so that only the crop shows."""
    write_png16(published_depth, np.full(size, units))


@pytest.mark.parametrize("split", ["train", "test"])
def test_nyu_counts_inside_eigens_crop(split: str, tmp_path: Path) -> None:
    nyuv2_bts(tmp_path)
    for path in tmp_path.glob("**/sync_depth_*.png"):
        fill(path, (480, 640), 2000)
    whole = open_dataset(tmp_path, "nyuv2_bts", split=split)[0]
    cropped = open_dataset(tmp_path, "nyuv2_bts", split=split, evaluation=True)[0]
    assert bounds(whole.valid) == (0, 479, 0, 639)
    assert bounds(cropped.valid) == (45, 470, 41, 600)
    assert cropped.valid.sum() == 426 * 560


@pytest.mark.parametrize(
    ("crop", "wanted"), [("garg", (143, 348, 43, 1171)), ("eigen", (117, 320, 43, 1171))]
)
def test_kitti_counts_inside_the_chosen_crop(
    crop: str, wanted: tuple[int, int, int, int], tmp_path: Path
) -> None:
    published = kitti_eigen(tmp_path)
    fill(published.depth_file, (375, 1242), 2560)
    options = {"split": "test", "crop": crop}
    assert bounds(open_dataset(tmp_path, "kitti_eigen", **options)[0].valid) == (0, 351, 0, 1215)
    cropped = open_dataset(tmp_path, "kitti_eigen", evaluation=True, **options)[0]
    assert bounds(cropped.valid) == wanted
    assert bool(cropped.valid.all(1).any()) is False


def test_kitti_without_kb_crop_is_the_whole_frame(tmp_path: Path) -> None:
    kitti_eigen(tmp_path)
    options = {"split": "test", "kb_crop": False}
    whole = open_dataset(tmp_path, "kitti_eigen", **options)[0]
    small = open_dataset(tmp_path, "kitti_eigen", split="test")[0]
    assert whole.camera.size == (375, 1242)
    assert torch.equal(whole.distance[23:, 13:1229], small.distance)
    on_full = open_dataset(tmp_path, "kitti_eigen", evaluation=True, **options)
    on_full_crop = on_full._crop((375, 1242))
    assert on_full_crop is not None
    assert bounds(torch.from_numpy(on_full_crop)) == (153, 370, 44, 1196)


def test_kitti_names_frames_without_depth(tmp_path: Path) -> None:
    kitti_eigen(tmp_path)
    dataset = KittiEigen(tmp_path, split="test")
    assert len(dataset) == 1
    assert [name.rsplit("/", 1)[-1] for name in dataset.without_depth] == ["0000000004.png"]


def test_kitti_scenes_are_drives(tmp_path: Path) -> None:
    kitti_eigen(tmp_path)
    dataset = open_dataset(tmp_path, "kitti_eigen")
    assert dataset.scenes == ("2011_09_26_drive_0009_sync", "2011_09_26_drive_0002_sync")


def test_kitti_without_calibration_names_it(tmp_path: Path) -> None:
    kitti_eigen(tmp_path)
    (tmp_path / "2011_09_26/calib_cam_to_cam.txt").unlink()
    with pytest.raises(UserError, match=r"2011_09_26/calib_cam_to_cam\.txt"):
        open_dataset(tmp_path, "kitti_eigen", split="test")[0]


def test_bts_list_of_another_shape_is_refused(tmp_path: Path) -> None:
    nyuv2_bts(tmp_path)
    write_text(tmp_path / "nyudepthv2_test_files_with_gt.txt", "bathroom/rgb_00045.jpg")
    with pytest.raises(UserError, match=r"test_files_with_gt\.txt: 'bathroom/rgb_00045\.jpg'"):
        open_dataset(tmp_path, "nyuv2_bts", split="test")


def test_bts_list_may_not_leave_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    nyuv2_bts(root)
    line = "../../../../outside/rgb.jpg ../../../../outside/depth.png 518.8579"
    write_text(root / "nyudepthv2_test_files_with_gt.txt", line)
    with pytest.raises(UserError, match="leaves the folder"):
        open_dataset(root, "nyuv2_bts", split="test")


@pytest.mark.parametrize(
    ("split", "key"), [("train", "office_0012/0002"), ("test", "kitchen_0004/0001")]
)
def test_nyu_splits_count_from_one(split: str, key: str, tmp_path: Path) -> None:
    nyuv2_labelled(tmp_path)
    dataset = open_dataset(tmp_path, "nyuv2_labelled", split=split)
    assert [entry.key for entry in dataset.entries] == [key]


def test_nyu_filled_depth_is_another_array(tmp_path: Path) -> None:
    nyuv2_labelled(tmp_path)
    sample = open_dataset(tmp_path, "nyuv2_labelled", depth="filled")[0]
    z = sample.distance * sample.camera.rays()[..., 2]
    assert sample.valid.all()
    torch.testing.assert_close(z, torch.full_like(z, 2.0))


def test_kitti360_splits_by_drive_and_every_tenth_frame(tmp_path: Path) -> None:
    kitti360_fisheye(tmp_path)
    for split, drive, frame in (("val", "0000", "10"), ("train", "0002", "05")):
        (entry,) = open_dataset(tmp_path, "kitti360_fisheye", split=split).entries
        assert entry.scene == f"2013_05_28_drive_{drive}_sync"
        assert entry.image.stem.endswith(frame)


def test_kitti360_reads_a_list(tmp_path: Path) -> None:
    kitti360_fisheye(tmp_path)
    folder = "data_2d_raw/2013_05_28_drive_0000_sync/image_02"
    pairs = (
        f"{folder}/data_rgb/0000000011.png {folder}/proj_depth/0000000011.png",
        f"{folder}/data_rgb/0000000010.png None",
    )
    write_text(tmp_path / "kitti360_val_fisheye.txt", *pairs)
    dataset = Kitti360Fisheye(tmp_path, split="val")
    assert [entry.key for entry in dataset.entries] == [f"{folder}/data_rgb/0000000011"]
    assert dataset.without_depth == [f"{folder}/data_rgb/0000000010.png"]


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_kitti360_signed_range_is_range_behind_the_camera(ending: str, tmp_path: Path) -> None:
    published = kitti360_fisheye(tmp_path)
    behind = published.rays[..., 2] < 0
    distance = np.where(published.stored > 0, published.stored, 0).astype(np.float32)
    distance[behind & (distance == 0)] = 5.0
    signed = np.where(behind, -distance, distance)
    signed[70, 70] = -3.0
    for path in tmp_path.glob("data_2d_raw/*/image_02/proj_depth/*.png"):
        target = path.parent.parent / f"range/{path.stem}.{ending}"
        write_npy(target, signed)
        if ending == "npz":
            np.savez(target, depth=signed)
    pattern = "data_2d_raw/{drive}/{camera}/range/{frame}." + ending
    sample = open_dataset(tmp_path, "kitti360_fisheye", depth=pattern)[0]
    wanted = torch.from_numpy(np.where(np.isfinite(published.rays[..., 2]), distance, 0))
    wanted[70, 70] = 0
    assert behind.any()
    assert torch.equal(sample.distance, wanted)
    assert not sample.valid[70, 70]


def test_kitti360_vehicle_and_circle_do_not_count(tmp_path: Path) -> None:
    kitti360_fisheye(tmp_path)
    vehicle = np.zeros((140, 140), dtype=bool)
    vehicle[120:] = True
    write_npy(tmp_path / "masks/image_02.npy", vehicle)
    for path in tmp_path.glob("data_2d_raw/*/image_02/proj_depth/*.png"):
        fill(path, (140, 140), 512)
    options = {"mask": "masks/{camera}.npy"}
    seen = open_dataset(tmp_path, "kitti360_fisheye")[0].valid
    masked = open_dataset(tmp_path, "kitti360_fisheye", **options)[0].valid
    assert torch.equal(masked, seen & ~torch.from_numpy(vehicle))
    circle = open_dataset(tmp_path, "kitti360_fisheye", evaluation=True)[0].valid
    u, v = pixel_grid((140, 140))
    inside = torch.from_numpy((u + 0.5 - 70) ** 2 + (v + 0.5 - 70) ** 2 <= 70**2)
    assert torch.equal(circle, seen & inside)
    assert circle.sum() < seen.sum()


def test_woodscape_has_cameras_and_no_depth(tmp_path: Path) -> None:
    size = (96, 128)
    for view in ("FV", "MVL"):
        write_picture(tmp_path / f"rgb_images/00003_{view}.png", size)
        content = str(woodscape_calibration(size)).replace("'", '"')
        write_text(tmp_path / f"calibration_data/00003_{view}.json", content)
    write_picture(tmp_path / "rgb_images/00003_BEV.png", size)
    dataset = open_dataset(tmp_path, "woodscape")
    assert [entry.key for entry in dataset.entries] == ["00003_FV", "00003_MVL"]
    assert dataset.scenes == ("00003",)
    raw = dataset.read_raw(0)
    assert raw.depth is None
    assert raw.camera.size == size
    with pytest.raises(UserError, match="no depth"):
        dataset[0]


def test_synwoodscape_counts_up_to_the_farthest(tmp_path: Path) -> None:
    published = WRITERS["synwoodscape"][1](tmp_path)
    near = open_dataset(tmp_path, "synwoodscape", farthest=5.0)[0]
    known = (published.stored > 0) & (published.stored <= 5.0)
    assert torch.equal(near.valid, torch.from_numpy(known))


def test_diode_caps_differ_by_place(tmp_path: Path) -> None:
    WRITERS["diode"][1](tmp_path)
    size = (768, 1024)
    for place, name in (("indoors", "scene_1"), ("outdoor", "scene_2")):
        folder = tmp_path / f"train/{place}/{name}/scan_1"
        write_picture(folder / "a.png", size)
        depth = np.full(size, 3.0, dtype=np.float32)
        depth[:100], depth[100:200], depth[200:300] = 0.5, 30.0, 90.0
        write_npy(folder / "a_depth.npy", depth)
        write_npy(folder / "a_depth_mask.npy", np.ones(size))
    dataset = open_dataset(tmp_path, "diode", split="train")
    indoors, outdoor = dataset[0].valid, dataset[1].valid
    assert dataset.scenes == ("indoors/scene_1", "outdoor/scene_2")
    assert not indoors[:300].any()
    assert indoors[300:].all()
    assert outdoor[100:200].all()
    assert not outdoor[:100].any()
    assert not outdoor[200:300].any()
    (only,) = open_dataset(tmp_path, "diode", split="val", place="indoors").entries
    assert only.scene == "indoors/scene_00019"


def hypersim_table(root: Path, matrix: Pixels) -> None:
    names = [f"M_cam_from_uv_{i}{j}" for i in range(3) for j in range(3)]
    write_text(
        root / "metadata_camera_parameters.csv",
        ",".join(["scene_name", *names]),
        ",".join(["ai_001_001", *(repr(float(value)) for value in matrix.ravel())]),
    )


def test_hypersim_takes_a_scenes_own_shifted_and_tilted_lens(tmp_path: Path) -> None:
    published = WRITERS["hypersim"][1](tmp_path)
    height, width = published.stored.shape
    focal, shift, tilt = 900.0, (30.0, -20.0), 0.1
    upright = np.array(
        [
            [width / 2 / focal, 0, -shift[0] / focal],
            [0, height / 2 / focal, shift[1] / focal],
            [0, 0, -1],
        ]
    )
    cosine, sine = np.cos(tilt), np.sin(tilt)
    rotation = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    hypersim_table(tmp_path, rotation @ upright)
    camera = open_dataset(tmp_path, "hypersim")[0].camera
    wanted = [focal, focal, width / 2 + shift[0], height / 2 + shift[1]]
    torch.testing.assert_close(camera.params, torch.tensor(wanted), rtol=1e-6, atol=1e-3)
    # The published recipe for rays: u to the right and v up, -1 to 1 over the pixels' centres.
    u, v = pixel_grid((height, width))
    uv = np.stack([2 * (u + 0.5) / width - 1, 1 - 2 * (v + 0.5) / height, np.ones_like(u)], -1)
    x, y, z = np.moveaxis(uv @ upright.T, -1, 0)
    by_hand = unit(x, -y, -z)
    np.testing.assert_allclose(camera.rays().numpy(), by_hand, atol=2e-6)


def test_hypersim_refuses_skewed_axes(tmp_path: Path) -> None:
    WRITERS["hypersim"][1](tmp_path)
    hypersim_table(tmp_path, np.array([[0.57, 0.05, 0], [0, 0.43, 0], [0, 0, -1]]))
    with pytest.raises(UserError, match="ai_001_001: its axes are not square"):
        open_dataset(tmp_path, "hypersim")


def test_hypersim_splits_by_its_table(tmp_path: Path) -> None:
    WRITERS["hypersim"][1](tmp_path)
    columns = "scene_name,camera_name,frame_id,included_in_public_release,exclude_reason"
    write_text(
        tmp_path / "metadata_images_split_scene_v1.csv",
        f"{columns},split_partition_name",
        "ai_001_001,cam_00,0,True,,train",
        "ai_001_001,cam_00,1,True,,val",
    )
    assert len(open_dataset(tmp_path, "hypersim", split="train")) == 1
    with pytest.raises(UserError, match="no frame"):
        open_dataset(tmp_path, "hypersim", split="test")


def test_tum_pairs_the_nearest_within_the_tolerance(tmp_path: Path) -> None:
    published = WRITERS["tum_rgbd"][1](tmp_path)
    wide = open_dataset(tmp_path, "tum_rgbd", tolerance=0.06)
    # The third picture lies 0.051 s from the first depth, which the first picture needs.
    assert tuple(entry.key for entry in wide.entries) == published.listed
    assert len(open_dataset(tmp_path, "tum_rgbd", tolerance=0.016)) == 1


@pytest.mark.parametrize(
    ("folder", "wanted"),
    [
        ("rgbd_dataset_freiburg2_desk", (520.908620, 521.007327, 325.641442, 250.201764)),
        ("rgbd_dataset_freiburg3_cabinet", (535.4, 539.2, 320.6, 248.1)),
    ],
)
def test_tum_camera_follows_the_folders_name(
    folder: str, wanted: tuple[float, ...], tmp_path: Path
) -> None:
    WRITERS["tum_rgbd"][1](tmp_path)
    (tmp_path / "rgbd_dataset_freiburg1_xyz").rename(tmp_path / folder)
    sample = open_dataset(tmp_path / folder, "tum_rgbd")[0]
    torch.testing.assert_close(sample.camera.params[:4], torch.tensor(wanted))


def test_tum_folder_without_a_camera_is_refused(tmp_path: Path) -> None:
    WRITERS["tum_rgbd"][1](tmp_path)
    (tmp_path / "rgbd_dataset_freiburg1_xyz").rename(tmp_path / "mine")
    with pytest.raises(UserError, match="'mine' names no camera"):
        open_dataset(tmp_path, "tum_rgbd")[0]


def test_scannetpp_split_names_the_missing_scene(tmp_path: Path) -> None:
    WRITERS["scannetpp_dslr"][1](tmp_path)
    assert len(open_dataset(tmp_path, "scannetpp_dslr", split="train")) == 1
    with pytest.raises(UserError, match="not_downloaded"):
        open_dataset(tmp_path, "scannetpp_dslr", split="val")


def test_vkitti_variations_are_one_scene(tmp_path: Path) -> None:
    WRITERS["vkitti2"][1](tmp_path)
    clone, fog = tmp_path / "Scene01/clone", tmp_path / "Scene01/fog"
    for path in list(clone.glob("**/*.*")):
        target = fog / path.relative_to(clone)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    dataset = open_dataset(tmp_path, "vkitti2")
    assert len(dataset) == 2
    assert dataset.scenes == ("Scene01",)
    write_text(fog / "intrinsic.txt", "frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]", "7 0 1 2 3")
    with pytest.raises(UserError, match=r"fog/intrinsic\.txt: '7 0 1 2 3'"):
        open_dataset(tmp_path, "vkitti2")


def test_matterport_picture_must_be_a_full_sphere(tmp_path: Path) -> None:
    published = WRITERS["matterport_erp"][1](tmp_path)
    with Image.open(published.image_file) as picture:
        picture.crop((0, 0, 200, 128)).save(published.image_file)
    with pytest.raises(UserError, match="200 x 128 is no full sphere"):
        open_dataset(tmp_path, "matterport_erp")[0]


def test_calibration_of_another_size_is_refused(tmp_path: Path) -> None:
    published = WRITERS["ibims1"][1](tmp_path)
    write_picture(published.image_file, (240, 320))
    with pytest.raises(UserError, match=r"corridor_01\.png: 320 x 240 pixels"):
        open_dataset(tmp_path, "ibims1")[0]


def test_own_and_common_options_are_accepted_and_others_named(tmp_path: Path) -> None:
    kitti_eigen(tmp_path)
    with pytest.raises(UserError, match=r"kb_crops.*did you mean 'kb_crop'"):
        open_dataset(tmp_path, "kitti_eigen", kb_crops=False)
    dataset = open_dataset(tmp_path, "kitti_eigen", split="test", on_missing="skip", crop="eigen")
    assert len(dataset) == 1


@pytest.mark.parametrize(
    ("case", "option", "value"),
    [
        ("kitti_eigen", "crop", "gorg"),
        ("nyuv2_labelled", "depth", "row"),
        ("diode", "place", "indoor"),
    ],
)
def test_unknown_choices_are_named(case: str, option: str, value: str, tmp_path: Path) -> None:
    WRITERS[case][1](tmp_path)
    with pytest.raises(UserError, match=rf"{option} is '{value}'.*did you mean"):
        open_dataset(tmp_path, case, **{option: value})
