import math
from dataclasses import replace

import pytest
import torch

from dart.data.intersect import MISS, Tracer
from dart.data.renderer import Quality
from dart.data.scene import Dice, Material, SceneBuilder
from dart.data.styles import STYLES, build_scene
from dart.data.textures import Texture, albedo, fractal_noise, value_noise
from dart.data.views import draw_camera, draw_pose, frame_generator, render_frame
from dart.domains import DOMAINS

SEEDS = (0, 1, 110_000, 200_003)


@pytest.mark.parametrize("style", sorted(STYLES))
@pytest.mark.parametrize("seed", SEEDS)
def test_a_scene_is_its_seed_and_style(style: str, seed: int) -> None:
    first, again = build_scene(style, seed), build_scene(style, seed)
    for one, other in zip(first.primitives, again.primitives, strict=True):
        assert one.equal(other)
    assert first.materials.equal(again.materials)
    assert not first.materials.equal(build_scene(style, seed + 1).materials)


@pytest.mark.parametrize("style", sorted(STYLES))
@pytest.mark.parametrize("seed", SEEDS)
def test_a_scene_is_sound(style: str, seed: int) -> None:
    scene = build_scene(style, seed)
    assert len(scene.material_of) == sum(len(group) for group in scene.primitives)
    assert int(scene.material_of.max()) < len(scene.materials)
    assert len({len(group) for group in scene.primitives}) == 3
    for group in scene.primitives:
        assert (group[:, 3:6] > 0).all()
        torch.testing.assert_close(group[:, 6] ** 2 + group[:, 7] ** 2, torch.ones(len(group)))
    assert ((scene.materials[:, 1:7] >= 0) & (scene.materials[:, 1:7] <= 1)).all()
    assert len(scene.lights) >= 1 or scene.sky is not None


def test_rooms_differ_and_are_furnished() -> None:
    sizes = [len(build_scene("rooms", seed).boxes) for seed in range(20)]
    assert min(sizes) > 20
    assert len(set(sizes)) > 8


@pytest.mark.parametrize("style", sorted(STYLES))
def test_scenes_of_a_style_differ(style: str) -> None:
    scenes = [build_scene(style, seed) for seed in range(12)]
    assert min(sum(len(group) for group in scene.primitives) for scene in scenes) > 20
    assert len({len(scene.boxes) for scene in scenes}) > 5


CLEARANCE = {"rooms": 0.04, "streets": 0.3, "warehouse": 0.25}


@pytest.mark.parametrize("style", sorted(STYLES))
@pytest.mark.parametrize("seed", range(6))
def test_a_camera_stands_free(style: str, seed: int) -> None:
    scene = build_scene(style, seed)
    pose = draw_pose(scene, Dice(torch.Generator().manual_seed(seed)))
    x, y, z = pose.position
    width, depth, height = scene.extent
    assert 0.3 <= x <= width - 0.3
    assert 0.3 <= y <= depth - 0.3
    assert 1.0 <= z <= min(1.8, height)
    inside = any(a < x < c and b < y < d for a, b, c, d in scene.obstacles)
    # In a crowded room the camera looks over the furniture in the middle.
    assert not inside or (style, x, y, z) == ("rooms", width / 2, depth / 2, 1.7)
    around = torch.randn((3, 500), generator=torch.Generator().manual_seed(0))
    around = around / around.norm(dim=0)
    origin = torch.tensor(pose.position)[:, None].expand(3, 500)
    free = Tracer().nearest_distance(scene.primitives, origin, around)
    assert float(free.min()) > CLEARANCE[style]


