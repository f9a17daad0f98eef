"""The renderer against closed forms: plane, box, sphere and cylinder, through every lens; light."""

import math

import pytest
import torch
from torch import Tensor

from dart.cameras import LENSES, Camera, KannalaBrandt, Pinhole
from dart.data.intersect import tracer
from dart.data.renderer import Exposure, Pose, Quality, Rendering, render_view
from dart.data.scene import Material, Scene, SceneBuilder, Sky
from dart.data.shading import Strata, radiance
from dart.data.textures import Texture

SIZE = (24, 32)
GREY = Material(Texture.PLAIN, (0.5, 0.5, 0.5))
_AFTER_FX_FY_CX_CY = {
    "pinhole": (20, 20),
    "radial_tangential": (20, 20, 0.05, -0.01, 1e-3, -1e-3, 2e-3, 0.0, 0.0, 0.0),
    "kannala_brandt": (8, 8, 0.03, -0.012, 0.002, 0.0),
    "fisheye624": (8, 8, 0.03, -0.012, 0.002, 0.0, 0.0, 0.0, 1e-3, -1e-3, 1e-3, 0.0, 1e-3, 0.0),
    "thin_prism_fisheye": (8, 8, 0.03, -0.012, 1e-3, -1e-3, 2e-3, 0.0, 1e-3, -1e-3),
    "mei": (16, 16, 0.8, -0.05, 0.01, 1e-3, 5e-4),
    "eucm": (12, 12, 0.6, 1.1),
    "double_sphere": (10, 10, -0.2, 0.55),
    "radial_polynomial": (1, 1, 8.0, 0.3, -0.2, 0.02),
    "equidistant": (8, 8),
    "equisolid": (9, 9),
    "stereographic": (7, 7),
    "orthographic": (14, 14),
    "equirectangular": (SIZE[1] / (2 * math.pi), SIZE[0] / math.pi),
}
"""fx and fy, then what each lens takes after cx and cy."""


def make_camera(model: str) -> Camera:
    fx, fy, *rest = _AFTER_FX_FY_CX_CY[model]
    return LENSES[model](torch.tensor([fx, fy, SIZE[1] / 2, SIZE[0] / 2, *rest]), SIZE)


@pytest.fixture(params=sorted(LENSES))
def camera(request: pytest.FixtureRequest) -> Camera:
    return make_camera(request.param)


def build(builder: SceneBuilder) -> Scene:
    builder.lights.append([0.0, 0.0, 50.0, 0.5, 900.0, 900.0, 900.0])
    return builder.build(extent=(1.0, 1.0, 1.0), obstacles=())


def render(scene: Scene, camera: Camera, pose: Pose, *, seed: int = 0) -> Rendering:
    generator = torch.Generator().manual_seed(seed)
    quality = Quality(samples_per_pixel=1)
    return render_view(scene, camera, pose, generator=generator, quality=quality)


def world_rays(camera: Camera, pose: Pose) -> Tensor:
    return (camera.rays() @ pose.rotation().T).double()


def assert_range(rendering: Rendering, expected: Tensor, camera: Camera) -> None:
    """Compare where the oracle is finite; elsewhere nothing may be seen."""
    seen = expected.isfinite() & camera.valid()
    assert rendering.valid.equal(seen)
    assert 0.01 < seen.double().mean() <= 1
    torch.testing.assert_close(
        rendering.distance[seen].double(), expected[seen], rtol=2e-5, atol=2e-5
    )
    assert (rendering.distance[~seen] == 0).all()


def test_the_rotation_turns_the_axes_as_documented() -> None:
    rotation = Pose((0.0, 0.0, 0.0), yaw=0.0).rotation()
    right, down, forward = rotation.T
    assert forward.tolist() == [1, 0, 0]
    assert right.tolist() == [0, -1, 0]
    assert down.tolist() == [0, 0, -1]
    turned = Pose((0.0, 0.0, 0.0), yaw=0.7, pitch=-0.3, roll=0.2).rotation()
    torch.testing.assert_close(turned @ turned.T, torch.eye(3))
    assert torch.linalg.det(turned).item() == pytest.approx(1)
    assert turned[2, 2].item() == pytest.approx(math.sin(-0.3))


