import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import OpenEXR
import pytest
from numpy import ndarray
from PIL import Image

from dart.data.sets import open_dataset
from dart.data.sets.table import Row, read_table
from dart.errors import UserError

SIZE = (20, 30)
CAMERA = {
    "model": "pinhole",
    "params": {"fx": 20.0, "fy": 20.0, "cx": 15.0, "cy": 10.0},
    "width": 30,
    "height": 20,
}
METRES = np.random.default_rng(0).integers(500, 9000, SIZE) / 1000
METRES[3, 4] = 0


def write_pfm(path: Path, values: ndarray, order: str) -> None:
    scale = "-1.0" if order == "<" else "1.0"
    head = f"Pf\n{values.shape[1]} {values.shape[0]}\n{scale}\n".encode()
    path.write_bytes(head + values[::-1].astype(f"{order}f4").tobytes())


def write_hdf5(path: Path, values: ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["maps"] = np.stack([values * 0, values]).astype(np.float32)


def write_exr(path: Path, values: ndarray) -> None:
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, {"Z": values.astype(np.float32)}) as file:
        file.write(str(path))


KINDS: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "d.png": (
        lambda path: Image.fromarray((METRES * 1000).round().astype(np.uint16)).save(path),
        {"depth_scale": 1000},
    ),
    "d.npy": (lambda path: np.save(path, METRES.astype(np.float32)), {}),
    "d3.npy": (lambda path: np.save(path, METRES.astype(np.float64)[..., None]), {}),
    "d.npz": (
        lambda path: np.savez(path, other=METRES, depth=METRES * 100),
        {"depth_key": "depth", "depth_scale": 100},
    ),
    "d.exr": (lambda path: write_exr(path, METRES), {}),
    "d.h5": (lambda path: write_hdf5(path, METRES), {"depth_key": "maps", "depth_index": 1}),
    "d.pfm": (lambda path: write_pfm(path, METRES, "<"), {}),
    "big.pfm": (lambda path: write_pfm(path, METRES, ">"), {}),
}


def write_files(folder: Path, depth: str = "d.png") -> dict[str, Any]:
    """Write one frame's files and return its row."""
    write, options = KINDS[depth]
    write(folder / depth)
    pixels = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "i.png")
    (folder / "c.json").write_text(json.dumps(CAMERA))
    return {"image": "i.png", "depth": depth, "camera": "c.json", "convention": "range", **options}


def write_manifest(folder: Path, rows: list[dict[str, Any]], name: str = "list.json") -> Path:
    path = folder / name
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, sorted({column for row in rows for column in row}))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("name", ["list.csv", "list.json", "list.jsonl"])
@pytest.mark.parametrize("depth", KINDS)
def test_every_kind_of_file_gives_the_same_metres(tmp_path: Path, depth: str, name: str) -> None:
    data = open_dataset(write_manifest(tmp_path, [write_files(tmp_path, depth)], name), "manifest")
    sample = data[0]
    np.testing.assert_allclose(sample.distance.numpy(), METRES, rtol=1e-6)
    assert np.array_equal(sample.valid.numpy(), METRES > 0)
    assert sample.camera.params.tolist() == [20.0, 20.0, 15.0, 10.0]
    assert sample.key == "i"


def test_convention_invalid_values_mask_crop_and_limits(tmp_path: Path) -> None:
    row = write_files(tmp_path)
    units = (METRES * 1000).round().astype(np.uint16)
    units[0, :3] = [65535, 1234, 777]
    Image.fromarray(units).save(tmp_path / "d.png")
    mask = np.full(SIZE, 255, dtype=np.uint8)
    mask[-5:] = 0
    Image.fromarray(mask).save(tmp_path / "m.png")
    row |= {"convention": "z", "invalid": "65535; 1234", "mask": "m.png", "crop": "2 3 12 20"}
    path = write_manifest(tmp_path, [row], "list.csv")
    expected = units > 0
    expected[0, :2] = expected[-5:] = False
    sample = open_dataset(path, "manifest")[0]
    assert np.array_equal(sample.valid.numpy(), expected)
    v, u = np.indices(SIZE) + 0.5
    distance = units / 1000 * np.sqrt(((u - 15) / 20) ** 2 + ((v - 10) / 20) ** 2 + 1)
    np.testing.assert_allclose(sample.distance.numpy(), distance * expected, rtol=1e-6)
    cropped = np.zeros(SIZE, dtype=bool)
    cropped[2:14, 3:23] = True
    sample = open_dataset(path, "manifest", evaluation=True)[0]
    assert np.array_equal(sample.valid.numpy(), expected & cropped)
    sample = open_dataset(path, "manifest", limits=(1.0, 5.0))[0]
    assert np.array_equal(sample.valid.numpy(), expected & (units >= 1000) & (units <= 5000))


