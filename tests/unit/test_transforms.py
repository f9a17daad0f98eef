from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from dart.cameras import Camera, Equirectangular, KannalaBrandt, Pinhole
from dart.data import transforms
from dart.data.sample import Sample
from dart.data.warping import Warper, draw_lens, warp
from dart.errors import UserError

PINHOLE = Pinhole(torch.tensor([60.0, 62.0, 44.0, 37.0]), (72, 90))
FISHEYE = KannalaBrandt(
    torch.tensor([30.0, 30.0, 45.0, 36.0, 0.03, -0.012, 0.002, 0.0]), (72, 90), max_polar=1.1
)
NORMAL = torch.tensor([0.3, -0.2, 0.93], dtype=torch.float64)
OFFSET = 2.0
MIRROR = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
QUARTER = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def rays_of(camera: Camera) -> Tensor:
    return camera.to(dtype=torch.float64).rays()


def plane(camera: Camera, normal: Tensor = NORMAL) -> Sample:
    """Return a tilted plane through a lens; each colour tells where its pixel looks."""
    rays = rays_of(camera)
    cosine = rays @ normal
    distance = OFFSET / cosine.clamp(min=1e-3)
    valid = camera.valid() & (cosine > 0.05)
    return Sample(
        image=((rays + 1) / 2).permute(2, 0, 1).float(),
        distance=torch.where(valid, distance, 0.0).float(),
        valid=valid,
        camera=camera,
        key="plane",
        scene=0,
    )


def off_plane(sample: Sample, normal: Tensor = NORMAL) -> float:
    """Return how far the valid pixels' points lie from the plane, relative to their distance."""
    assert sample.valid.sum() > 50
    points = rays_of(sample.camera) * sample.distance[..., None].double()
    error = (points @ normal - OFFSET).abs() / sample.distance
    return float(error[sample.valid].max())


def off_rays(sample: Sample, turn: Callable[[Tensor], Tensor] = lambda rays: rays) -> float:
    """Return how far the colours are from where the camera says that they look."""
    told = sample.image.permute(1, 2, 0).double() * 2 - 1
    error = (told - turn(rays_of(sample.camera))).abs().amax(-1)
    return float(error[sample.valid].max())


cameras = pytest.mark.parametrize("camera", [PINHOLE, FISHEYE], ids=["pinhole", "fisheye"])
EXACT: dict[str, Callable[[Sample], Sample]] = {
    "crop": lambda sample: transforms.crop(sample, 5, 11, 40, 50),
    "pad": lambda sample: transforms.pad(sample, 3, 1, 0, 7),
    "pad_to": lambda sample: transforms.pad_to(sample, (80, 95)),
    "resize by a third": lambda sample: transforms.resize(sample, (24, 30)),
    "fit by a third": lambda sample: transforms.fit(sample, (24, 40)),
    "zoom out to a third": lambda sample: transforms.zoom(sample, 1 / 3),
    "warp into its own crop": lambda sample: warp(sample, sample.camera.crop(5, 11, 40, 50)),
}


@cameras
@pytest.mark.parametrize("name", EXACT)
def test_a_plane_stays_a_plane_exactly_where_pixel_centres_meet(camera: Camera, name: str) -> None:
    changed = EXACT[name](plane(camera))
    assert changed.image.shape[1:] == changed.distance.shape == changed.camera.size
    assert off_plane(changed) < 2e-6
    assert off_rays(changed) < 5e-3


@cameras
@pytest.mark.parametrize("size", [(50, 64), (31, 77), (100, 130)])
def test_a_resized_plane_is_off_by_half_a_pixel_of_the_source_at_most(
    camera: Camera, size: tuple[int, int]
) -> None:
    sample = plane(camera)
    padded = np.pad(sample.distance.numpy(), 1, mode="edge")
    steps = [np.abs(padded[1:-1, 1:-1] - padded[1 + d : 73 + d, 1:-1]) for d in (-1, 1)]
    steps += [np.abs(padded[1:-1, 1:-1] - padded[1:-1, 1 + d : 91 + d]) for d in (-1, 1)]
    interior = (sample.distance > 0).numpy()
    step = max(float((s / np.maximum(padded[1:-1, 1:-1], 1))[interior].max()) for s in steps)
    changed = transforms.resize(sample, size)
    assert off_plane(changed) < step
    assert off_rays(changed) < 0.02


