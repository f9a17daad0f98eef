"""What the ideas are measured against: no adapter at all, and the adapter of the owner's notes.

``daa`` keeps the notes' formula to the letter, so it inherits what was measured of it: a softmax
over n tokens leaves a residual of about q|query|/n, which is nearly nothing at high resolution,
and gradients below Adam's epsilon for all but the bias of its projection.
"""

from torch import nn

from dart.models import DAA, LowRankQueries, Stage, default_projection, register_variant


@register_variant(
    hypothesis="Decoder and scale head alone can carry the adaptation.", uses_camera=False
)
def none(stage: Stage) -> nn.Module | None:  # noqa: ARG001
    """No adapter at any stage."""
    return None


@register_variant(
    hypothesis="Camera-aware residuals adapt the encoder's features to the lens.",
    compare_to="none",
    starts_at_identity=False,
)
def daa(stage: Stage, *, num_queries: int = 64, rank: int = 8) -> nn.Module:
    """The distortion-aware adapter of the notes; its projection does not start at zero."""
    return DAA(
        stage,
        queries=LowRankQueries(stage.channels, num_queries=num_queries, rank=rank),
        project=default_projection(stage.channels),
    )
