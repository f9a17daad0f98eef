"""False cameras for adapters: what each control shows, and that the scale head never sees it."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dart.cameras import LENSES, Camera, CameraEmbedder, Equidistant, Pinhole, default_camera
from dart.cameras.controls import WIDE, largest_polar, mismatched_camera, permutation
from dart.checkpoint_header import read_metadata
from dart.conditioning import CameraControl, Conditioning, EmbeddingKind
from dart.errors import UserError
from dart.models import create_model, load_adapter, save_adapter, save_pretrained

SIZE = (64, 96)
EXTRAS = {
    "kannala_brandt": [-0.02, 0.005, -0.001, 2e-4],
    "radial_tangential": [-0.05, 0.01, 1e-4, -2e-4, 0.0, 0.0, 0.0, 0.0],
    "fisheye624": [0.01, -0.004, 1e-3, *[0.0] * 9],
    "thin_prism_fisheye": [0.01, -0.004, *[0.0] * 6],
    "mei": [1.4, 0.0, 0.0, 0.0, 0.0],
    "eucm": [0.62, 1.1],
    "double_sphere": [-0.18, 0.59],
    "radial_polynomial": [1.1, -0.05, 0.02, -0.003],
}


def lens(model: str, focal: float = 32.0) -> Camera:
    params = [focal, focal, SIZE[1] / 2, SIZE[0] / 2, *EXTRAS.get(model, [])]
    return LENSES[model](torch.tensor(params), SIZE)


def pinhole(focal: float = 70.0) -> Camera:
    return Pinhole(torch.tensor([focal, focal, SIZE[1] / 2, SIZE[0] / 2]), SIZE)


def angles(first: Tensor, second: Tensor) -> Tensor:
    return torch.atan2(
        torch.linalg.vector_norm(torch.linalg.cross(first, second), dim=-1),
        (first * second).sum(-1),
    )


@pytest.mark.parametrize("model", list(LENSES))
@pytest.mark.parametrize("focal", [32.0, 120.0])
def test_a_mismatched_lens_is_clearly_another(model: str, focal: float) -> None:
    real = lens(model, focal)
    false = mismatched_camera(real)
    assert false.size == real.size
    assert isinstance(false, Pinhole) == (largest_polar(real) > WIDE)
    assert angles(real.rays(), false.rays()).max() > math.radians(15)
    shown = CameraEmbedder(32, control="mismatched").embed([real], 8)
    assert (shown - CameraEmbedder(32).embed([real], 8)).abs().mean() > 0.2


@pytest.mark.parametrize("kind", ["fourier", "harmonics"])
@pytest.mark.parametrize("stride", [4, 32])
def test_none_is_zeros_and_constant_the_same_for_all(kind: EmbeddingKind, stride: int) -> None:
    cameras = [lens(model) for model in LENSES]
    none = CameraEmbedder(32, kind=kind, control="none")
    assert not none.embed(cameras, stride).any()
    assert not none.rays(cameras, stride).any()
    constant = CameraEmbedder(32, kind=kind, control="constant")
    shown = constant.embed(cameras, stride)
    real = CameraEmbedder(32, kind=kind)
    wanted = real.embed([default_camera(SIZE)], stride)
    assert torch.equal(shown, wanted.expand_as(shown))


@pytest.mark.parametrize("size", [(16, 24), (2, 3), (1, 2), (1, 1)])
def test_the_permutation_is_one_and_moves_something(size: tuple[int, int]) -> None:
    order, cells = permutation(size), size[0] * size[1]
    assert torch.equal(order.sort().values, torch.arange(cells))
    assert torch.equal(order, permutation(size))
    assert cells == 1 or not torch.equal(order, torch.arange(cells))


def test_shuffled_holds_the_same_cells_in_the_order_of_every_lens() -> None:
    shuffled, real = CameraEmbedder(32, control="shuffled"), CameraEmbedder(32)
    order = permutation((8, 12))
    for camera in (pinhole(), lens("equisolid")):
        for shown, plain in (
            (shuffled.embed([camera], 8), real.embed([camera], 8)),
            (shuffled.rays([camera], 8), real.rays([camera], 8)),
        ):
            assert torch.equal(shown.flatten(2), plain.flatten(2)[..., order])


@torch.no_grad()
@pytest.mark.parametrize("camera", ["none", "mismatched"])
def test_the_scale_head_sees_the_real_camera_whatever_adapters_see(camera: CameraControl) -> None:
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    real = create_model("none").eval()
    false = create_model("none", conditioning=Conditioning(camera)).eval()
    for model in (real, false):
        model.scale_head.last.weight.fill_(0.1)
    for shown in (pinhole(), lens("equidistant")):
        assert torch.equal(real(image, [shown]).scale, false(image, [shown]).scale)
    assert not torch.equal(real(image, [pinhole()]).scale, real(image, [lens("equidistant")]).scale)


@torch.no_grad()
def test_a_checkpoint_shows_again_what_it_was_trained_with(tmp_path: Path) -> None:
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    save_pretrained(create_model("none"), tmp_path / "base.safetensors", {})
    shown = Conditioning("mismatched", "harmonics")
    base = tmp_path / "base.safetensors"
    model = create_model("daa", pretrained=base, conditioning=shown).eval()
    assert model.get_parameter("adapters.0.camera_keys.weight").shape[1] == 81
    save_adapter(model, tmp_path / "a.safetensors", {"recipe": json.dumps({"seed": 0})})
    assert read_metadata(tmp_path / "a.safetensors")["conditioning"] == shown.to_dict()
    again = load_adapter(tmp_path / "a.safetensors")
    assert again.conditioning == shown
    cameras = [lens("equidistant")]
    assert torch.equal(again(image, cameras).distance, model(image, cameras).distance)
    plain = copy.deepcopy(model)
    plain.adapter_embedder = CameraEmbedder(256, kind="harmonics")
    at_first_stage = [m.show(cameras, 0, image) for m in (model, plain)]
    assert not torch.equal(*at_first_stage)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"camera": "shufled"}, "camera='shufled': must be one of real, none"),
        ({"embedding": "fourrier"}, "embedding='fourrier': must be one of fourier"),
        ({"lens": "real"}, "must map some of camera, embedding"),
        (3, "must map some of"),
    ],
)
def test_a_conditioning_that_cannot_be_is_refused_in_one_line(wrong: object, text: str) -> None:
    with pytest.raises(UserError) as error:
        Conditioning.from_dict(wrong, where="here")
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wide_lens_gets_a_pinhole_and_a_pinhole_a_fisheye() -> None:
    assert isinstance(mismatched_camera(pinhole()), Equidistant)
    assert isinstance(mismatched_camera(lens("stereographic")), Pinhole)
