"""The distortion-aware adapter (DAA), composed of parts that exchange freely.

Queries attend to image features and to the camera embedding; the mix of both attentions hands
the queries back to the tokens. Each part is a slot, so that one idea is one part.

Axis letters: ``b`` batch (``#b``: one or b), ``c`` channels, ``e`` camera channels, ``h w``
cells, ``n`` tokens (cells in a row), ``q`` queries, ``k`` heads, ``d`` channels of a head.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from dart.errors import UserError

Attend = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Stage:
    """Where an adapter sits: after stage ``index`` of the encoder."""

    index: int
    channels: int
    stride: int
    """Pixels of the image a cell, along each side."""
    camera_dim: int
    """Channels of the camera embedding."""
    layers: nn.Module = field(default_factory=nn.Identity, compare=False, repr=False)
    """The encoder's own layers of this stage, with their pretrained weights; to read only."""


class Tuner(nn.Module):
    """Base of adapters that change what a stage computes instead of adding to what it gives.

    ``forward(layers, features, camera)`` runs the stage's layers its own way and returns the map
    that the stage gives. It must not write into the layers. Both maps may have more rows than the
    image has cells: class tokens of a vision transformer travel below the cells.
    """


class Reweighted(Tuner, ABC):
    """A tuner whose stage runs with other weights; merging puts them into the layers for good."""

    @abstractmethod
    def weights(self, layers: nn.Module) -> dict[str, Tensor]:
        """Return the parameters and buffers of ``layers`` that are replaced, by name."""

    def forward(
        self,
        layers: nn.Module,
        features: Float[Tensor, "b c h w"],
        camera: Float[Tensor, "#b e h2 w2"],  # noqa: ARG002
    ) -> Float[Tensor, "b d rows w2"]:
        """Return the map of the stage under the weights of ``weights``."""
        return functional_call(layers, self.weights(layers), (features,))

    @torch.no_grad()
    def merge(self, layers: nn.Module) -> None:
        """Write the weights into the layers, which then run without this tuner."""
        own = dict(layers.named_parameters()) | dict(layers.named_buffers())
        for name, value in self.weights(layers).items():
            own[name].copy_(value)


def softmax_over_tokens(scores: Float[Tensor, "*b q n"]) -> Float[Tensor, "*b q n"]:
    """Share each query out among the tokens: what a token gets shrinks as tokens grow in number."""
    return scores.softmax(-1)


def softmax_over_queries(scores: Float[Tensor, "*b q n"]) -> Float[Tensor, "*b q n"]:
    """Let each token mix the queries: what it gets is independent of the number of tokens."""
    return scores.softmax(-2)


class LowRankQueries(nn.Module):
    """Queries that are the same for every image: A B, with A (q, rank) and B (rank, c).

    Args:
        channels: Channels of a query.
        num_queries: Number of queries.
        rank: Rank of the table of queries.
        std: Standard deviation of the entries of A and B at the start.
    """

    def __init__(
        self, channels: int, *, num_queries: int = 64, rank: int = 8, std: float = 0.01
    ) -> None:
        super().__init__()
        _check_positive(num_queries=num_queries, rank=rank)
        self.a = nn.Parameter(std * torch.randn(num_queries, rank))
        self.b = nn.Parameter(std * torch.randn(rank, channels))

    def forward(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "1 q c"]:  # noqa: ARG002
        """Return the queries, whatever the tokens."""
        return (self.a @ self.b)[None]


class DynamicQueries(nn.Module):
    """Low-rank queries whose coefficients depend on the image: (A + f(tokens)) B.

    ``f`` sees the mean of the normalised tokens through a bottleneck of ``rank`` numbers.

    Args:
        channels: Channels of a query.
        num_queries: Number of queries.
        rank: Rank of the table of queries, and width of the bottleneck.
        std: Standard deviation of the entries of A and B at the start.
    """

    def __init__(
        self, channels: int, *, num_queries: int = 64, rank: int = 8, std: float = 0.01
    ) -> None:
        super().__init__()
        _check_positive(num_queries=num_queries, rank=rank)
        self.a = nn.Parameter(std * torch.randn(num_queries, rank))
        self.b = nn.Parameter(std * torch.randn(rank, channels))
        self.context = nn.Linear(channels, rank)
        # Not zero: behind a projection that is zero, a second zero would not move for two steps.
        self.shift = nn.Parameter(std * torch.randn(rank, num_queries * rank))

    def forward(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b q c"]:
        """Return the queries for each image."""
        mean = functional.layer_norm(tokens, tokens.shape[-1:]).mean(1)
        shift = self.context(mean).tanh() @ self.shift
        return (self.a + shift.unflatten(-1, self.a.shape)) @ self.b


class Average(nn.Module):
    """The mean of both attentions."""

    def forward(
        self,
        by_feature: Float[Tensor, "#b k q n"],
        by_camera: Float[Tensor, "#b k q n"],
        tokens: Float[Tensor, "b n c"],  # noqa: ARG002
    ) -> Float[Tensor, "#b k q n"]:
        """Return one attention from two."""
        return 0.5 * (by_feature + by_camera)


class Gate(nn.Module):
    """A learned weight between both attentions: 0 trusts the image alone, 1 the camera alone.

    Args:
        heads: Number of weights: one a head, or 1 for all heads together.
        logit: The weight's logit at the start; 0 is the average.
    """

    def __init__(self, *, heads: int = 1, logit: float = 0.0) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.full((heads, 1, 1), logit))

    def forward(
        self,
        by_feature: Float[Tensor, "#b k q n"],
        by_camera: Float[Tensor, "#b k q n"],
        tokens: Float[Tensor, "b n c"],  # noqa: ARG002
    ) -> Float[Tensor, "#b k q n"]:
        """Return one attention from two."""
        return by_feature + self.logit.sigmoid() * (by_camera - by_feature)


