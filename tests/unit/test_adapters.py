"""The adapter's parts, against the owner's formula written out in numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dart.errors import UserError
from dart.models import (
    DAA,
    Average,
    DynamicQueries,
    Gate,
    LowRankQueries,
    Stage,
    TokenGate,
    default_projection,
    softmax_over_queries,
    softmax_over_tokens,
)

STAGE = Stage(index=0, channels=12, stride=4, camera_dim=10)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def daa_of_the_notes(adapter: DAA, feat: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """The notes' steps one by one, for one image: feat (c, h, w), cam (e, h, w)."""
    state = {key: value.double().numpy() for key, value in adapter.state_dict().items()}
    channels = feat.shape[0]
    k_feat = feat.reshape(channels, -1)
    k_cam = state["camera_keys.weight"][:, :, 0, 0] @ cam.reshape(cam.shape[0], -1)
    q = state["queries.a"] @ state["queries.b"]
    att_f = softmax(q @ k_feat / np.sqrt(channels))
    att_c = softmax(q @ k_cam / np.sqrt(channels))
    att = 0.5 * (att_f + att_c)
    delta = att.T @ q
    out = delta @ state["project.weight"][:, :, 0, 0].T + state["project.bias"]
    return out.T.reshape(feat.shape)


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    features = torch.randn(2, STAGE.channels, 3, 5, generator=seeded(0)).double()
    camera = torch.randn(2, STAGE.camera_dim, 3, 5, generator=seeded(1)).double()
    return features, camera


def test_is_the_formula_of_the_notes(inputs: tuple[Tensor, Tensor]) -> None:
    features, camera = inputs
    # Large factors, so that the softmaxes are far from uniform.
    queries = LowRankQueries(STAGE.channels, num_queries=7, rank=3, std=1.5)
    adapter = DAA(STAGE, queries=queries, project=default_projection(STAGE.channels)).double()
    with torch.no_grad():
        answer = adapter(features, camera).numpy()
    for image in range(2):
        wanted = daa_of_the_notes(adapter, features[image].numpy(), camera[image].numpy())
        np.testing.assert_allclose(answer[image], wanted, rtol=1e-10, atol=1e-12)


def test_one_camera_serves_all_images(inputs: tuple[Tensor, Tensor]) -> None:
    features, camera = inputs
    adapter = DAA(STAGE, project=default_projection(STAGE.channels)).double()
    one = adapter(features, camera[:1])
    torch.testing.assert_close(one, adapter(features, camera[:1].expand(2, -1, -1, -1)))


def test_each_head_is_an_adapter_on_its_channels(inputs: tuple[Tensor, Tensor]) -> None:
    features, camera = inputs
    queries = LowRankQueries(STAGE.channels, num_queries=7, rank=3, std=1.5)
    whole = DAA(STAGE, queries=queries, heads=3, project=torch.nn.Identity()).double()
    width = STAGE.channels // 3
    parts = []
    for head in range(3):
        own = slice(head * width, (head + 1) * width)
        part = DAA(
            Stage(0, width, 4, STAGE.camera_dim),
            queries=LowRankQueries(width, num_queries=7, rank=3),
            project=torch.nn.Identity(),
        ).double()
        with torch.no_grad():
            part.queries.get_parameter("a").copy_(queries.a)
            part.queries.get_parameter("b").copy_(queries.b[:, own])
            keys = whole.get_parameter("camera_keys.weight")
            part.get_parameter("camera_keys.weight").copy_(keys[own])
        parts.append(part(features[:, own], camera))
    torch.testing.assert_close(whole(features, camera), torch.cat(parts, 1))


@pytest.mark.parametrize(
    ("channels", "parameters"), [(48, 15_536), (64, 21_568), (168, 73_256), (224, 110_048)]
)
def test_size_at_each_stage_of_tinyvim_s(channels: int, parameters: int) -> None:
    adapter = DAA(Stage(0, channels, 4, 256))
    assert sum(p.numel() for p in adapter.parameters()) == parameters


def test_softmaxes_sum_to_one_over_their_axis() -> None:
    scores = torch.randn(2, 3, 5, 7, generator=seeded(0))
    torch.testing.assert_close(softmax_over_tokens(scores).sum(-1), torch.ones(2, 3, 5))
    torch.testing.assert_close(softmax_over_queries(scores).sum(-2), torch.ones(2, 3, 7))


def test_only_the_softmax_over_queries_is_independent_of_resolution() -> None:
    features = torch.randn(1, STAGE.channels, 4, 4, generator=seeded(0))
    camera = torch.randn(1, STAGE.camera_dim, 4, 4, generator=seeded(1))
    sizes = {}
    for attend in (softmax_over_tokens, softmax_over_queries):
        adapter = DAA(STAGE, attend=attend, project=torch.nn.Identity())
        small = adapter(features, camera)
        large = adapter(features.repeat(1, 1, 4, 4), camera.repeat(1, 1, 4, 4))
        sizes[attend] = (small.abs().mean() / large.abs().mean()).item()
    assert sizes[softmax_over_queries] == pytest.approx(1, rel=1e-4)
    assert sizes[softmax_over_tokens] == pytest.approx(16, rel=1e-4)


@pytest.mark.parametrize("make", [lambda: Gate(heads=3), lambda: TokenGate(12, heads=3)])
def test_a_gate_starts_as_the_average(make) -> None:
    by_feature = torch.rand(2, 3, 5, 7, generator=seeded(0))
    by_camera = torch.rand(1, 3, 5, 7, generator=seeded(1))
    tokens = torch.randn(2, 7, 12, generator=seeded(2))
    mixed = make()(by_feature, by_camera, tokens)
    torch.testing.assert_close(mixed, Average()(by_feature, by_camera, tokens))


@pytest.mark.parametrize(("logit", "winner"), [(-50.0, 0), (50.0, 1)])
def test_a_gate_chooses_an_attention(logit: float, winner: int) -> None:
    attentions = torch.rand(2, 2, 3, 5, 7, generator=seeded(0)).unbind()
    tokens = torch.randn(2, 7, 12, generator=seeded(2))
    for gate in (Gate(logit=logit), TokenGate(12, heads=3, logit=logit)):
        torch.testing.assert_close(gate(*attentions, tokens), attentions[winner])


def test_dynamic_queries_follow_the_image_and_static_ones_do_not() -> None:
    tokens = torch.randn(2, 7, 12, generator=seeded(0))
    dynamic = DynamicQueries(12, num_queries=5, rank=3)(tokens)
    assert dynamic.shape == (2, 5, 12)
    assert not torch.allclose(dynamic[0], dynamic[1])
    assert torch.linalg.matrix_rank(dynamic.double(), rtol=1e-5).tolist() == [3, 3]
    assert LowRankQueries(12, num_queries=5, rank=3)(tokens).shape == (1, 5, 12)


@pytest.mark.parametrize("heads", [0, 5, -3])
def test_heads_must_divide_the_channels(heads: int) -> None:
    with pytest.raises(UserError, match="allowed there: 1, 2, 3, 4, 6, 12"):
        DAA(STAGE, heads=heads)


def test_there_must_be_queries() -> None:
    with pytest.raises(UserError, match="num_queries=0: must be at least 1"):
        LowRankQueries(12, num_queries=0)
    with pytest.raises(UserError, match="rank=-1: must be at least 1"):
        DynamicQueries(12, rank=-1)