def test_a_floor_lies_at_height_over_sine(camera: Camera) -> None:
    builder = SceneBuilder()
    builder.box((0.0, 0.0, -1.0), (400.0, 400.0, 1.0), GREY)
    pose = Pose((0.0, 0.0, 1.5), yaw=0.4, pitch=-0.9, roll=0.1)
    z = world_rays(camera, pose)[..., 2]
    expected = torch.where(z < -0.01, -1.5 / z, math.inf)
    rendering = render(build(builder), camera, pose)
    near = expected < 100
    assert (rendering.valid & near).equal(near & camera.valid())
    seen = near & camera.valid()
    torch.testing.assert_close(rendering.distance[seen].double(), expected[seen], rtol=2e-5, atol=0)


def test_a_room_seen_from_inside_is_the_nearest_of_six_planes(camera: Camera) -> None:
    builder = SceneBuilder()
    half = torch.tensor([2.0, 3.0, 1.4], dtype=torch.float64)
    builder.box((0.5, -0.5, 1.4), (2.0, 3.0, 1.4), GREY, yaw=0.6)
    pose = Pose((0.9, 0.3, 1.2), yaw=2.0, pitch=-0.2)
    turn = torch.tensor([[math.cos(0.6), -math.sin(0.6), 0], [math.sin(0.6), math.cos(0.6), 0],
                         [0, 0, 1]], dtype=torch.float64)  # fmt: skip
    rays = world_rays(camera, pose) @ turn
    position = torch.tensor([0.4, 0.8, -0.2], dtype=torch.float64) @ turn
    to_walls = torch.where(rays > 0, half - position, -half - position) / rays
    expected = to_walls.abs().amin(-1)
    assert_range(render(build(builder), camera, pose), expected, camera)


def test_a_sphere_is_the_root_of_its_quadratic(camera: Camera) -> None:
    builder = SceneBuilder()
    builder.sphere((2.2, 0.2, 1.0), 1.1, GREY)
    pose = Pose((0.0, 0.0, 1.0), yaw=0.05, pitch=0.02)
    rays = world_rays(camera, pose)
    centre = torch.tensor([2.2, 0.2, 0.0], dtype=torch.float64)
    along = rays @ centre
    inside = along**2 - centre @ centre + 1.1**2
    expected = torch.where((inside > 0) & (along > 0), along - inside.clamp(min=0).sqrt(), math.inf)
    rendering = render(build(builder), camera, pose)
    # Rays that graze the sphere are decided by rounding.
    clear = (inside.abs() > 1e-2) & camera.valid()
    assert rendering.valid[clear].equal(expected.isfinite()[clear])
    seen = clear & expected.isfinite()
    assert seen.sum() > 20
    torch.testing.assert_close(
        rendering.distance[seen].double(), expected[seen], rtol=1e-4, atol=1e-4
    )


def test_a_cylinder_is_round_from_the_side_and_flat_on_top() -> None:
    builder = SceneBuilder()
    builder.cylinder((3.0, 0.0, 0.0), 2.0, 0.5, GREY)
    camera = Pinhole(torch.tensor([40.0, 40.0, 1.5, 1.5]), (3, 3))
    side = render(build(builder), camera, Pose((0.0, 0.0, 1.0), yaw=0.0))
    assert side.distance[1, 1].item() == pytest.approx(2.5, abs=1e-4)
    above = render(build(builder), camera, Pose((3.0, 0.0, 5.0), yaw=0.0, pitch=-math.pi / 2))
    assert above.distance[1, 1].item() == pytest.approx(3.0, abs=1e-4)