class TokenGate(nn.Module):
    """A weight between both attentions for every token and head, read off the token.

    Args:
        channels: Channels of a token.
        heads: Heads of the attention.
        logit: The weight's logit at the start, the same for all tokens; 0 is the average.
    """

    def __init__(self, channels: int, *, heads: int = 1, logit: float = 0.0) -> None:
        super().__init__()
        self.weigh = nn.Linear(channels, heads)
        nn.init.zeros_(self.weigh.weight)
        nn.init.constant_(self.weigh.bias, logit)

    def forward(
        self,
        by_feature: Float[Tensor, "#b k q n"],
        by_camera: Float[Tensor, "#b k q n"],
        tokens: Float[Tensor, "b n c"],
    ) -> Float[Tensor, "b k q n"]:
        """Return one attention from two."""
        gate = self.weigh(tokens).mT.sigmoid()[:, :, None]
        return by_feature + gate * (by_camera - by_feature)


def default_projection(channels: int) -> nn.Module:
    """Return a linear map of each token with torch's usual random start, as the seed has it."""
    return nn.Conv2d(channels, channels, 1)


def zero_projection(channels: int) -> nn.Module:
    """Return a linear map of each token that starts at zero, weight and bias."""
    projection = nn.Conv2d(channels, channels, 1)
    nn.init.zeros_(projection.weight)
    nn.init.zeros_(projection.bias)  # pyright: ignore[reportArgumentType]
    return projection


class DAA(nn.Module):
    """Queries attend to features and viewing angles; what they hand back is the residual.

    Args:
        stage: Where the adapter sits.
        queries: Maps tokens to queries; low-rank and the same for all images unless given.
        heads: Heads of the attention; must divide the channels.
        mix: Merges both attentions; their average unless given.
        attend: Turns scores into weights: ``softmax_over_tokens`` or ``softmax_over_queries``.
        project: Last map before the residual; linear and zero at the start unless given.

    Raises:
        UserError: ``heads`` does not divide the channels.

    Source: the owner's notes on DAAStage. Differs in one default: ``project`` starts at zero, so
    that step 0 is the pretrained network (``default_projection`` gives the notes' own).
    """

    def __init__(
        self,
        stage: Stage,
        *,
        queries: nn.Module | None = None,
        heads: int = 1,
        mix: nn.Module | None = None,
        attend: Attend = softmax_over_tokens,
        project: nn.Module | None = None,
    ) -> None:
        super().__init__()
        _check_heads(stage, heads)
        self.heads = heads
        self.attend = attend
        self.queries = LowRankQueries(stage.channels) if queries is None else queries
        # No bias: it would add the same to a query's score at every token.
        self.camera_keys: nn.Module = nn.Conv2d(stage.camera_dim, stage.channels, 1, bias=False)
        self.mix = Average() if mix is None else mix
        self.project = zero_projection(stage.channels) if project is None else project

    def forward(
        self, features: Float[Tensor, "b c h w"], camera: Float[Tensor, "#b e h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the residual to add to ``features``."""
        tokens = features.flatten(2)
        queries = self.queries(tokens.mT).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        queries_by_key = queries * queries.shape[-1] ** -0.5
        angles = self.camera_keys(camera).flatten(2)
        by_feature = self.attend(queries_by_key @ tokens.unflatten(1, (self.heads, -1)))
        by_camera = self.attend(queries_by_key @ angles.unflatten(1, (self.heads, -1)))
        attention = self.mix(by_feature, by_camera, tokens.mT)
        # The value of a query is the query itself: the camera enters the weights only.
        handed_back = queries.mT @ attention.to(queries.dtype)
        return self.project(handed_back.flatten(1, 2).unflatten(2, features.shape[2:]))


def _check_heads(stage: Stage, heads: int) -> None:
    if heads < 1 or stage.channels % heads:
        allowed = [n for n in range(1, 17) if stage.channels % n == 0]
        raise UserError(
            f"heads={heads} does not divide the {stage.channels} channels of stage {stage.index}; "
            f"allowed there: {', '.join(map(str, allowed))}"
        )


def _check_positive(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name}={value}: must be at least 1")
