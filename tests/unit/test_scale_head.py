"""The scale head."""

import pytest
import torch
from torch import Tensor

from dart.models.scale_head import ScaleHead


def make(**options) -> ScaleHead:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ScaleHead(224, 256, **options)


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = 10 * torch.randn(2, 224, 3, 4, generator=generator)
    return features, torch.rand(2, 256, 3, 4, generator=generator)


def test_starts_at_exactly_one(inputs: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(make()(*inputs), torch.ones(2))


def test_the_sigmoid_of_the_notes_stays_below_one(inputs: tuple[Tensor, Tensor]) -> None:
    head = make(activation="sigmoid")
    assert torch.equal(head(*inputs), torch.full((2,), 0.5))
    with torch.no_grad():
        head.last.bias.fill_(9.0)
    assert ((head(*inputs) > 0.99) & (head(*inputs) < 1)).all()


def test_may_exceed_one(inputs: tuple[Tensor, Tensor]) -> None:
    head = make()
    with torch.no_grad():
        head.last.bias.fill_(0.5)
    torch.testing.assert_close(head(*inputs), torch.full((2,), 0.5).exp())


def test_size() -> None:
    assert 400_000 <= sum(p.numel() for p in make().parameters()) <= 500_000


def test_every_parameter_learns_within_two_steps(inputs: tuple[Tensor, Tensor]) -> None:
    head = make().double()
    features, camera = (value.double() for value in inputs)
    before = {name: p.detach().clone() for name, p in head.named_parameters()}
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (head(features, camera).log() - torch.tensor([1.0, -2.0])).square().sum().backward()
        optimizer.step()
    assert not [n for n, p in head.named_parameters() if torch.equal(p, before[n])]


def test_reads_features_and_camera_of_its_own_image(inputs: tuple[Tensor, Tensor]) -> None:
    head = make().double()
    features, camera = (value.double() for value in inputs)
    with torch.no_grad():
        head.last.weight.normal_(generator=torch.Generator().manual_seed(1))
    together = head(features, camera)
    assert not torch.allclose(together, head(features.flip(0), camera))
    assert not torch.allclose(together, head(features, camera.flip(0)))
    torch.testing.assert_close(together[:1], head(features[:1], camera[:1]))
    one_camera = head(features, camera[:1])
    torch.testing.assert_close(one_camera[1:], head(features[1:], camera[:1]))
