"""Is it enough to move norms, or biases?

A new camera changes the statistics of every feature before it changes what the features mean. The
factors and offsets of the encoder's batch norms are 0.9 percent of its parameters; where they
adapt as well as an adapter does, the adapter has not earned its keep. Their statistics can even
follow the target without a gradient.

Source: Frankle et al. 2021 (arXiv 2003.00152), AdaBN (Li et al. 2016, arXiv 1603.04779), BitFit
(Ben Zaken et al. 2022, arXiv 2106.10199), SSF (Lian et al. 2022, arXiv 2210.08823).

Axis letters: ``b`` batch (``#b``: one or b), ``c d`` channels, ``e`` camera channels, ``h w``
cells.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dart.models import Reweighted, Stage, register_variant
from dart.models.beside import Hook, hooked


def norm_names(layers: nn.Module) -> list[str]:
    """Return the names of all batch norms."""
    return [name for name, module in layers.named_modules() if isinstance(module, nn.BatchNorm2d)]


class Shifted(Reweighted):
    """Adds a trained difference, zero at the start, to some parameters of a stage."""

    def __init__(self, layers: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        self.changes = nn.ParameterList(
            torch.zeros_like(layers.get_parameter(name)) for name in self.names
        )

    def weights(self, layers: nn.Module) -> dict[str, Tensor]:
        """Return every one of the parameters, changed."""
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
    norms = norm_names(stage.layers)
    names = [f"{name}.{part}" for name in norms for part in ("weight", "bias")]
    return Shifted(stage.layers, names) if names else None


@register_variant(
    hypothesis="The biases alone adapt as well as all affine maps of the batch norms.",
    compare_to="bn_affine",
    uses_camera=False,
)
def bitfit(stage: Stage) -> nn.Module | None:
    """Trains every bias of the encoder, the offsets of norms and of the scan's steps included."""
    names = [name for name, _ in stage.layers.named_parameters() if name.endswith("bias")]
    return Shifted(stage.layers, names) if names else None


class ScaledShifted(Reweighted):
    """y -> (1 + g) y + o for the output y of every layer with a bias; g and o start at zero.

    A layer without a bias stands before a norm here, and in eval mode what a factor and an offset
    could do between the two, those after the norm do.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
        self.names: list[str] = []
        self.gains, self.offsets = nn.ParameterList(), nn.ParameterList()
        for name, module in layers.named_modules():
            if isinstance(module, kinds) and getattr(module, "bias", None) is not None:
                bias = module.get_parameter("bias")
                self.names.append(name)
                self.gains.append(torch.zeros_like(bias))
                self.offsets.append(torch.zeros_like(bias))

    def weights(self, layers: nn.Module) -> dict[str, Tensor]:
        """Return the weights and biases that give the scaled and shifted outputs."""
        changed = {}
        for name, gain, offset in zip(self.names, self.gains, self.offsets, strict=True):
            weight = layers.get_parameter(f"{name}.weight")
            factor = (1 + gain).view(-1, *[1] * (weight.ndim - 1))
            changed[f"{name}.weight"] = factor * weight
            changed[f"{name}.bias"] = (1 + gain) * layers.get_parameter(f"{name}.bias") + offset
        return changed


@register_variant(
    hypothesis="Scaling and shifting every layer's output adapts better than norms alone.",
    compare_to="bn_affine",
    uses_camera=False,
)
def ssf(stage: Stage) -> nn.Module:
    """SSF: a factor and an offset for every channel that a layer with a bias gives."""
    return ScaledShifted(stage.layers)


class NormStatistics(Reweighted):
    """Means and variances of every batch norm, of images that it is shown; nothing to train.

    They are pooled over all images. While they are gathered each norm uses the statistics of the
    batch at hand, so that of deep norms they are those of an already adapted input.
    """

    def __init__(self, layers: nn.Module, *, num_images: int) -> None:
        super().__init__()
        self.num_images = num_images
        self.names = norm_names(layers)
        self._sums: dict[str, list[Tensor]] | None = None
        for index, name in enumerate(self.names):
            self.register_buffer(f"mean{index}", layers.get_buffer(f"{name}.running_mean").clone())
            self.register_buffer(f"var{index}", layers.get_buffer(f"{name}.running_var").clone())

    def weights(self, layers: nn.Module) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the statistics."""
        parts = {"running_mean": "mean", "running_var": "var"}
        return {
            f"{name}.{part}": self.get_buffer(f"{own}{index}")
            for index, name in enumerate(self.names)
            for part, own in parts.items()
        }

    @contextmanager
    def estimating(self) -> Iterator[None]:
        """Gather the statistics of all that passes inside, and take them over at the end."""
        self._sums = {}
        try:
            yield
            for index, name in enumerate(self.names):
                count, total, squares = self._sums[name]
                mean = total / count
                var = (squares / count - mean.square()) * count / (count - 1)
                self.get_buffer(f"mean{index}").copy_(mean)
                self.get_buffer(f"var{index}").copy_(var)
        finally:
            self._sums = None

    def forward(
        self,
        layers: nn.Module,
        features: Float[Tensor, "b c h w"],
        camera: Float[Tensor, "#b e h2 w2"],
    ) -> Float[Tensor, "b d h2 w2"]:
        """Return the map of the stage under these statistics, or under the batch's own."""
        if self._sums is None:
            return super().forward(layers, features, camera)
        hooks = {name: _gather(self._sums, name) for name in self.names}
        with hooked(layers, hooks):
            return layers(features)


def _gather(sums: dict[str, list[Tensor]], name: str) -> Hook:
    def hook(module: nn.Module, inputs: tuple[Any, ...], _output: Tensor) -> Tensor:
        assert isinstance(module, nn.BatchNorm2d)
        values = inputs[0]
        exact = values.double()
        count = torch.tensor(exact.numel() / exact.shape[1])
        new = [count, exact.sum((0, 2, 3)), exact.square().sum((0, 2, 3))]
        sums[name] = [a + b for a, b in zip(sums[name], new, strict=True)] if name in sums else new
        return functional.batch_norm(
            values, None, None, module.weight, module.bias, training=True, eps=module.eps
        )

    return hook


@register_variant(
    hypothesis="The target's own statistics in the batch norms adapt without one gradient.",
    compare_to="none",
    uses_camera=False,
)
def bn_statistics(stage: Stage, *, num_images: int = 256) -> nn.Module | None:
    """AdaBN: means and variances of every batch norm from training images of the target."""
    if not norm_names(stage.layers):
        return None
    return NormStatistics(stage.layers, num_images=num_images)
