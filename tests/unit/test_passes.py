"""Passes from tensors that stay where they are: what a GPU replays, run here without a graph."""

import pytest
import torch
from torch import Tensor, nn

from dart.cameras import KannalaBrandt
from dart.data.sample import Sample
from dart.measuring import predict
from dart.models import DepthNet, create_model
from dart.models.folding import fold
from dart.training.captured import NO_GRAPH
from dart.training.passes import MOST_SHAPES, Passes

CPU = torch.device("cpu")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_net(name: str = "daa_zero_init") -> DepthNet:
    net = create_model(name, generator=seeded(0)).eval()
    net.encoder = fold(net.encoder)
    with torch.no_grad():
        for parameter in net.adapters.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=seeded(1))
    return net


def make_sample(index: int, size: tuple[int, int]) -> Sample:
    lens = [30.0 + 3 * index, 30.0, size[1] / 2 + index, size[0] / 2, 0.01, 0.0, 0.0, 0.0]
    return Sample(
        image=torch.rand(3, *size, generator=seeded(index)),
        distance=torch.ones(size),
        valid=torch.ones(size, dtype=torch.bool),
        camera=KannalaBrandt(torch.tensor(lens), size),
        key=str(index),
        scene=0,
    )


@pytest.mark.parametrize("name", ["daa_zero_init", "none"])
@pytest.mark.parametrize("size", [(64, 96), (50, 70)], ids=["whole cells", "padded"])
def test_answers_are_the_networks_for_every_camera_and_batch(
    name: str, size: tuple[int, int]
) -> None:
    net = make_net(name)
    passes = Passes(net)
    # 2 images a batch, 1 in the last: two shapes, and cameras that change from batch to batch.
    for first in (0, 2, 4, 6):
        chosen = [make_sample(i, size) for i in range(first, first + (1 if first == 6 else 2))]
        image, cameras = torch.stack([s.image for s in chosen]), [s.camera for s in chosen]
        with torch.inference_mode():
            expected = net(image, cameras).distance
        assert torch.equal(passes(image, cameras), expected)
    assert passes.reason == NO_GRAPH
    samples = [make_sample(i, size) for i in range(18)]
    plain, asked = (predict(net, samples, device=CPU, asked=how) for how in (None, passes))
    assert all((one == other).all() for one, other in zip(plain, asked, strict=True))


def test_weights_that_moved_and_parts_that_were_replaced_are_seen() -> None:
    net, sample = make_net(), make_sample(0, (64, 96))
    passes = Passes(net)
    image, cameras = sample.image[None], [sample.camera]
    before = passes(image, cameras).clone()
    with torch.no_grad():
        next(net.decoder.parameters()).mul_(2)
    moved = passes(image, cameras).clone()
    net.adapters_enabled = False
    without = passes(image, cameras).clone()
    net.adapters_enabled = True
    net.encoder = fold(create_model("none", generator=seeded(5)).encoder)
    replaced = passes(image, cameras).clone()
    with torch.inference_mode():
        assert torch.equal(replaced, net(image, cameras).distance)
    answers = [before, moved, without, replaced]
    assert not any(torch.equal(a, b) for a in answers for b in answers if a is not b)


class Counting(nn.Module):
    """An adapter that reads a number on the host."""

    def forward(self, features: Tensor, camera: Tensor) -> Tensor:  # noqa: ARG002
        return features * float(features.mean())


def test_a_network_that_reads_a_value_is_named_and_runs_as_it_is() -> None:
    net, sample = make_net(), make_sample(0, (64, 96))
    net.adapters[1] = Counting()
    passes = Passes(net)
    answers = [passes(sample.image[None], [sample.camera]).clone() for _ in range(4)]
    assert passes.reason.startswith("daa_zero_init: a pass reads a number on the host")
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def test_more_shapes_than_are_kept_run_as_they_are() -> None:
    net = make_net("none")
    passes = Passes(net)
    for width in range(32, 32 * (MOST_SHAPES + 3), 32):
        sample = make_sample(0, (32, width))
        with torch.inference_mode():
            expected = net(sample.image[None], [sample.camera]).distance
        assert torch.equal(passes(sample.image[None], [sample.camera]), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures need a GPU")
def test_a_replayed_pass_is_the_pass() -> None:
    device = torch.device("cuda")
    net = make_net().to(device)
    passes = Passes(net)
    for index in range(6):
        sample = make_sample(index, (64, 96))
        image = sample.image[None].to(device)
        with torch.inference_mode():
            expected = net(image, [sample.camera]).distance
        torch.testing.assert_close(passes(image, [sample.camera]), expected, rtol=1e-5, atol=1e-5)
    assert passes.reason == ""
