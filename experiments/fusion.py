"""How DAA merges its two attention maps.

The notes average them. If images and geometry deserve unequal trust, and the trust differs
between heads or places, a learned mix reaches the same target error while moving fewer
features, and so forgets less.
"""

from typing import Literal

from torch import nn

from dart.models import DAA, Gate, LowRankQueries, Stage, TokenGate, register_variant


@register_variant(
    hypothesis="A learned mix of image and camera attention forgets less than their average.",
    compare_to="daa_multi_head",
)
def daa_gated(
    stage: Stage,
    *,
    gate: Literal["scalar", "head", "token"] = "token",
    gate_logit: float = 0.0,
    heads: int = 4,
    num_queries: int = 64,
    rank: int = 8,
) -> nn.Module:
    """``daa_multi_head`` with a gate; ``gate_logit=0`` starts as the average.

    ``scalar``: one weight a stage; ``head``: one a head; ``token``: one a token and head.
    """
    if gate == "token":
        mix = TokenGate(stage.channels, heads=heads, logit=gate_logit)
    else:
        mix = Gate(heads=heads if gate == "head" else 1, logit=gate_logit)
    queries = LowRankQueries(stage.channels, num_queries=num_queries, rank=rank)
    return DAA(stage, queries=queries, heads=heads, mix=mix)
