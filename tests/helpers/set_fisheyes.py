"""Fisheye sets and panoramas in exactly the published formats, scaled down."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR

from tests.helpers.set_files import (
    HOLES,
    Pixels,
    Published,
    angle_of,
    pixel_grid,
    plane_depth,
    polar_rays,
    quantise,
    unit,
    write_npy,
    write_picture,
    write_png16,
    write_text,
)

MEI = {"xi": 2.2134, "k1": 0.0168, "k2": 1.6548, "p1": 4.2e-4, "p2": -7.0e-4}


def mei_rays(size: tuple[int, int], gamma: tuple[float, ...], lens: Mapping[str, float]) -> Pixels:
    """Return rays of Mei's model by fixed-point iteration; NaN outside its field of view."""
    u, v = pixel_grid(size)
    wanted_x, wanted_y = (u - gamma[2]) / gamma[0], (v - gamma[3]) / gamma[1]
    x, y = wanted_x.copy(), wanted_y.copy()
    k1, k2, p1, p2, xi = (lens[name] for name in ("k1", "k2", "p1", "p2", "xi"))
    for _ in range(300):
        square = x**2 + y**2
        shrink = 1 + k1 * square + k2 * square**2
        x, y = (
            (wanted_x - 2 * p1 * x * y - p2 * (square + 2 * x**2)) / shrink,
            (wanted_y - p1 * (square + 2 * y**2) - 2 * p2 * x * y) / shrink,
        )
    square = x**2 + y**2
    with np.errstate(invalid="ignore"):
        factor = (xi + np.sqrt(1 + (1 - xi**2) * square)) / (1 + square)
    return np.stack([factor * x, factor * y, factor - xi], axis=-1)


def kitti360_fisheye(root: Path) -> Published:
    """Scaled to 140 x 140 pixels; drive 0000 (frames 10 and 11) and drive 0002."""
    size, gamma = (140, 140), (133.63, 133.58, 71.69, 70.58)
    rays = mei_rays(size, gamma, MEI)
    stored = quantise(plane_depth(rays, convention="range", plane=3.0), 1 / 256)
    write_text(
        root / "calibration/image_02.yaml",
        "%YAML:1.0",
        "---",
        "model_type: MEI",
        "camera_name: image_02",
        "image_width: 140",
        "image_height: 140",
        "mirror_parameters:",
        f"   xi: {MEI['xi']}",
        "distortion_parameters:",
        *(f"   {name}: {MEI[name]}" for name in ("k1", "k2", "p1", "p2")),
        "projection_parameters:",
        *(f"   {n}: {g}" for n, g in zip(("gamma1", "gamma2", "u0", "v0"), gamma, strict=True)),
    )
    keys: list[str] = []
    for drive, frame in (("0000", 10), ("0000", 11), ("0002", 5)):
        folder = f"data_2d_raw/2013_05_28_drive_{drive}_sync/image_02"
        write_picture(root / folder / f"data_rgb/{frame:010d}.png", size)
        write_png16(root / folder / f"proj_depth/{frame:010d}.png", stored * 256)
        keys.append(f"{folder}/data_rgb/{frame:010d}")
    folder = root / "data_2d_raw/2013_05_28_drive_0000_sync/image_02"
    return Published(
        root,
        rays,
        stored,
        1 / 256,
        folder / "proj_depth/0000000010.png",
        folder / "data_rgb/0000000010.png",
        convention="range",
        listed=tuple(keys),
    )