def test_pixels_outside_the_image_circle_are_black_and_unknown() -> None:
    params = torch.tensor([8.0, 8.0, 16.0, 12.0, 0.03, -0.012, 0.002, 0.0])
    camera = KannalaBrandt(params, SIZE, max_polar=math.radians(100))
    builder = SceneBuilder()
    builder.sphere((0.0, 0.0, 1.0), 5.0, GREY)
    rendering = render(build(builder), camera, Pose((0.0, 0.0, 1.0), yaw=0.0))
    assert not camera.valid().all()
    assert rendering.valid.equal(camera.valid())
    assert (rendering.image[:, ~camera.valid()] == 0).all()
    torch.testing.assert_close(
        rendering.distance[camera.valid()], torch.full((int(camera.valid().sum()),), 5.0)
    )


def test_a_shadow_falls_where_the_lamp_is_hidden() -> None:
    builder = SceneBuilder()
    builder.box((0.0, 0.0, -0.1), (5.0, 5.0, 0.1), GREY)
    builder.box((0.0, 0.0, 2.0), (0.5, 0.5, 0.02), GREY)
    builder.lights.append([0.0, 0.0, 3.0, 0.01, 9.0, 9.0, 9.0])
    builder.ambient = (0.02, 0.02, 0.02)
    scene = builder.build(extent=(1.0, 1.0, 1.0), obstacles=())
    # Two metres beneath the plate its shadow is 1.5 m wide at each side; the picture sees 2.9 m.
    camera = Pinhole(torch.tensor([20.0, 20.0, 30.5, 0.5]), (1, 61))
    pose = Pose((0.0, 0.0, 1.9), yaw=math.pi / 2, pitch=-math.pi / 2)
    picture = render_view(
        scene, camera, pose, generator=torch.Generator().manual_seed(0),
        exposure=Exposure(gain=0.2, noise=0.0), quality=Quality(samples_per_pixel=16),
    ).image.mean(0)[0]  # fmt: skip
    shadow, light = picture[25:36].mean(), torch.cat([picture[:12], picture[-12:]]).mean()
    assert light > 2 * shadow


def open_floor(sky: Sky) -> Scene:
    builder = SceneBuilder()
    builder.box((0.0, 0.0, -1.0), (900.0, 900.0, 1.0), GREY)
    return builder.build(extent=(1.0, 1.0, 1.0), obstacles=(), sky=sky)


def grey_sky(**changes: float | tuple[float, float, float]) -> Sky:
    plain = {
        "sun_yaw": 0.7, "sun_height": 0.6, "sun_light": (0.0, 0.0, 0.0), "horizon": (0.8, 0.8, 0.8),
        "zenith": (0.8, 0.8, 0.8), "clouds": 0.0, "variation": 0.0, "haze": 1e9,
    }  # fmt: skip
    return Sky(**{**plain, **changes})  # pyright: ignore[reportArgumentType]


def light_from(scene: Scene, position: tuple[float, float, float], towards: Tensor) -> Tensor:
    """Return the mean linear light of 4,096 rays that are all the same."""
    count = 4096
    direction = (towards / towards.norm())[:, None].expand(3, count).contiguous()
    origin = torch.tensor(position)[:, None].expand(3, count).contiguous()
    strata = Strata(torch.arange(count) % 16, 4)
    generator = torch.Generator().manual_seed(0)
    light = radiance(scene, (origin, direction), strata, spread=1e-4, generator=generator,
                     trace=tracer(compiled=False))  # fmt: skip
    return light.mean(1)


@pytest.mark.parametrize("height", [0.3, 0.9, 1.5])
def test_a_floor_in_the_sun_follows_lamberts_cosine(height: float) -> None:
    down, sun = torch.tensor([0.3, 0.1, -1.0]), (1.5, 1.0, 0.5)

    def seen(sky: Sky) -> Tensor:
        return light_from(open_floor(sky), (0.0, 0.0, 2.0), down)

    dark = seen(grey_sky())
    low = seen(grey_sky(sun_light=sun, sun_height=height)) - dark
    overhead = seen(grey_sky(sun_light=sun, sun_height=math.pi / 2)) - dark
    torch.testing.assert_close(
        low / overhead, torch.full((3,), math.sin(height)), rtol=0.01, atol=0
    )
    torch.testing.assert_close(low / low[1], torch.tensor(sun), rtol=1e-4, atol=0)


