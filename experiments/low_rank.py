"""Is a change of low rank enough?

A new lens asks the same features of bent surroundings. If the change that it asks of the weights
is small and simple, updates of low rank to the encoder's own layers adapt as well as an adapter
that looks at the camera, and cost nothing once they are merged.

Source: LoRA (arXiv 2106.09685), DoRA (arXiv 2402.09353), MambaPEFT for where in a scan (arXiv
2411.03855).

Axis letters: ``b`` batch (``#b``: one or b), ``c d`` channels, ``e`` camera channels, ``h w``
cells.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dart.errors import UserError
from dart.models import DAA, LowRankQueries, Stage, Tuner, default_projection, register_variant
from dart.models.low_rank import LowRank, NormedLowRank, pointwise_weights, scan_weights


def chosen_weights(stage: Stage, where: str) -> list[str]:
    """Return the names of the weights of a stage that ``where`` means.

    Raises:
        UserError: The scan is asked for in a stage that has none.
    """
    scan = [] if where == "pointwise" else scan_weights(stage.layers)
    if where != "pointwise" and not scan:
        raise UserError(
            f"where='{where}': stage {stage.index} of this encoder has no selective scan; "
            "allowed there: 'pointwise'"
        )
    return scan if where == "scan" else [*pointwise_weights(stage.layers), *scan]


@register_variant(
    hypothesis="Updates of low rank to the encoder's own layers need no adapter beside them.",
    compare_to="none",
    uses_camera=False,
)
def lora(
    stage: Stage,
    *,
    rank: int = 8,
    alpha: float = 8.0,
    where: Literal["pointwise", "scan", "both"] = "pointwise",
) -> nn.Module | None:
    """Low-rank updates of all linear layers and dense 1x1 convolutions, of the scan, or both."""
    names = chosen_weights(stage, where)
    return LowRank(stage, names, rank=rank, alpha=alpha) if names else None


@register_variant(
    hypothesis="Moving lengths and directions of weights apart adapts better than LoRA.",
    compare_to="lora",
    uses_camera=False,
)
def dora(
    stage: Stage,
    *,
    rank: int = 8,
    alpha: float = 8.0,
    where: Literal["pointwise", "scan", "both"] = "pointwise",
) -> nn.Module | None:
    """LoRA on the directions of a weight's rows, and a trained length for each row."""
    names = chosen_weights(stage, where)
    return NormedLowRank(stage, names, rank=rank, alpha=alpha) if names else None


class TunedThen(Tuner):
    """A stage under a tuner, and the residual of an adapter on what it gives."""

    def __init__(self, tuner: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.tuner = tuner
        self.adapter = adapter

    def forward(
        self,
        layers: nn.Module,
        features: Float[Tensor, "b c h w"],
        camera: Float[Tensor, "#b e h2 w2"],
    ) -> Float[Tensor, "b d rows w2"]:
        """Return the adapted map of the tuned stage."""
        tuned = self.tuner(layers, features, camera)
        # Rows below the image's cells hold a transformer's other tokens.
        cells, others = tuned.tensor_split([camera.shape[2]], dim=2)
        return torch.cat([cells + self.adapter(cells, camera), others], dim=2)


@register_variant(
    hypothesis="Beside LoRA the distortion-aware residual still earns its place.",
    compare_to="lora",
    starts_at_identity=False,
)
def daa_lora(
    stage: Stage, *, rank: int = 8, alpha: float = 8.0, num_queries: int = 64, queries_dim: int = 8
) -> nn.Module:
    """LoRA in the stage and ``daa`` after it, as DepthFisheye is said to compose them.

    ``queries_dim`` is the rank of the adapter's queries; against ``daa`` it shows what LoRA adds.
    """
    daa = DAA(
        stage,
        queries=LowRankQueries(stage.channels, num_queries=num_queries, rank=queries_dim),
        project=default_projection(stage.channels),
    )
    low_rank = LowRank(stage, pointwise_weights(stage.layers), rank=rank, alpha=alpha)
    return TunedThen(low_rank, daa)