def test_scenes_splits_keys_and_defaults(tmp_path: Path) -> None:
    row = write_files(tmp_path)
    (tmp_path / "hall").mkdir()
    (tmp_path / "hall" / "j.png").write_bytes((tmp_path / "i.png").read_bytes())
    common = {name: row.pop(name) for name in ("camera", "convention", "depth_scale")}
    rows = [
        row | {"split": "train", "scene": "attic"},
        row | {"split": "test", "key": "second"},
        row | {"split": "test", "image": "hall/j.png"},
    ]
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"defaults": common, "frames": rows}))
    data = open_dataset(path, "manifest")
    assert data.splits == ("test", "train")
    assert data.scenes == ("attic", ".", "hall")
    data = open_dataset(path, "manifest", split="test")
    assert [entry.key for entry in data.entries] == ["second", "hall/j"]
    csv_path = write_manifest(tmp_path, rows, "list.csv")
    assert len(open_dataset(csv_path, "manifest", defaults=common)[:]) == 3
    with pytest.raises(UserError, match="no split 'val', allowed are test, train"):
        open_dataset(path, "manifest", split="val")


def test_a_camera_may_stand_in_the_row(tmp_path: Path) -> None:
    row = write_files(tmp_path)
    del row["camera"]
    inline = {"camera_model": "kannala_brandt", "camera_params": "9 9 15 10 0.1 0 0 0"}
    path = write_manifest(tmp_path, [row | inline], "list.csv")
    camera = open_dataset(path, "manifest").read_raw(0).camera
    assert camera.model == "kannala_brandt"
    assert camera.size == SIZE
    nested = write_manifest(tmp_path, [row | {"camera": CAMERA}])
    assert open_dataset(nested, "manifest").read_raw(0).camera.model == "pinhole"
    both = write_manifest(tmp_path, [row | inline | {"camera": CAMERA}])
    with pytest.raises(UserError, match="a frame needs 'camera'"):
        open_dataset(both, "manifest")
    wrong = write_manifest(tmp_path, [row | {"camera": CAMERA | {"width": 60, "height": 40}}])
    with pytest.raises(UserError, match=r"i\.png: 30 x 20 pixels, but its camera is of 60 x 40"):
        open_dataset(wrong, "manifest")[0]


def without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "no convention": (lambda row: without(row, "convention"), "'convention' is missing: 'z'"),
    "another": (lambda row: row | {"convention": "zed"}, "convention: Input should be 'z' or"),
    "no scale": (lambda row: without(row, "depth_scale"), "'depth_scale' is missing"),
    "zero scale": (lambda row: row | {"depth_scale": 0}, "depth_scale: Input should be greater"),
    "no camera": (lambda row: without(row, "camera"), "a frame needs 'camera'"),
    "no image": (lambda row: without(row, "image"), "image: Field required"),
    "column": (lambda row: row | {"dept": 1}, "unknown column 'dept'"),
    "kind": (lambda row: row | {"depth": "d.tif"}, "depth 'd.tif' is of an unknown kind"),
    "no key": (lambda row: row | {"depth": "d.h5"}, "'depth_key' is missing"),
    "crop": (lambda row: row | {"crop": "1 2 3"}, "crop: "),
    "outside": (lambda row: row | {"image": "../i.png"}, "../i.png: leaves the folder"),
    "absolute": (lambda row: row | {"image": "/i.png"}, "/i.png: leaves the folder"),
    "missing": (lambda row: row | {"image": "j.png"}, "files of 1 of 1 frames are missing"),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("kind", ["list.csv", "list.json"])