def test_a_camera_in_a_full_hall_takes_refuge_in_an_aisle() -> None:
    for seed in range(20):
        scene = build_scene("warehouse", seed)
        assert scene.refuge is not None
        x, y = scene.refuge
        full = replace(scene, obstacles=((0.0, 0.0, *scene.extent[:2]),))
        pose = draw_pose(full, Dice(torch.Generator().manual_seed(seed)))
        assert pose.position == (x, y, 1.7)
        assert not any(a < x < c and b < y < d for a, b, c, d in scene.obstacles)


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_the_lens_spans_the_frame(name: str) -> None:
    domain = DOMAINS[name]
    camera = draw_camera(domain, Dice(torch.Generator().manual_seed(3)))
    height, width = domain.size
    edges = torch.tensor([[0.01, height / 2], [width - 0.01, height / 2]])
    rays, valid = camera.unproject(edges)
    assert valid.all()
    # Longitudes, so that a view of 360 degrees does not look like one of none.
    left, right = torch.rad2deg(torch.atan2(rays[:, 0], rays[:, 2])).tolist()
    low, high = domain.lens.fov_degrees
    assert low - 0.5 <= right - left <= high + 0.5


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_a_domain_of_another_size_has_the_resized_camera(name: str) -> None:
    domain = DOMAINS[name]
    height, width = domain.size
    large = replace(domain, size=(2 * height, 2 * width))
    camera, larger = (
        draw_camera(spec, Dice(torch.Generator().manual_seed(3))) for spec in (domain, large)
    )
    torch.testing.assert_close(larger.params, camera.resize(large.size).params)


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_frames_are_exposed_and_within_the_domains_range(name: str) -> None:
    domain = DOMAINS[name]
    height, width = domain.size
    small = replace(domain, size=(height // 4, width // 4))
    seed = domain.splits["train"].scenes[5]
    rendering, camera = render_frame(
        small, build_scene(domain.style, seed), seed=seed, view=0, quality=Quality(1)
    )
    near, far = domain.distances
    inside, seen = camera.valid(), rendering.valid
    assert not (seen & ~inside).any()
    assert near <= float(rendering.distance[seen].min()) <= float(rendering.distance.max()) <= far
    assert (rendering.distance[~seen] == 0).all()
    if build_scene(domain.style, seed).sky is None:
        assert seen.equal(inside)
    image = rendering.image[:, inside]
    assert 0.25 < float(image.mean()) < 0.85
    assert float((image.amax(0) < 0.04).float().mean()) < 0.2
    assert float((image.amin(0) > 0.98).float().mean()) < 0.4
    assert float(image.std()) > 0.05


def test_frames_differ_by_domain_scene_and_view() -> None:
    names = [("a", 1, 0), ("b", 1, 0), ("a", 2, 0), ("a", 1, 1)]
    draws = [float(torch.rand((), generator=frame_generator(*name))) for name in names]
    assert len(set(draws)) == len(names)
    assert draws[0] == float(torch.rand((), generator=frame_generator("a", 1, 0)))


def test_the_same_frame_is_the_same_picture() -> None:
    domain = DOMAINS["rooms_fisheye"]
    scene = build_scene("rooms", 200_001)
    quality = Quality(samples_per_pixel=1)
    first, camera = render_frame(domain, scene, seed=200_001, view=0, quality=quality)
    again, _ = render_frame(domain, scene, seed=200_001, view=0, quality=quality)
    assert first.image.equal(again.image)
    assert first.distance.equal(again.distance)
    assert first.valid.equal(camera.valid())
    assert float(first.distance[first.valid].min()) > 0.1
    assert float(first.distance.max()) < math.dist((0, 0, 0), scene.extent)
    assert 0.2 < float(first.image[:, first.valid].mean()) < 0.8


@pytest.mark.slow
def test_compiled_tracing_agrees_with_the_plain_one() -> None:
    scene = build_scene("rooms", 5)
    generator = torch.Generator().manual_seed(0)
    origin = torch.tensor(scene.extent)[:, None] * (
        0.1 + 0.8 * torch.rand((3, 5000), generator=generator)
    )
    towards = torch.nn.functional.normalize(torch.randn((3, 5000), generator=generator), dim=0)
    plain, compiled = Tracer(), Tracer(compiled=True)
    expected, index = plain.nearest(scene.primitives, origin, towards)
    distance, fast_index = compiled.nearest(scene.primitives, origin, towards)
    torch.testing.assert_close(distance, expected, rtol=1e-5, atol=1e-5)
    assert (index == fast_index).float().mean() > 0.999
    alone = compiled.nearest_distance(scene.primitives, origin, towards)
    torch.testing.assert_close(alone, expected, rtol=1e-5, atol=1e-5)


def test_a_ray_into_nothing_misses() -> None:
    builder = SceneBuilder()
    builder.material(Material(Texture.PLAIN, (0.5, 0.5, 0.5)))
    scene = builder.build(extent=(1.0, 1.0, 1.0), obstacles=())
    up = torch.tensor([[0.0], [0.0], [1.0]])
    distance, _ = Tracer().nearest(scene.primitives, torch.zeros(3, 1), up)
    assert distance.item() == MISS


def test_noise_is_smooth_periodic_and_bounded() -> None:
    x = torch.linspace(-40, 40, 4001)
    noise = value_noise(x, x * 0.37, 2.5)
    assert 0 <= float(noise.min()) < float(noise.max()) <= 1
    assert float(noise.diff().abs().max()) < 0.08
    torch.testing.assert_close(value_noise(x + 32, x * 0.37, 2.5), noise, rtol=0, atol=1e-3)
    assert 0 <= float(fractal_noise(x, x).min()) <= float(fractal_noise(x, x).max()) <= 1


@pytest.mark.parametrize("texture", list(Texture))
def test_surface_colours_stay_in_range_and_fade_with_distance(texture: Texture) -> None:
    row = Material(texture, (0.8, 0.6, 0.4), (0.2, 0.1, 0.3), scale=0.2).row()
    generator = torch.Generator().manual_seed(1)
    local = torch.randn((2000, 3), generator=generator)
    normal = torch.tensor([[0.0, 0.0, 1.0]]).expand(2000, 3)
    material = torch.tensor(row).expand(2000, -1)
    near = albedo(material, local, normal, torch.full((2000,), 1e-4))
    far = albedo(material, local, normal, torch.full((2000,), 5.0))
    assert float(near.min()) >= 0
    assert float(near.max()) <= 1
    if texture is not Texture.PICTURE:
        assert float(far.std(0).max()) < 1e-5
    if texture is not Texture.PLAIN:
        assert float(near.std(0).max()) > 0.02