@cameras
def test_mirrored_and_turned_samples_lie_on_the_mirrored_and_turned_plane(camera: Camera) -> None:
    flipped = transforms.flip(plane(camera))
    assert off_plane(flipped, NORMAL * MIRROR) < 2e-6
    assert off_rays(flipped, lambda rays: rays * MIRROR) < 1e-6
    turned, normal, turn = plane(camera), NORMAL, torch.eye(3, dtype=torch.float64)
    for turns in range(1, 5):
        turned = transforms.rotate90(turned)
        normal, turn = QUARTER @ normal, QUARTER @ turn
        assert off_plane(turned, normal) < 2e-6
        back = turn.T
        assert off_rays(turned, lambda rays, back=back: rays @ back.T) < 1e-6
        once = transforms.rotate90(plane(camera), turns)
        assert torch.equal(once.distance, turned.distance)
        assert once.camera.size == turned.camera.size
    assert torch.equal(turned.image, plane(camera).image)


def test_a_panorama_cannot_be_turned() -> None:
    camera = Equirectangular(torch.tensor([20.0, 20.0, 64.0, 32.0]), (64, 128))
    with pytest.raises(UserError, match="equirectangular"):
        transforms.rotate90(plane(camera))


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7, 3.0])
def test_zoom_keeps_size_and_metres(factor: float) -> None:
    sample = plane(PINHOLE)
    changed = transforms.zoom(sample, factor, generator=torch.Generator().manual_seed(2))
    assert changed.camera.size == sample.camera.size
    focal = sample.camera.params[0] * round(90 * factor) / 90
    torch.testing.assert_close(changed.camera.params[0], focal)
    assert off_plane(changed) < 0.02
    known = set(sample.distance[sample.valid].tolist())
    assert set(changed.distance[changed.valid].tolist()) <= known


def test_random_changes_follow_their_generator() -> None:
    def draw(seed: int) -> Sample:
        generator = torch.Generator().manual_seed(seed)
        changed = transforms.scale(plane(PINHOLE), largest=1.5, generator=generator)
        return transforms.colour(changed, strength=0.5, generator=generator)

    focals = [float(draw(seed).camera.params[0]) for seed in range(40)]
    assert torch.equal(draw(3).image, draw(3).image)
    assert not torch.equal(draw(3).image, draw(4).image)
    assert 60 / 1.52 < min(focals) < 50
    assert 75 < max(focals) < 60 * 1.52


@pytest.mark.parametrize("size", [(24, 30), (31, 77), (50, 64), (10, 13)])
def test_shrinking_averages_areas_as_opencv_does(size: tuple[int, int]) -> None:
    image = torch.rand(3, 72, 90, generator=torch.Generator().manual_seed(0))
    sample = plane(PINHOLE)
    changed = transforms.resize(Sample(image, sample.distance, sample.valid, PINHOLE, "", 0), size)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    expected = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(changed.image.permute(1, 2, 0).numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("size", [(9, 11), (7, 30), (24, 30), (40, 50)])
def test_sparse_distances_come_from_the_nearest_valid_pixel_within_each_new_one(
    size: tuple[int, int],
) -> None:
    generator = torch.Generator().manual_seed(1)
    valid = torch.rand(36, 45, generator=generator) < 0.06
    distance = torch.rand(36, 45, generator=generator) + 1
    camera = PINHOLE.resize((36, 45))
    sparse = Sample(torch.zeros(3, 36, 45), distance * valid, valid, camera, "", 0)
    changed = transforms.resize(sparse, size)
    down, right = 36 / size[0], 45 / size[1]
    v, u = valid.nonzero().double().T.numpy() + 0.5
    for row, column in np.ndindex(size):
        centre = ((row + 0.5) * down, (column + 0.5) * right)
        here = (int(centre[0]), int(centre[1]))
        covered = (row == np.floor(v / down)) & (column == np.floor(u / right))
        found, value = bool(changed.valid[row, column]), float(changed.distance[row, column])
        if valid[here]:
            assert (found, value) == (True, float(distance[here]))
        elif covered.any():
            far = (v[covered] - centre[0]) ** 2 + (u[covered] - centre[1]) ** 2
            values = distance[valid].numpy()[covered]
            assert found
            assert value in values[far < far.min() + 1e-6]
        else:
            assert (found, value) == (False, 0.0)


def test_a_sample_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="90x72 pixels do not fit into 80x80"):
        transforms.pad_to(plane(PINHOLE), (80, 80))
    with pytest.raises(UserError, match="the factor is 0"):
        transforms.zoom(plane(PINHOLE), 0.0)


