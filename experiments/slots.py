"""Which of the notes' improvements does what, alone and with the others?

The notes name three: several heads with a learned mix of both attentions, queries that depend on
the image, and a projection that starts at zero. Each slot of the adapter is a hyperparameter here,
so that a factorial design is a few lines of a study and an interaction is an effect like others.
With every slot at its first value this is the notes' adapter but for its start, which is zero.
"""

from typing import Literal

from torch import nn

from dart.models import (
    DAA,
    Average,
    DynamicQueries,
    Gate,
    LowRankQueries,
    Stage,
    TokenGate,
    default_projection,
    register_variant,
    softmax_over_queries,
    softmax_over_tokens,
    zero_projection,
)


def _mix(kind: str, channels: int, heads: int) -> nn.Module:
    if kind == "token":
        return TokenGate(channels, heads=heads)
    return Gate(heads=heads) if kind == "head" else Average()


def _project(kind: str, channels: int) -> nn.Module:
    if kind == "random":
        return default_projection(channels)
    if kind == "linear":
        return zero_projection(channels)
    hidden = nn.Conv2d(channels, channels, 1)
    return nn.Sequential(hidden, nn.GELU(), zero_projection(channels))


@register_variant(
    hypothesis="The improvements of the notes act on their own and do not need each other.",
    compare_to="daa",
)
def daa_slots(  # noqa: PLR0913  # each is a factor of the design
    stage: Stage,
    *,
    attend: Literal["tokens", "queries"] = "tokens",
    queries: Literal["static", "dynamic"] = "static",
    mix: Literal["average", "head", "token"] = "average",
    project: Literal["linear", "mlp", "random"] = "linear",
    heads: int = 1,
    factor_std: float = 0.01,
) -> nn.Module:
    """The DAA with its slots open; ``project="random"`` is the notes' start, not the identity.

    ``factor_std`` is the size of the queries' factors: 0.5 makes scores of order one.
    """
    table = DynamicQueries if queries == "dynamic" else LowRankQueries
    return DAA(
        stage,
        queries=table(stage.channels, std=factor_std),
        heads=heads,
        mix=_mix(mix, stage.channels, heads),
        attend=softmax_over_queries if attend == "queries" else softmax_over_tokens,
        project=_project(project, stage.channels),
    )
