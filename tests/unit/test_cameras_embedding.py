"""The cached embedding: what it holds, when it computes, and how much it keeps."""

import pytest
import torch

from dart.cameras import CameraEmbedder, KannalaBrandt, Pinhole, default_camera, embed_rays
from dart.cameras import embedding as module
from dart.errors import UserError

SIZE = (32, 64)


def pinhole(focal: float = 40.0) -> Pinhole:
    return Pinhole(torch.tensor([focal, focal, 32.0, 16.0]), SIZE)


def fisheye() -> KannalaBrandt:
    params = torch.tensor([20.0, 20, 32, 16, 0.01, 0, 0, 0])
    return KannalaBrandt(params, SIZE, max_polar=1.5)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    sizes: list[tuple[int, int]] = []

    def counted(rays: torch.Tensor, size: tuple[int, int], dim: int) -> torch.Tensor:
        sizes.append(size)
        return embed_rays(rays, size, dim)

    monkeypatch.setattr(module, "embed_rays", counted)
    return sizes


@pytest.mark.parametrize("camera", [pinhole(), fisheye()])
def test_four_scales_are_the_embedded_rays(camera: Pinhole | KannalaBrandt) -> None:
    embedder = CameraEmbedder(17)
    assert embedder.channels == 16
    for stride in (4, 8, 16, 32):
        size = (SIZE[0] // stride, SIZE[1] // stride)
        features = embedder.embed([camera], stride)
        assert features.shape == (1, 16, *size)
        assert features.isfinite().all()
        assert torch.equal(features, embed_rays(camera.rays()[None], size, 17))


def test_one_row_for_one_camera_and_a_row_each_for_several() -> None:
    embedder = CameraEmbedder(16)
    assert embedder.embed([pinhole(), pinhole()], 8).shape[0] == 1
    mixed = embedder.embed([pinhole(), fisheye(), pinhole()], 8)
    assert torch.equal(mixed[[0]], embedder.embed([pinhole()], 8))
    assert torch.equal(mixed[[1]], embedder.embed([fisheye()], 8))
    assert torch.equal(mixed[0], mixed[2])
    assert not torch.equal(mixed[0], mixed[1])


def test_an_equal_camera_is_not_computed_again(computed: list[tuple[int, int]]) -> None:
    embedder = CameraEmbedder(16)
    first = embedder.embed([pinhole()], 8)
    assert embedder.embed([pinhole(), pinhole()], 8) is first
    assert computed == [(4, 8)]
    embedder.embed([pinhole(41.0)], 8)
    embedder.embed([pinhole()], 16)
    assert computed == [(4, 8), (4, 8), (2, 4)]


def test_the_longest_unused_goes_when_the_memory_is_full(computed: list[tuple[int, int]]) -> None:
    rays, features = 32 * 64 * 3 * 4, 4 * 8 * 16 * 4
    embedder = CameraEmbedder(16, max_bytes=2 * (rays + features))
    for focal in (40.0, 41.0, 40.0, 42.0):
        embedder.embed([pinhole(focal)], 8)
    for focal in (42.0, 40.0):
        embedder.embed([pinhole(focal)], 8)
    assert len(computed) == 3
    for index in range(20):
        embedder.embed([pinhole(50.0 + index)], 8)
    assert embedder._bytes <= embedder.max_bytes
    assert embedder._bytes == sum(value.nbytes for value in embedder._cache.values())


def test_what_inference_computed_serves_training() -> None:
    embedder = CameraEmbedder(16)
    with torch.inference_mode():
        embedder.embed([pinhole()], 8)
    weight = torch.ones(16, 1, 1, requires_grad=True)
    (embedder.embed([pinhole()], 8) * weight).sum().backward()
    assert weight.grad is not None


def test_default_camera() -> None:
    camera = default_camera((96, 128))
    assert camera.params.tolist() == [112.0, 112.0, 64.0, 48.0]


def test_bad_input() -> None:
    embedder = CameraEmbedder(16)
    with pytest.raises(UserError, match="no camera to embed"):
        embedder.embed([], 8)
    with pytest.raises(UserError, match="no embedding at stride 5; pad"):
        embedder.embed([pinhole()], 5)
    with pytest.raises(UserError, match="differ in image size"):
        embedder.embed([pinhole(), pinhole().resize((64, 64))], 8)
    with pytest.raises(UserError, match="dim = 1; it must be at least 2"):
        CameraEmbedder(1)
    with pytest.raises(UserError, match="has no pixel"):
        default_camera((0, 4))
