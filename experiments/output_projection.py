"""Is one linear map of the handed-back queries too little?

The notes ask whether ``proj_out`` is too simple: the residual of a cell is a fixed linear image of
a mix of fixed words. A hidden layer makes it a function of the mix, and a depthwise 3x3 lets the
correction of a cell see what its neighbours are given, as undoing a stretch needs. Both last maps
start at zero.
"""

from torch import nn

from dart.models import (
    DAA,
    LowRankQueries,
    Stage,
    register_variant,
    softmax_over_queries,
    zero_projection,
)


def _with_projection(
    stage: Stage, project: nn.Module, *, num_queries: int, rank: int, factor_std: float
) -> nn.Module:
    queries = LowRankQueries(stage.channels, num_queries=num_queries, rank=rank, std=factor_std)
    return DAA(stage, queries=queries, attend=softmax_over_queries, project=project)


@register_variant(
    hypothesis="A hidden layer after the attention adapts better than a linear map.",
    compare_to="daa_query_softmax",
)
def daa_output_mlp(
    stage: Stage, *, num_queries: int = 64, rank: int = 8, factor_std: float = 0.5
) -> nn.Module:
    """``daa_query_softmax`` whose projection has a hidden layer as wide as the stage."""
    project = nn.Sequential(
        nn.Conv2d(stage.channels, stage.channels, 1), nn.GELU(), zero_projection(stage.channels)
    )
    return _with_projection(
        stage, project, num_queries=num_queries, rank=rank, factor_std=factor_std
    )


@register_variant(
    hypothesis="A correction that sees its neighbours' corrections adapts better.",
    compare_to="daa_query_softmax",
)
def daa_output_separable(
    stage: Stage, *, num_queries: int = 64, rank: int = 8, factor_std: float = 0.5
) -> nn.Module:
    """``daa_query_softmax`` with a depthwise 3x3 before its projection."""
    project = nn.Sequential(
        nn.Conv2d(stage.channels, stage.channels, 3, padding=1, groups=stage.channels),
        zero_projection(stage.channels),
    )
    return _with_projection(
        stage, project, num_queries=num_queries, rank=rank, factor_std=factor_std
    )
