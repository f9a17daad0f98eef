"""Data sets of one or two frames, written in exactly the published formats.

Every set shows the same tilted plane. Rays are computed here from each format's own formulas and
pixel convention, so that the readers' cameras are checked against something else than themselves.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

from tests.helpers.set_files import (
    HOLES,
    Pixels,
    Published,
    picture,
    pinhole_rays,
    pixel_grid,
    plane_depth,
    quantise,
    unit,
    write_npy,
    write_picture,
    write_png16,
    write_text,
)
from tests.helpers.set_fisheyes import (
    kitti360_fisheye,
    matterport_erp,
    scannetpp_dslr,
    synwoodscape,
)

NYU = (518.8579, 519.4696, 325.5824, 253.7362)


def nyuv2_labelled(root: Path) -> Published:
    """Two frames; the file's axes run backwards, as MATLAB's do."""
    size = (480, 640)
    rays = pinhole_rays(size, NYU, first_centre=0.0)
    raw = plane_depth(rays, convention="z", plane=3.0).astype(np.float32)
    path = root / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "w") as file:
        file["images"] = np.stack([picture(size).transpose(2, 1, 0)] * 2)
        file["rawDepths"] = np.stack([raw.T, raw.T])
        file["depths"] = np.stack([np.full((640, 480), 2.0, np.float32)] * 2)
        names = ["kitchen_0004", "office_0012"]
        references = np.empty((1, 2), dtype=h5py.ref_dtype)
        for number, name in enumerate(names):
            text = np.array([[ord(letter)] for letter in name], dtype=np.uint16)
            references[0, number] = file.create_dataset(f"#refs#/{number}", data=text).ref
        file.create_dataset("scenes", data=references)
    savemat(root / "splits.mat", {"trainNdxs": np.array([[2]]), "testNdxs": np.array([[1]])})
    return Published(
        root, rays, raw, 1e-6, path, path, listed=("kitchen_0004/0001", "office_0012/0002")
    )


def nyuv2_bts(root: Path) -> Published:
    size = (480, 640)
    rays = pinhole_rays(size, NYU, first_centre=0.0)
    stored = quantise(plane_depth(rays, convention="z", plane=3.0), 1e-3)
    for folder in ("sync/kitchen_0028b", "official_splits/test/bathroom"):
        write_picture(root / folder / "rgb_00045.jpg", size)
        write_png16(root / folder / "sync_depth_00045.png", stored * 1000)
    for split, scene in (("train", "/kitchen_0028b"), ("test", "bathroom")):
        line = f"{scene}/rgb_00045.jpg {scene}/sync_depth_00045.png 518.8579"
        write_text(root / f"nyudepthv2_{split}_files_with_gt.txt", line)
    folder = root / "sync/kitchen_0028b"
    return Published(
        root,
        rays,
        stored,
        1e-3,
        folder / "sync_depth_00045.png",
        folder / "rgb_00045.jpg",
        listed=("train/kitchen_0028b/rgb_00045.jpg", "test/bathroom/rgb_00045.jpg"),
    )


KITTI = (721.5377, 721.5377, 609.5593, 172.854)


def kitti_eigen(root: Path) -> Published:
    """A frame of 375 x 1242 in each split, one without depth in the test list."""
    full, size, corner = (375, 1242), (352, 1216), (23, 13)
    rays = pinhole_rays(full, KITTI, first_centre=0.0)
    stored = quantise(plane_depth(rays, convention="z", plane=3.0), 1 / 256)
    frames: list[tuple[Path, Path]] = []
    for drive, number in (("0002", 69), ("0009", 3)):
        name = f"2011_09_26_drive_{drive}_sync"
        image = root / f"2011_09_26/{name}/image_02/data/{number:010d}.png"
        depth = root / f"{name}/proj_depth/groundtruth/image_02/{number:010d}.png"
        frames.append((write_picture(image, full), write_png16(depth, stored * 256)))
    lines = [f"{i.relative_to(root)} {d.relative_to(root)} 721.5377" for i, d in frames]
    none = "2011_09_26/2011_09_26_drive_0009_sync/image_02/data/0000000004.png None 721.5377"
    write_text(root / "eigen_test_files_with_gt.txt", lines[0], none)
    write_text(root / "eigen_train_files_with_gt.txt", lines[1])
    fx, fy, cx, cy = KITTI
    write_text(
        root / "2011_09_26/calib_cam_to_cam.txt",
        "calib_time: 09-Jan-2012 13:57:47",
        "corner_dist: 9.950000e-02",
        f"S_02: {1.392e3:e} {5.12e2:e}",
        "S_rect_02: 1.242000e+03 3.750000e+02",
        f"P_rect_02: {fx:e} 0.0 {cx:e} 4.485728e+01 0.0 {fy:e} {cy:e} 2.163791e-01 0.0 0.0 1.0 0.0",
    )
    window = (slice(corner[0], corner[0] + size[0]), slice(corner[1], corner[1] + size[1]))
    return Published(
        root,
        rays[window],
        stored[window],
        1 / 256,
        frames[0][1],
        frames[0][0],
        options={"split": "test"},
        listed=(frames[0][0].relative_to(root).as_posix(),),
    )


def ibims1(root: Path) -> Published:
    size, quantum = (480, 640), 50 / 65535
    params = (550.39, 548.55, 320.24, 240.88)
    rays = pinhole_rays(size, params, first_centre=0.0)
    stored = quantise(plane_depth(rays, convention="z", plane=3.0), quantum)
    hidden = stored.copy()
    hidden[HOLES] = 2.0
    folder = root / "ibims1_core_raw"
    image = write_picture(folder / "rgb/corridor_01.png", size)
    depth = write_png16(folder / "depth/corridor_01.png", hidden / quantum)
    usable = np.ones(size, dtype=bool)
    usable[HOLES] = False
    halves = [usable.copy(), usable.copy()]
    halves[0][:, 60:], halves[1][:, :60] = True, True
    for name, mask in zip(("mask_invalid", "mask_transp"), halves, strict=True):
        (folder / name).mkdir()
        Image.fromarray(mask).save(folder / name / "corridor_01.png")
    write_text(folder / "calib/corridor_01.txt", ",".join(map(str, params)))
    write_text(root / "imagelist.txt", "corridor_01")
    return Published(root, rays, stored, quantum, depth, image, listed=("corridor_01",))


def diode(root: Path) -> Published:
    size = (768, 1024)
    rays = pinhole_rays(size, (886.81, 927.06, 512.0, 384.0), first_centre=0.5)
    stored = plane_depth(rays, convention="z", plane=3.0).astype(np.float32)
    hidden, mask = stored.copy(), np.ones(size, dtype=np.float64)
    hidden[HOLES], mask[HOLES] = 2.0, 0.0
    folder = root / "val/indoors/scene_00019/scan_00183"
    image = write_picture(folder / "00019_00183_indoors_000_010.png", size)
    depth = write_npy(folder / f"{image.stem}_depth.npy", hidden[..., None])
    write_npy(folder / f"{image.stem}_depth_mask.npy", mask)
    key = image.relative_to(root).with_suffix("").as_posix()
    return Published(root, rays, stored, 1e-6, depth, image, listed=(key,))


def vkitti2(root: Path) -> Published:
    size = (375, 1242)
    params = (725.0087, 725.0087, 620.5, 187.0)
    rays = pinhole_rays(size, params, first_centre=0.0)
    stored = quantise(plane_depth(rays, convention="z", plane=3.0), 0.01)
    units = stored * 100
    units[HOLES] = 65535
    folder = root / "Scene01/clone"
    image = write_picture(folder / "frames/rgb/Camera_0/rgb_00007.jpg", size)
    depth = write_png16(folder / "frames/depth/Camera_0/depth_00007.png", units)
    write_text(
        folder / "intrinsic.txt",
        "frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]",
        "7 0 " + " ".join(map(str, params)),
        "7 1 " + " ".join(map(str, params)),
    )
    key = image.relative_to(root).with_suffix("").as_posix()
    return Published(root, rays, stored, 0.01, depth, image, listed=(key,))


def hypersim(root: Path) -> Published:
    size = (768, 1024)
    rays = pinhole_rays(size, (886.81, 886.81, 512.0, 384.0), first_centre=0.5)
    stored = plane_depth(rays, convention="range", plane=3.0).astype(np.float32)
    hidden = stored.copy()
    hidden[HOLES] = np.nan
    folder = root / "ai_001_001/images"
    image = write_picture(folder / "scene_cam_00_final_preview/frame.0000.tonemap.jpg", size)
    depth = folder / "scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5"
    depth.parent.mkdir()
    with h5py.File(depth, "w") as file:
        file["dataset"] = hidden
    return Published(
        root,
        rays,
        stored,
        1e-6,
        depth,
        image,
        convention="range",
        listed=("ai_001_001/cam_00/0000",),
    )


FREIBURG1 = (517.306408, 516.469215, 318.643040, 255.313989)
FREIBURG1_DISTORTION = (0.262383, -0.953104, -0.005358, 0.002628, 1.163314)


def freiburg1_rays(size: tuple[int, int]) -> Pixels:
    """Return rays of OpenCV's radial-tangential model by fixed-point iteration."""
    fx, fy, cx, cy = FREIBURG1
    k1, k2, p1, p2, k3 = FREIBURG1_DISTORTION
    u, v = pixel_grid(size)
    wanted_x, wanted_y = (u - cx) / fx, (v - cy) / fy
    x, y = wanted_x.copy(), wanted_y.copy()
    for _ in range(100):
        square = x**2 + y**2
        grow = 1 + square * (k1 + square * (k2 + square * k3))
        x, y = (
            (wanted_x - 2 * p1 * x * y - p2 * (square + 2 * x**2)) / grow,
            (wanted_y - p1 * (square + 2 * y**2) - 2 * p2 * x * y) / grow,
        )
    return unit(x, y, np.ones_like(x))