def scannetpp_dslr(root: Path) -> Published:
    """A fisheye of 176 x 116 pixels, COLMAP's pixel centres (+0.5)."""
    size, k = (116, 176), (0.035, -0.016, 0.004, -0.0004)
    fx, fy, cx, cy = 79.5, 79.3, 88.3, 57.6
    u, v = pixel_grid(size)
    x, y = (u + 0.5 - cx) / fx, (v + 0.5 - cy) / fy

    def grows(theta: Pixels) -> Pixels:
        return theta * (1 + sum(c * theta ** (2 * n + 2) for n, c in enumerate(k)))

    rays = polar_rays(x, y, angle_of(np.hypot(x, y), grows, limit=1.8))
    stored = quantise(plane_depth(rays, convention="z", plane=3.0), 1e-3)
    folder = root / "data/0a5c013435/dslr"
    image = write_picture(folder / "resized_images/DSC00001.JPG", size)
    depth = write_png16(folder / "render_depth/DSC00001.png", stored * 1000)
    transforms = {
        "fl_x": fx,
        "fl_y": fy,
        "cx": cx,
        "cy": cy,
        "w": size[1],
        "h": size[0],
        **{f"k{number + 1}": value for number, value in enumerate(k)},
        "camera_model": "OPENCV_FISHEYE",
        "frames": [{"file_path": "DSC00001.JPG", "transform_matrix": np.eye(4).tolist()}],
        "test_frames": [],
    }
    write_text(folder / "nerfstudio/transforms.json", json.dumps(transforms))
    write_text(root / "splits/nvs_sem_train.txt", "0a5c013435")
    write_text(root / "splits/nvs_sem_val.txt", "not_downloaded")
    return Published(root, rays, stored, 1e-3, depth, image, listed=("0a5c013435/DSC00001",))


def woodscape_calibration(size: tuple[int, int]) -> dict[str, Any]:
    return {
        "extrinsic": {"quaternion": [0.5946, -0.5837, 0.3966, -0.3854], "translation": [3.7, 0, 1]},
        "intrinsic": {
            "model": "radial_poly",
            "poly_order": 4,
            "k1": 33.9749,
            "k2": -3.1989,
            "k3": 4.8279,
            "k4": -0.9203,
            "aspect_ratio": 1.002,
            "cx_offset": 0.3942,
            "cy_offset": -0.3093,
            "width": size[1],
            "height": size[0],
        },
        "name": "FV",
    }


def woodscape_rays(size: tuple[int, int]) -> Pixels:
    lens = woodscape_calibration(size)["intrinsic"]
    u, v = pixel_grid(size)
    x = u - lens["cx_offset"] - size[1] / 2 + 0.5
    y = (v - lens["cy_offset"] - size[0] / 2 + 0.5) / lens["aspect_ratio"]

    def grows(theta: Pixels) -> Pixels:
        return sum(lens[f"k{n}"] * theta**n for n in (1, 2, 3, 4)) + 0 * theta

    return polar_rays(x, y, angle_of(np.hypot(x, y), grows, limit=2.0))


def synwoodscape(root: Path) -> Published:
    """128 x 96 pixels: front (and BEV) of one instant, calibration once a camera."""
    size = (96, 128)
    rays = woodscape_rays(size)
    stored = plane_depth(rays, convention="range", plane=3.0).astype(np.float32)
    sky = stored.copy()
    sky[HOLES] = 1000.0
    write_text(root / "calibration_data/FV.json", json.dumps(woodscape_calibration(size)))
    for view in ("FV", "BEV"):
        write_picture(root / f"rgb_images/00000_{view}.png", size)
        write_npy(root / f"depth_maps/raw_data/00000_{view}.npy", sky)
    return Published(
        root,
        rays,
        stored,
        1e-6,
        root / "depth_maps/raw_data/00000_FV.npy",
        root / "rgb_images/00000_FV.png",
        convention="range",
        listed=("00000_FV",),
    )


def matterport_erp(root: Path) -> Published:
    size = (128, 256)
    u, v = pixel_grid(size)
    longitude = ((u + 0.5) / size[1] - 0.5) * 2 * np.pi
    latitude = ((v + 0.5) / size[0] - 0.5) * np.pi
    rays = unit(
        np.cos(latitude) * np.sin(longitude), np.sin(latitude), np.cos(latitude) * np.cos(longitude)
    )
    stored = plane_depth(rays, convention="range", plane=3.0).astype(np.float32)
    hidden = stored.copy()
    hidden[HOLES] = np.inf
    hidden[stored == 0] = np.inf
    image = write_picture(root / "1LXtFkjw3qL/85_spherical_1_emission_center_0.png", size)
    depth = image.with_name("85_spherical_1_depth_center_0.exr")
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, {"Y": hidden}) as file:
        file.write(str(depth))
    key = image.relative_to(root).with_suffix("").as_posix()
    return Published(root, rays, stored, 1e-6, depth, image, convention="range", listed=(key,))
