"""What every lens owes: both ways over its field of view, gradients, edits, files and batches."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dart.cameras import LENSES, camera_from_dict, load_camera
from dart.cameras.camera import Camera
from dart.cameras.polar import PolarCamera
from dart.errors import UserError

SIZE = (60, 80)
PIXELS_64 = 1e-8
PIXELS_32 = 1e-4
# Beyond so many pixels a float32 no longer holds 1e-4 of one, nor a float64 ray 1e-8.
FARTHEST = 2000.0
PHASES = (Phase.explicit, Phase.generate)

EXTRAS = {
    "pinhole": [],
    "kannala_brandt": [-0.02, 0.005, -0.001, 2e-4],
    "radial_tangential": [-0.2, 0.05, 1e-3, -2e-3, -0.004, 0.01, 0.002, 1e-4],
    "fisheye624": [0.01, -0.004, 1e-3, -1e-4, 1e-5, -1e-6, 2e-3, -1e-3, 1e-3, -2e-4, 5e-4, 1e-4],
    "thin_prism_fisheye": [0.01, -0.004, 1e-3, -2e-3, 1e-3, -1e-4, 2e-3, -1e-3],
    "mei": [1.4, -0.1, 0.02, 1e-3, -2e-3],
    "eucm": [0.62, 1.1],
    "double_sphere": [-0.18, 0.59],
    "radial_polynomial": [1.1, -0.05, 0.02, -0.003],
    "equidistant": [],
    "equisolid": [],
    "stereographic": [],
    "orthographic": [],
    "equirectangular": [],
}
RANGES = {
    "kannala_brandt": [0.3, 0.1, 0.03, 0.005],
    "radial_tangential": [0.4, 0.1, 0.003, 0.003, 0.02, 0.05, 0.02, 0.005],
    "thin_prism_fisheye": [0.1, 0.03, 0.01, 0.01, 0.01, 0.003, 0.01, 0.01],
    "fisheye624": [0.1, 0.03, 0.01, 0.003, 1e-3, 1e-4, 0.01, 0.01, 0.01, 0.002, 0.01, 0.002],
}
EVERY = pytest.mark.parametrize("model", list(LENSES))
WIDE = [model for model in LENSES if model not in ("pinhole", "radial_tangential", "orthographic")]


def make(model: str, *, dtype: torch.dtype = torch.float64, **options: float) -> Camera:
    params = torch.tensor([22.0, 23.0, 40.5, 29.0, *EXTRAS[model]], dtype=dtype)
    return LENSES[model](params, SIZE, **options)


def directions(polar: Tensor, azimuth: Tensor) -> Tensor:
    polar, azimuth = torch.broadcast_tensors(polar, azimuth)
    return torch.stack(
        [polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin(), polar.cos()], dim=-1
    )


def whole_field(camera: Camera, *, num: int = 97) -> Tensor:
    # The pinhole's end is no direction; straight behind is one that no pixel names alone.
    most = min(camera.polar_limit.min().item() * (1 - 1e-9), math.pi - 1e-6)
    polar = torch.linspace(0, most, num, dtype=torch.float64)
    return directions(polar[:, None], torch.linspace(-3.1, 3.1, 13, dtype=torch.float64))


@st.composite
def lenses(draw: st.DrawFn, model: str, *, shortest: float = 20.0) -> Camera:
    focal = draw(st.floats(shortest, 800))
    low_high = [(-bound, bound) for bound in RANGES.get(model, [])]
    if model == "mei":
        low_high = [(-0.3, 3.0), (-0.3, 0.5), (-0.1, 2.0), (-0.003, 0.003), (-0.003, 0.003)]
    elif model == "eucm":
        low_high = [(0.0, 1.0), (0.3, 3.0)]
    elif model == "double_sphere":
        low_high = [(-0.6, 1.5), (0.0, 1.0)]
    elif model == "radial_polynomial":
        low_high = [(0.7, 300.0), (-0.3, 0.3), (-0.2, 0.2), (-0.05, 0.05)]
    extras = [draw(st.floats(low, high)) for low, high in low_high]
    if model == "radial_polynomial":
        extras = [extras[0], *(extras[0] * value for value in extras[1:])]
        focal = focal / extras[0]
    aspect = draw(st.floats(0.9, 1.1))
    params = torch.tensor([focal, focal * aspect, 400.3, 299.1, *extras], dtype=torch.float64)
    return LENSES[model](params, (600, 800))


@EVERY
@settings(max_examples=25, deadline=None, derandomize=True, phases=PHASES)
@given(data=st.data())
def test_round_trip_over_the_whole_field_of_view(model: str, data: st.DataObject) -> None:
    camera = data.draw(lenses(model))
    pixels, seen = camera.project(whole_field(camera))
    assert seen.all()
    rays, valid = camera.unproject(pixels)
    again, _ = camera.project(rays)
    near = (pixels.abs() < FARTHEST).all(-1)
    assert valid.all()
    assert (again - pixels)[near].abs().max() <= PIXELS_64
    assert ((again - pixels).abs() <= 1e-7 * pixels.abs().clamp(min=1)).all()
    assert (torch.linalg.vector_norm(rays, dim=-1) - 1).abs().max() <= 1e-14


@EVERY
@settings(max_examples=10, deadline=None, derandomize=True, phases=PHASES)
@given(data=st.data())
def test_pixels_of_an_image_round_trip_in_float32(model: str, data: st.DataObject) -> None:
    # A ray in float32 is known to 6e-8: many focal lengths off the axis, that is over 1e-4 px.
    camera = data.draw(lenses(model, shortest=100.0)).to(dtype=torch.float32)
    grid = torch.stack(
        torch.meshgrid(torch.arange(0.5, 800, 37), torch.arange(0.5, 600, 31), indexing="xy"), -1
    )
    rays, valid = camera.unproject(grid)
    again, seen = camera.project(rays)
    assert rays.dtype == again.dtype == torch.float32
    assert seen[valid].all()
    assert (again - grid)[valid].abs().max() <= PIXELS_32


@EVERY
def test_field_of_view_ends_where_it_says(model: str) -> None:
    camera = make(model)
    limit = camera.polar_limit
    assert limit.dtype == torch.float64
    azimuth = torch.linspace(-3, 3, 9, dtype=torch.float64)
    assert camera.project(directions(limit - 1e-5, azimuth))[1].all()
    if limit < math.pi - 1e-3:
        assert not camera.project(directions(limit + 1e-5, azimuth))[1].any()
        farther = (limit + 0.5).clamp(max=math.pi - 1e-4)
        outside, seen = camera.project(directions(farther, azimuth))
        assert outside.isfinite().all()
        assert not seen.any()


@EVERY
def test_pixels_that_no_ray_reaches_say_so(model: str) -> None:
    camera = make(model)
    ends = model not in ("pinhole", "stereographic")
    rays, valid = camera.unproject(torch.tensor([[1e6, 30.0], [40.0, -1e6]], dtype=torch.float64))
    assert rays.isfinite().all()
    assert torch.allclose(rays.norm(dim=-1), torch.ones(2, dtype=torch.float64))
    assert not (valid.any() and ends)


@pytest.mark.parametrize("model", WIDE)
def test_rays_beyond_90_degrees(model: str) -> None:
    camera = make(model)
    assert camera.polar_limit > math.radians(100)
    points = directions(torch.tensor(math.radians(100.0)), torch.linspace(-3, 3, 9)).double()
    pixels, seen = camera.project(7 * points)
    rays, valid = camera.unproject(pixels)
    assert seen.all()
    assert valid.all()
    assert torch.allclose(rays, points, atol=1e-12)


@pytest.mark.parametrize("model", [m for m in LENSES if issubclass(LENSES[m], PolarCamera)])
def test_max_polar_cuts_the_field_of_view(model: str) -> None:
    camera = make(model, max_polar=1.0)
    rays = directions(torch.tensor([0.99, 1.01]), torch.tensor(0.4)).double()
    pixels, seen = make(model).project(rays)
    assert seen.all()
    assert camera.project(rays)[1].tolist() == [True, False]
    edges, valid = camera.unproject(pixels)
    assert valid.tolist() == [True, False]
    assert math.acos(edges[1, 2].item()) == pytest.approx(1.0, abs=1e-3)
    natural = make(model).polar_limit.item()
    for wrong in (0.0, -1.0, 4.0, math.nan, *([natural + 0.01] if natural < 3.1 else [])):
        with pytest.raises(UserError, match="max_polar = "):
            make(model, max_polar=wrong)


@EVERY
def test_gradients_against_finite_differences(model: str) -> None:
    params = torch.stack([make(model).params, make(model).params * 1.01])
    most = 0.8 * min(LENSES[model](params, SIZE).polar_limit.min().item(), 2.5)
    polar = torch.rand(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = 2 * directions(polar * most, torch.arange(4, dtype=torch.float64))
    points[0, 0] = torch.tensor([0.0, 0.0, 1.5])
    pixels = LENSES[model](params, SIZE).project(points)[0].detach().requires_grad_()
    inputs = (points.requires_grad_(), params.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, p: LENSES[model](p, SIZE).project(x)[0], inputs)
    inputs = (pixels, params)
    assert torch.autograd.gradcheck(lambda x, p: LENSES[model](p, SIZE).unproject(x)[0], inputs)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_never_nan(model: str, dtype: torch.dtype) -> None:
    params = make(model, dtype=dtype).params.clone().requires_grad_()
    camera = LENSES[model](params, SIZE)
    limit = camera.polar_limit.detach()
    edge = directions(limit, torch.arange(5, dtype=torch.float64))
    bad, huge = math.nan, math.inf
    points = torch.tensor(
        [
            *([0, 0, 0], [0, 0, -1], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, -1, 0], [-1, 0, -0.0]),
            *([1e-30, 0, 1], [1e-30, 0, -1], [1e-13, 0, -1], [1e30, 0, 1e-30], [0, 0, 3e38]),
            *([bad, 0, 1], [huge, 0, 1], [0, -huge, huge], [1, 1, -1e-30], [3e38, 3e38, -3e38]),
            *edge.tolist(),
        ],
        dtype=dtype,
        requires_grad=True,
    )
    last = camera.project(edge)[0].detach().tolist()
    center = params.detach()[2:4].tolist()
    pixels = torch.tensor(
        [center, [1e30, 0], [bad, 1], [0, huge], [-huge, bad], [0, 0], [1e4, -1e4], *last],
        dtype=dtype,
        requires_grad=True,
    )
    for inputs, mapped in ((points, camera.project(points)), (pixels, camera.unproject(pixels))):
        assert mapped[0].isfinite().all()
        assert not mapped[1][~inputs.isfinite().all(-1)].any()
        for gradient in torch.autograd.grad(mapped[0].sum(), [inputs, params]):
            assert gradient.isfinite().all()
    assert camera.project(points)[1][2]
    rays = camera.rays()
    assert rays.isfinite().all()
    assert torch.allclose(rays.norm(dim=-1), torch.ones((), dtype=dtype))


@EVERY
def test_on_axis_is_the_centre(model: str) -> None:
    camera = make(model)
    centre = camera.params[2:4]
    assert torch.equal(camera.project(torch.tensor([0.0, 0, 3]).double())[0], centre)
    rays, valid = camera.unproject(centre)
    assert valid
    assert torch.equal(rays, torch.tensor([0.0, 0, 1]).double())
    near = torch.tensor([1e-9, -2e-9, 1.0]).double()
    pixel, _ = camera.project(near)
    assert torch.allclose(camera.unproject(pixel)[0], near, atol=1e-14)


@EVERY
def test_batch_of_lenses_is_each_lens(model: str) -> None:
    first = make(model).params
    second = torch.cat([first[:4] * 1.05, first[4:] * 0.9])
    batch = LENSES[model](torch.stack([first, second]), SIZE)
    singles = [LENSES[model](params, SIZE) for params in (first, second)]
    assert batch.polar_limit.shape == (2,)
    assert torch.allclose(batch.rays(), torch.stack([one.rays() for one in singles]), atol=1e-13)
    assert torch.equal(batch.valid(), torch.stack([one.valid() for one in singles]))
    points = torch.randn(2, 3, 7, 3, generator=torch.Generator().manual_seed(1)).double()
    for index, single in enumerate(singles):
        for ours, theirs in zip(batch.project(points), single.project(points[index]), strict=True):
            assert torch.allclose(ours[index].double(), theirs.double(), atol=1e-11)
    nested = LENSES[model](first.expand(2, 1, -1), SIZE)
    assert nested.rays().shape == (2, 1, *SIZE, 3)
    assert nested.project(points[:, :1])[0].shape == (2, 1, 7, 2)
    assert batch.project(points[0, 0, 0].expand(2, 3))[0].shape == (2, 2)


@EVERY
def test_edits_move_pixels_as_the_image(model: str) -> None:
    camera = make(model)
    height, width = SIZE
    points = directions(torch.linspace(0, 1, 9), torch.arange(9.0)).double()
    (u, v), seen = camera.project(points)[0].unbind(-1), camera.project(points)[1]
    assert seen.all()
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0])
    turned = torch.stack([points[:, 1], -points[:, 0], points[:, 2]], dim=-1)
    cases = [
        (camera.resize((30, 20)), points, (u / 4, v / 2)),
        (camera.crop(7, 11, 20, 30), points, (u - 11, v - 7)),
        (camera.pad(3, 5, 2, 1), points, (u + 3, v + 5)),
        (camera.flip(), mirrored, (width - u, v)),
    ]
    if model != "equirectangular":
        cases.append((camera.rotate90(), turned, (v, width - u)))
        half = points * torch.tensor([-1.0, -1.0, 1.0])
        cases.append((camera.rotate90(2), half, (width - u, height - v)))
    for edited, moved, expected in cases:
        pixels, visible = edited.project(moved)
        assert torch.allclose(pixels, torch.stack(expected, dim=-1), rtol=0, atol=1e-11)
        assert visible.all()


@pytest.mark.parametrize("model", [model for model in LENSES if model != "equirectangular"])
def test_turned_rays_are_the_turned_image(model: str) -> None:
    camera = make(model)
    rays = camera.rays().numpy()
    for turns in (1, 2, 3, -1, 5):
        turned = camera.rotate90(turns)
        expected = np.rot90(rays, turns)
        for _ in range(turns % 4):
            expected = np.stack([expected[..., 1], -expected[..., 0], expected[..., 2]], axis=-1)
        assert turned.size == expected.shape[:2]
        # At a fold the angle is known to the root of what the radius is.
        assert np.abs(turned.rays().numpy() - expected).max() <= 1e-7
        assert np.array_equal(turned.valid().numpy(), np.rot90(camera.valid().numpy(), turns))
    assert camera.rotate90(4).key == camera.rotate90(0).key == camera.key
    assert torch.allclose(camera.rotate90(1).rotate90(3).params, camera.params, atol=1e-13)
    assert torch.allclose(camera.flip().flip().params, camera.params, atol=1e-13)
    mirrored = camera.rays().flip(1) * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.allclose(camera.flip().rays(), mirrored, rtol=0, atol=1e-7)


@EVERY
def test_file_round_trip(model: str, tmp_path: Path) -> None:
    options = {"max_polar": 1.0} if issubclass(LENSES[model], PolarCamera) else {}
    camera = make(model, dtype=torch.float32, **options)
    path = tmp_path / "lens.json"
    path.write_text(json.dumps(camera.to_dict()))
    again = load_camera(path)
    assert type(again) is LENSES[model]
    assert again.key == camera.key
    if options:
        assert again.key != make(model, dtype=torch.float32).key


@EVERY
def test_impossible_parameters(model: str) -> None:
    content = make(model).to_dict()
    names = list(content["params"])
    with pytest.raises(UserError, match=f"got 3 numbers; needed {len(names)}: fx, fy"):
        camera_from_dict(content | {"params": [1, 2, 3]})
    with pytest.raises(UserError, match="fx = 0; it must be positive"):
        camera_from_dict(content | {"params": content["params"] | {"fx": 0}})
    if not issubclass(LENSES[model], PolarCamera):
        with pytest.raises(UserError, match=f"{model} takes no max_polar_degrees"):
            camera_from_dict(content | {"max_polar_degrees": 80})
    elif make(model).polar_limit < 3:
        with pytest.raises(UserError, match=r"max_polar = 17[0-9.]* degrees is beyond"):
            camera_from_dict(content | {"max_polar_degrees": 179})


@pytest.mark.parametrize(
    ("model", "name", "value", "allowed"),
    [
        ("eucm", "alpha", 1.2, "0..1"),
        ("eucm", "beta", 0.0, "1e-12..inf"),
        ("double_sphere", "alpha", -0.1, "0..1"),
        ("double_sphere", "xi", -1.5, "-0.999999..inf"),
        ("mei", "xi", -1.0, "-0.999999..inf"),
        ("radial_polynomial", "k1", -3.0, "1e-12..inf"),
    ],
)
def test_parameter_out_of_range(model: str, name: str, value: float, allowed: str) -> None:
    content = make(model).to_dict()
    with pytest.raises(UserError, match=f"{model}: {name} = {value:g}; it must be finite and") as e:
        camera_from_dict(content | {"params": content["params"] | {name: value}})
    assert str(e.value).endswith(f"within {allowed}")


def test_a_panorama_cannot_be_turned() -> None:
    with pytest.raises(UserError, match="equirectangular: a panorama turned by 90 degrees"):
        make("equirectangular").rotate90()
    assert make("equirectangular").rotate90(4).key == make("equirectangular").key
