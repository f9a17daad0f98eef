"""Is it enough to move the norms?

A new camera changes the statistics of every feature before it changes what the features mean. The
factors and offsets of the encoder's batch norms are 0.9 percent of its parameters; where they
adapt as well as an adapter does, the adapter has not earned its keep.

Source: Frankle et al. 2021 (arXiv 2003.00152).
"""

from torch import Tensor, nn

from dart.models import Reweighted, Stage, register_variant


class NormAffine(Reweighted):
    """New factors and offsets for every batch norm of a stage, kept as differences."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.names: list[str] = []
        self.changes = nn.ParameterList()
        for name, module in layers.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                for part in ("weight", "bias"):
                    self.names.append(f"{name}.{part}")
                    self.changes.append(
                        nn.Parameter(module.get_parameter(part).new_zeros(module.num_features))
                    )

    def weights(self, layers: nn.Module) -> dict[str, Tensor]:
        """Return every factor and offset, changed."""
        return {
            name: layers.get_parameter(name) + change
            for name, change in zip(self.names, self.changes, strict=True)
        }


@register_variant(
    hypothesis="The affine maps of the batch norms alone adapt as well as an adapter.",
    compare_to="none",
    uses_camera=False,
)
def bn_affine(stage: Stage) -> nn.Module | None:
    """Trains factor and offset of every batch norm of the encoder; statistics stay as they are."""
    has_norms = any(isinstance(module, nn.BatchNorm2d) for module in stage.layers.modules())
    return NormAffine(stage.layers) if has_norms else None