def tum_rgbd(root: Path) -> Published:
    """Three pictures; the second has no depth within 0.02 s."""
    size = (480, 640)
    rays = freiburg1_rays(size)
    stored = quantise(plane_depth(rays, convention="z", plane=3.0), 1 / 5000)
    folder = root / "rgbd_dataset_freiburg1_xyz"
    times = {"1305031102.175304": "1305031102.160407", "1305031102.275326": "1305031102.294600"}
    for image, depth in times.items():
        write_picture(folder / f"rgb/{image}.png", size)
        write_png16(folder / f"depth/{depth}.png", stored * 5000)
    images = [*times, "1305031102.211214"]
    header = ("# color images", "# file: 'rgbd_dataset_freiburg1_xyz.bag'", "# timestamp filename")
    write_text(folder / "rgb.txt", *header, *(f"{name} rgb/{name}.png" for name in images))
    write_text(folder / "depth.txt", *(f"{name} depth/{name}.png" for name in times.values()))
    first = next(iter(times))
    return Published(
        root,
        rays,
        stored,
        1 / 5000,
        folder / f"depth/{times[first]}.png",
        folder / f"rgb/{first}.png",
        listed=tuple(f"rgbd_dataset_freiburg1_xyz/{name}" for name in times),
    )


def icl_rays() -> Pixels:
    """Return rays with fy = -480 and y up, turned to y down."""
    u, v = pixel_grid((480, 640))
    up = (v - 239.5) / -480.0
    return unit((u - 319.5) / 481.2, -up, np.ones_like(u))