def test_a_mistake_is_one_line_that_names_the_row(tmp_path: Path, name: str, kind: str) -> None:
    change, told = MISTAKES[name]
    path = write_manifest(tmp_path, [change(write_files(tmp_path))], kind)
    with pytest.raises(UserError) as error:
        open_dataset(path, "manifest")
    assert told in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    if name not in ("missing",):
        row = ":2" if kind == "list.csv" else ": frames[0]"
        assert str(error.value).startswith(f"{path}{row}: ")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[", "cannot be read"),
        ("[]", "lists no frame"),
        ("{}", "expected a list of frames"),
        ('{"frame": []}', "unknown key 'frame'"),
        ("[1]", "frames[0]: expected a mapping"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        open_dataset(path, "manifest")
    assert told in str(error.value)
    with pytest.raises(UserError, match="a folder; give the manifest file in it"):
        open_dataset(tmp_path, "manifest")
    with pytest.raises(UserError, match=r"a manifest ends in \.csv, \.json, \.jsonl"):
        read_table(Path(__file__))


def test_damaged_depth_of_each_kind_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for depth in KINDS:
        path = write_manifest(tmp_path, [write_files(tmp_path, depth)])
        content = (tmp_path / depth).read_bytes()
        (tmp_path / depth).write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError) as error:
            open_dataset(path, "manifest")[0]
        assert str(tmp_path / depth) in str(error.value)
        assert "\n" not in str(error.value)
        said = capfd.readouterr()
        # The library of EXR writes a line of its own.
        assert depth.endswith(".exr") or said == ("", "")


def test_a_picture_without_depth_can_be_listed(tmp_path: Path) -> None:
    row = {name: value for name, value in write_files(tmp_path).items() if "depth" not in name}
    data = open_dataset(write_manifest(tmp_path, [row]), "manifest")
    assert data.read_raw(0).depth is None
    with pytest.raises(UserError, match="has no depth for this frame"):
        data[0]


def test_every_column_says_what_it_means() -> None:
    for name, field in Row.model_fields.items():
        assert field.description, name


def test_a_calibration_file_may_need_a_format_or_a_name(tmp_path: Path) -> None:
    row = write_files(tmp_path) | {"camera": "opencv.yml"}
    matrix = "rows: 3\n  cols: 3\n  data: [9., 0., 14.5, 0., 9., 9.5, 0., 0., 1.]"
    (tmp_path / "opencv.yml").write_text(
        f"image_width: 30\nimage_height: 20\ncamera_matrix:\n  {matrix}\n"
        "distortion_coefficients:\n  rows: 1\n  cols: 4\n  data: [0.1, 0.01, 0., 0.]\n"
    )
    manifest = write_manifest(tmp_path, [row], "list.csv")
    with pytest.raises(UserError, match="or opencv_fisheye \\(a manifest's column camera_format"):
        open_dataset(manifest, "manifest")[0]
    for name, model in (("opencv_fisheye", "kannala_brandt"), ("opencv", "radial_tangential")):
        manifest = write_manifest(tmp_path, [row | {"camera_format": name}], "list.csv")
        camera = open_dataset(manifest, "manifest").read_raw(0).camera
        assert camera.model == model
        assert camera.params[:4].tolist() == [9.0, 9.0, 15.0, 10.0]
    cams = "".join(
        f"cam{number}:\n  camera_model: pinhole\n  intrinsics: [{9 + number}, 9, 14.5, 9.5]\n"
        "  distortion_model: equidistant\n  distortion_coeffs: [0.1, 0, 0, 0]\n"
        "  resolution: [30, 20]\n"
        for number in range(2)
    )
    (tmp_path / "chain.yaml").write_text(cams)
    row |= {"camera": "chain.yaml"}
    with pytest.raises(UserError, match=r"holds 2 cameras: cam0, cam1; choose .*camera_name"):
        open_dataset(write_manifest(tmp_path, [row]), "manifest")[0]
    manifest = write_manifest(tmp_path, [row | {"camera_name": "cam1"}])
    assert open_dataset(manifest, "manifest").read_raw(0).camera.params[0] == 10.0
    inline = {"camera": None, "camera_model": "pinhole", "camera_params": "9 9 15 10"}
    with pytest.raises(UserError, match="'camera_format' and 'camera_name' go with 'camera'"):
        open_dataset(write_manifest(tmp_path, [row | inline | {"camera_name": "x"}]), "manifest")
