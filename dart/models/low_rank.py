"""Updates of low rank to the weights of a stage: W + (alpha / r) B A, with B zero at the start.

Layers are found by their kind, so that any encoder's will do.

Source: LoRA (Hu et al. 2022, arXiv 2106.09685), DoRA (Liu et al. 2024, arXiv 2402.09353).
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dart.errors import UserError
from dart.models.adapters import Reweighted, Stage
from dart.models.tinyvim_blocks import LaplaceMixer


def pointwise_weights(layers: nn.Module) -> list[str]:
    """Return the names of the weights of all linear layers and dense 1x1 convolutions."""
    return [
        f"{name}.weight"
        for name, module in layers.named_modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1)
    ]


def scan_weights(layers: nn.Module) -> list[str]:
    """Return the names of the projections of all selective scans: to (step, B, C), and of steps."""
    return [
        f"{name}.{part}"
        for name, module in layers.named_modules()
        if isinstance(module, LaplaceMixer)
        for part in ("x_proj_weight", "dt_projs_weight")
    ]


class LowRank(Reweighted):
    """Adds (alpha / rank) B A to each of some weights; A is drawn, B is zero.

    A weight is the matrix (outputs, inputs); the three axes of a scan's projections are one
    matrix for each of its four directions.

    Args:
        stage: Where it sits; its layers are read for shapes alone.
        names: The weights that change.
        rank: Rank of each update.
        alpha: Numerator of the update's factor.

    Raises:
        UserError: ``rank`` is above the smaller side of a weight.
    """

    def __init__(self, stage: Stage, names: Sequence[str], *, rank: int, alpha: float) -> None:
        super().__init__()
        self.names = list(names)
        self.factor = alpha / rank
        self.a, self.b = nn.ParameterList(), nn.ParameterList()
        for name in self.names:
            shape = _matrices(stage.layers.get_parameter(name)).shape
            if rank > min(shape[-2:]):
                raise UserError(
                    f"rank={rank} is above the smaller side of '{name}' in stage {stage.index}, "
                    f"{shape[-2]}x{shape[-1]}; allowed there: 1 to {min(shape[-2:])}"
                )
            bound = shape[-1] ** -0.5
            self.a.append(torch.empty(*shape[:-2], rank, shape[-1]).uniform_(-bound, bound))
            self.b.append(torch.zeros(*shape[:-1], rank))

    def weights(self, layers: nn.Module) -> dict[str, Tensor]:
        """Return every weight with its update."""
        changed = {}
        for name, a, b in zip(self.names, self.a, self.b, strict=True):
            weight = layers.get_parameter(name)
            # What bfloat16 rounds off here would be missing from the merged weights.
            with torch.autocast(weight.device.type, enabled=False):
                changed[name] = weight + self.factor * (b @ a).view_as(weight)
        return changed


class NormedLowRank(LowRank):
    """Low-rank updates of directions, and a length of its own for every row of a weight (DoRA).

    The row w of W + (alpha / r) B A becomes m w / |w|. The length m is kept as its difference
    from the pretrained row's, so that the start is exact. As in section 4.3 of the paper no
    gradient goes through |w|.
    """

    def __init__(self, stage: Stage, names: Sequence[str], *, rank: int, alpha: float) -> None:
        super().__init__(stage, names, rank=rank, alpha=alpha)
        self.lengths = nn.ParameterList(
            torch.zeros(_matrices(stage.layers.get_parameter(name)).shape[:-1]) for name in names
        )

    def weights(self, layers: nn.Module) -> dict[str, Tensor]:
        """Return every weight with its update and lengths."""
        changed: Mapping[str, Tensor] = super().weights(layers)
        normed = {}
        for name, change in zip(self.names, self.lengths, strict=True):
            moved = _matrices(changed[name])
            tiny = torch.finfo(moved.dtype).tiny
            own = _row_lengths(_matrices(layers.get_parameter(name))).clamp_min(tiny)
            factor = (own + change) / _row_lengths(moved).detach().clamp_min(tiny)
            normed[name] = (factor.unsqueeze(-1) * moved).view_as(changed[name])
        return normed


def _matrices(weight: Tensor) -> Tensor:
    """Return (outputs, inputs) of a layer's weight, or (directions, outputs, inputs) of a scan's.

    The kernel of a 1x1 convolution has two more axes of length one.
    """
    return weight.flatten(1) if weight.ndim == 4 else weight


def _row_lengths(matrices: Float[Tensor, "*k out in"]) -> Float[Tensor, "*k out"]:
    return torch.linalg.vector_norm(matrices, dim=-1)