def icl_nuim(root: Path) -> Published:
    rays = icl_rays()
    stored = quantise(plane_depth(rays, convention="z", plane=3.0), 1 / 5000)
    folder = root / "living_room_traj0_frei_png"
    image = write_picture(folder / "rgb/1.png", (480, 640))
    depth = write_png16(folder / "depth/1.png", stored * 5000)
    write_text(folder / "associations.txt", "1 depth/1.png 1 rgb/1.png")
    key = "living_room_traj0_frei_png/1"
    return Published(root, rays, stored, 1 / 5000, depth, image, listed=(key,))


def icl_nuim_povray(root: Path) -> Published:
    rays = icl_rays()
    stored = quantise(plane_depth(rays, convention="range", plane=3.0), 1e-5)
    image = write_picture(root / "scene_00_0000.png", (480, 640))
    numbers = " ".join(f"{value:.5f}" for value in stored.ravel())
    depth = write_text(root / "scene_00_0000.depth", numbers)
    key = f"{root.name}/scene_00_0000"
    return Published(root, rays, stored, 1e-5, depth, image, convention="range", listed=(key,))


WRITERS: Mapping[str, tuple[str, Callable[[Path], Published]]] = {
    "nyuv2_labelled": ("nyuv2_labelled", nyuv2_labelled),
    "nyuv2_bts": ("nyuv2_bts", nyuv2_bts),
    "kitti_eigen": ("kitti_eigen", kitti_eigen),
    "kitti360_fisheye": ("kitti360_fisheye", kitti360_fisheye),
    "scannetpp_dslr": ("scannetpp_dslr", scannetpp_dslr),
    "synwoodscape": ("synwoodscape", synwoodscape),
    "ibims1": ("ibims1", ibims1),
    "diode": ("diode", diode),
    "vkitti2": ("vkitti2", vkitti2),
    "hypersim": ("hypersim", hypersim),
    "tum_rgbd": ("tum_rgbd", tum_rgbd),
    "icl_nuim": ("icl_nuim", icl_nuim),
    "icl_nuim_povray": ("icl_nuim", icl_nuim_povray),
    "matterport_erp": ("matterport_erp", matterport_erp),
}
"""Case -> format and writer."""
