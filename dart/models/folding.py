"""A TinyViM for inference alone: fewer operations, the same function.

In eval mode a batch norm is an affine map, so it goes into the convolution before it, and the
parallel paths of a depthwise unit are one depthwise convolution. A frozen encoder is folded once
and then runs faster for the whole of an adaptation.

Axis letters: ``b`` batch, ``c d`` channels, ``h w`` cells.

Source: structural re-parameterisation (RepVGG, arXiv 2101.03697, section 3).
"""

import copy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from dart.models.tinyvim import TinyViM
from dart.models.tinyvim_blocks import ConvNorm, LocalBlock, RepDepthwise
from dart.tricks import is_on

__all__ = ["FrozenConv", "fold", "is_folded"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class FrozenConv(nn.Conv2d):
    """A convolution whose weights stay: under autocast they are cast once, not in every pass."""

    _lower: tuple[object, Tensor, Tensor | None] | None = None
    """What they were cast from and to, and what came out."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:  # noqa: A002
        """Return the convolution, in the precision of autocast where that is on."""
        kind = input.device.type
        if not torch.is_autocast_enabled(kind):
            return super().forward(input)
        dtype = torch.get_autocast_dtype(kind)
        identity = (dtype, self.weight.data_ptr(), self.weight._version)
        if self._lower is None or self._lower[0] != identity:
            # Made inside inference mode, they could not be used in training.
            with torch.inference_mode(False), torch.no_grad():
                bias = None if self.bias is None else self.bias.to(dtype)
                self._lower = (identity, self.weight.to(dtype), bias)
        _, weight, bias = self._lower
        pixels = input.to(dtype).permute(0, 2, 3, 1)
        # For one pixel at a time oneDNN's product is faster than its convolution.
        one = self.kernel_size == (1, 1) and self.stride == (1, 1) and self.groups == 1
        if one and pixels.is_contiguous() and is_on("products"):
            return functional.linear(pixels, weight.flatten(1), bias).permute(0, 3, 1, 2)
        return self._conv_forward(input, weight, bias)


@torch.no_grad()
def fold(model: ModuleT) -> ModuleT:
    """Return a frozen copy in eval mode whose convolutions hold the norms and parallel paths.

    The outputs differ from the model's in eval mode by rounding only (relative L2 about 1e-6).
    The copy has other state dict keys and keeps no norm that training could move, except
    those after the trunk. Other encoders come back as they are, frozen.

    Args:
        model: A TinyViM, or any module that holds one.
    """
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    _fold_children(folded)
    return folded


def is_folded(encoder: nn.Module) -> bool:
    """Say whether the convolutions of a TinyViM hold its norms, as ``fold`` makes them."""
    kinds = {type(module) for module in encoder.modules()}
    return TinyViM in kinds and ConvNorm not in kinds


def _fold_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, ConvNorm):
            setattr(module, name, _fold_conv_norm(child))
        elif isinstance(child, RepDepthwise):
            setattr(module, name, _fold_depthwise(child))
        else:
            _fold_children(child)
    if isinstance(module, LocalBlock) and module.layer_scale is not None:
        _scale_output(module.mlp.fc2, module.layer_scale.double().flatten())
        module.layer_scale = None


def _norm_as_affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the factor and the offset per channel of a batch norm in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return factor, norm.bias.double() - norm.running_mean.double() * factor


def _with_weights(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """Return a convolution like ``conv`` with these weights, in its dtype and layout."""
    folded = skip_init(
        FrozenConv,
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        groups=conv.groups,
    )
    assert isinstance(folded, FrozenConv)
    own = torch.empty_like(conv.weight).copy_(weight)
    folded.weight = nn.Parameter(own, requires_grad=False)
    folded.bias = nn.Parameter(bias.to(own), requires_grad=False)
    return folded.train(conv.training)


def _fold_conv_norm(unit: ConvNorm) -> nn.Conv2d:
    factor, offset = _norm_as_affine(unit.bn)
    return _with_weights(unit.c, unit.c.weight.double() * factor.view(-1, 1, 1, 1), offset)


def _fold_depthwise(unit: RepDepthwise) -> nn.Conv2d:
    factor, offset = _norm_as_affine(unit.conv.bn)
    weight = unit.conv.c.weight.double() * factor.view(-1, 1, 1, 1)
    height, width = weight.shape[2:]
    assert unit.conv1.bias is not None
    # The scaling path and the identity see only the centre of the kernel.
    weight[:, :, height // 2, width // 2] += unit.conv1.weight.double()[:, :, 0, 0] + 1
    offset = offset + unit.conv1.bias.double()
    factor, shift = _norm_as_affine(unit.bn)
    return _with_weights(unit.conv.c, weight * factor.view(-1, 1, 1, 1), offset * factor + shift)


def _scale_output(conv: nn.Module, scale: Tensor) -> None:
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    conv.weight.copy_(conv.weight.double() * scale.view(-1, 1, 1, 1))
    conv.bias.copy_(conv.bias.double() * scale)