def test_a_surface_gives_back_less_than_it_receives() -> None:
    scene = open_floor(grey_sky())
    down = light_from(scene, (0.0, 0.0, 2.0), torch.tensor([0.0, 0.1, -1.0]))
    up = light_from(scene, (0.0, 0.0, 2.0), torch.tensor([0.0, 0.1, 1.0]))
    torch.testing.assert_close(up, torch.full((3,), 0.8))
    # A grey of one half reflects half of what a share of the sky gives.
    assert 0.15 * 0.8 < down.mean() < 0.5 * 0.8 * 1.07


def test_haze_takes_contrast_exponentially() -> None:
    black = Material(Texture.PLAIN, (0.0, 0.0, 0.0))
    for distance in (50.0, 200.0):
        builder = SceneBuilder()
        builder.box((distance + 1.0, 0.0, 0.0), (1.0, 90.0, 90.0), black)
        sky = grey_sky(haze=200.0)
        scene = builder.build(extent=(1.0, 1.0, 1.0), obstacles=(), sky=sky)
        seen = light_from(scene, (0.0, 0.0, 0.0), torch.tensor([1.0, 0.0, 0.0]))
        expected = 0.8 * (1 - math.exp(-distance / 200))
        torch.testing.assert_close(seen, torch.full((3,), expected), rtol=1e-3, atol=1e-4)


def test_a_lamp_grows_weak_with_the_square_of_its_distance() -> None:
    light = {}
    for height in (1.0, 2.0, 4.0):
        builder = SceneBuilder()
        builder.box((0.0, 0.0, -1.0), (9.0, 9.0, 1.0), GREY)
        builder.lights.append([0.0, 0.0, height, 0.01, 5.0, 5.0, 5.0])
        builder.ambient = (0.0, 0.0, 0.0)
        scene = builder.build(extent=(1.0, 1.0, 1.0), obstacles=())
        light[height] = light_from(scene, (0.0, 0.0, 0.5), torch.tensor([0.0, 0.0, -1.0]))[0]
    # Softened near the lamp, where a point's light would have no bound.
    for near, far in ((1.0, 2.0), (2.0, 4.0)):
        expected = (0.6 + far**2) / (0.6 + near**2)
        assert (light[near] / light[far]).item() == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("gain", [0.7, 1.4])
def test_the_median_pixel_is_exposed_to_middle_grey(gain: float) -> None:
    builder = SceneBuilder()
    builder.box((0.0, 0.0, 0.0), (2.0, 2.0, 2.0), Material(Texture.BRICK, (0.8, 0.5, 0.3)))
    builder.ambient = (3.0, 3.0, 3.0)
    rendering = render_view(
        build(builder), make_camera("pinhole"), Pose((0.0, 0.0, 0.0), 0.3),
        generator=torch.Generator().manual_seed(0), exposure=Exposure(gain=gain, noise=0.0),
        quality=Quality(samples_per_pixel=1),
    )  # fmt: skip
    light = rendering.image**2.2
    linear = light / (1 - 0.18 * light)
    assert linear.mean(0).median().item() == pytest.approx(0.42 * gain, rel=0.02)


def test_the_sky_is_seen_and_has_no_range() -> None:
    camera = make_camera("equirectangular")
    rendering = render(open_floor(grey_sky()), camera, Pose((0.0, 0.0, 1.5), yaw=0.0))
    above = torch.arange(SIZE[0]) < SIZE[0] // 2
    assert not rendering.valid[above].any()
    assert (rendering.distance[above] == 0).all()
    assert rendering.valid[SIZE[0] // 2 + 1 :].all()
    assert rendering.image[:, above].mean() > 0.3