def test_z_of_a_wall_ahead_is_one_number() -> None:
    wall = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    z, valid = transforms.sample_z(plane(FISHEYE, wall))
    assert valid.sum() > 1000
    torch.testing.assert_close(z[valid], torch.full_like(z[valid], OFFSET))
    assert not z[~valid].any()


LENSES = {
    "pinhole into fisheye": (PINHOLE, FISHEYE.resize((60, 60))),
    "fisheye into pinhole": (FISHEYE, PINHOLE.resize((40, 50))),
    "panorama into fisheye": (
        Equirectangular(torch.tensor([40.74, 40.74, 128.0, 64.0]), (128, 256)),
        FISHEYE.resize((60, 60)),
    ),
}


@pytest.mark.parametrize("name", LENSES)
@pytest.mark.parametrize("turned", [False, True])
def test_a_warp_copies_the_distance_of_the_pixel_that_the_ray_falls_on(
    name: str, turned: bool
) -> None:
    source, target = LENSES[name]
    sample = plane(source)
    angle = 0.3 if turned else 0.0
    rotation = torch.tensor(cv2.Rodrigues(np.array([0.1, angle, 0.05]) * turned)[0])
    changed = warp(sample, target, rotation=rotation if turned else None)
    rays = rays_of(target) @ rotation.T
    pixels, seen = source.to(dtype=torch.float64).project(rays)
    column, row = pixels.float().floor().long().unbind(-1)
    inside = (column >= 0) & (column < source.size[1]) & (row >= 0) & (row < source.size[0])
    where = (row.clamp(0, source.size[0] - 1), column.clamp(0, source.size[1] - 1))
    expected = inside & seen & target.valid() & sample.valid[where]
    assert expected.sum() > 400
    assert torch.equal(changed.valid, expected)
    assert torch.equal(changed.distance, sample.distance[where] * expected)
    assert off_rays(changed, lambda rays: rays @ rotation.T) < 0.05
    assert off_plane(changed, rotation.T @ NORMAL) < 0.1


def test_a_warp_never_mixes_near_and_far() -> None:
    sample = plane(PINHOLE)
    board = (torch.arange(72)[:, None] // 2 + torch.arange(90) // 2) % 2 * 9.0 + 1
    mixed = Sample(sample.image, board, torch.ones_like(sample.valid), PINHOLE, "", 0)
    for changed in (
        warp(mixed, FISHEYE),
        transforms.resize(mixed, (31, 37)),
        transforms.resize(mixed, (100, 130)),
    ):
        assert set(changed.distance[changed.valid].tolist()) == {1.0, 10.0}


def test_what_the_source_did_not_see_is_not_valid() -> None:
    changed = warp(plane(PINHOLE), FISHEYE)
    rays = rays_of(FISHEYE)
    wide = rays[..., 2] < 0.6  # beyond 53 degrees, more than the pinhole's corner
    assert wide.sum() > 1000
    assert not changed.valid[wide].any()
    assert not changed.image.permute(1, 2, 0)[rays[..., 2] < 0.5].any()


def test_shrinking_into_a_lens_does_not_alias() -> None:
    source = Pinhole(torch.tensor([480.0, 480.0, 320.0, 240.0]), (480, 640))
    board = (torch.arange(480)[:, None] + torch.arange(640)) % 2 * 1.0
    ones = torch.ones(480, 640)
    fine = Sample(board.expand(3, -1, -1), ones, ones.bool(), source, "", 0)
    changed = warp(fine, Pinhole(torch.tensor([73.0, 73.0, 50.0, 37.0]), (74, 100)))
    inner = changed.image[:, 10:-10, 10:-10]
    assert float((inner - 0.5).abs().max()) < 0.06


def test_one_warper_serves_several_cameras() -> None:
    warper = Warper(FISHEYE)
    other = PINHOLE.resize((36, 45))
    for camera in (PINHOLE, other, PINHOLE):
        assert torch.equal(warper(plane(camera)).distance, warp(plane(camera), FISHEYE).distance)


@pytest.mark.parametrize("source", [PINHOLE, FISHEYE], ids=["pinhole", "fisheye"])
def test_a_drawn_lens_sees_a_part_of_the_source(source: Camera) -> None:
    models = set()
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        lens = draw_lens(source, (48, 64), generator=generator)
        again = draw_lens(source, (48, 64), generator=torch.Generator().manual_seed(seed))
        assert lens.key == again.key
        models.add(lens.model)
        row = warp(plane(source, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)), lens)
        assert row.valid[24, 2:-2].float().mean() > 0.9
    assert len(models) == 4
