"""The blocks of TinyViM and their initial values.

The names of the submodules are those of the published checkpoints.

Axis letters: ``b`` batch, ``c`` channels (``d`` after a change of them), ``h w`` cells.

Source: TinyViM (ICCV 2025, arXiv 2411.17473), written from its formulas.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dart.models.scan import four_directions, selective_scan, sum_directions

NUM_STATES = 8
FFN_RATIO = 4
POOLING = (8, 4, 2, 1)
"""Average pooling before the scan, per stage: every scan sees a map of stride 32."""
LOW_SHARE = ((1, 4), (1, 2), (1, 2), (3, 4))
"""Share of the channels that is scanned, per stage, as a fraction."""


class ConvNorm(nn.Module):
    """A convolution without bias and its batch norm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int] = 1,
        *,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        self.c = nn.Conv2d(
            in_channels,
            out_channels,
            (height, width),
            stride=stride,
            padding=(height // 2, width // 2),
            groups=groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Return the normalised convolution."""
        return self.bn(self.c(features))


class RepDepthwise(nn.Module):
    """Three parallel depthwise paths (kernel + norm, scaling, identity), summed and normalised."""

    def __init__(self, channels: int, kernel: int | tuple[int, int]) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, channels, kernel, groups=channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, groups=channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the mixed map."""
        return self.bn(self.conv(features) + self.conv1(features) + features)


class FeedForward(nn.Module):
    """Two 1x1 convolutions with four times the channels in between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = ConvNorm(channels, FFN_RATIO * channels)
        self.act = nn.GELU()
        self.fc2 = ConvNorm(FFN_RATIO * channels, channels)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the update, without the residual."""
        return self.fc2(self.act(self.fc1(features)))


class LocalBlock(nn.Module):
    """A depthwise unit and a feed-forward under one scaled residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer_scale: nn.Parameter | None = nn.Parameter(torch.ones(channels, 1, 1))
        self.dwconv = RepDepthwise(channels, 3)
        self.mlp = FeedForward(channels)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the block's output; a folded block has its scale inside ``mlp``."""
        update = self.mlp(self.dwconv(features))
        if self.layer_scale is None:
            return features + update
        return torch.addcmul(features, update, self.layer_scale.to(update.dtype))


class AxialInception(nn.Module):
    """A vertical depthwise unit on the first half of the channels, a horizontal one on the rest."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The names are the checkpoint's: "h" has the kernel (1, 7) and sees the second half.
        self.dwconv_h = RepDepthwise(channels - channels // 2, (1, 7))
        self.dwconv_w = RepDepthwise(channels // 2, (7, 1))

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the two halves, concatenated."""
        vertical, horizontal = features.chunk(2, dim=1)
        return torch.cat((self.dwconv_w(vertical), self.dwconv_h(horizontal)), dim=1)


class LaplaceMixer(nn.Module):
    """Scans the pooled low channels in four directions and convolves the high ones (SS2D)."""

    def __init__(self, channels: int, stage: int) -> None:
        super().__init__()
        share, whole = LOW_SHARE[stage]
        low = channels * share // whole
        rank = math.ceil(channels / 16)
        self.channels = (low, channels - low)
        self.pooling = POOLING[stage]
        self.x_proj_weight = nn.Parameter(torch.empty(4, rank + 2 * NUM_STATES, low))
        self.dt_projs_weight = nn.Parameter(torch.empty(4, low, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(4, low))
        self.A_logs = nn.Parameter(torch.empty(4 * low, NUM_STATES))
        self.Ds = nn.Parameter(torch.empty(4 * low))
        self.local_conv = RepDepthwise(channels - low, 3)
        self.out_norm = nn.LayerNorm(low)
        self.in_proj = ConvNorm(channels, channels)
        self.conv2d = AxialInception(channels)
        self.act = nn.SiLU()
        self.out_proj = ConvNorm(channels, channels)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the mixed map, without the residual."""
        mixed = self.act(self.conv2d(self.in_proj(features)))
        low, high = mixed.split(self.channels, dim=1)
        return self.out_proj(torch.cat((self.mix_low(low), self.local_conv(high)), dim=1))

    def mix_low(self, low: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the scanned low frequencies, enlarged, plus the detail lost by pooling."""
        if self.pooling == 1:
            return self.scan(low)
        pooled = functional.avg_pool2d(low, self.pooling)
        detail = low - functional.interpolate(pooled, scale_factor=self.pooling, mode="nearest")
        scanned = self.scan(pooled)
        return detail + functional.interpolate(
            scanned, scale_factor=self.pooling, mode="bilinear", align_corners=False
        )

    def scan(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the sum of four selective scans, normalised over the channels.

        The recurrence multiplies many factors near one, so it never runs below float32.
        """
        height, width = features.shape[2:]
        precise = torch.promote_types(features.dtype, torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            sequences = selective_scan(
                four_directions(features.to(precise)),
                self.x_proj_weight.to(precise),
                self.dt_projs_weight.to(precise),
                self.dt_projs_bias.to(precise),
                self.A_logs.to(precise),
                self.Ds.to(precise),
            )
            summed = sum_directions(sequences, height, width)
            normed = functional.layer_norm(
                summed,
                summed.shape[-1:],
                self.out_norm.weight.to(precise),
                self.out_norm.bias.to(precise),
                self.out_norm.eps,
            )
        return normed.permute(0, 3, 1, 2).to(features.dtype)


class ScanBlock(nn.Module):
    """A Laplace mixer and a feed-forward, each under its own plain residual (TViM block)."""

    def __init__(self, channels: int, stage: int) -> None:
        super().__init__()
        self.op = LaplaceMixer(channels, stage)
        self.mlp = FeedForward(channels)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the block's output."""
        features = features + self.op(features)
        return features + self.mlp(features)


class Downsampling(nn.Module):
    """A 3x3 convolution of stride 2 between two stages."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = ConvNorm(in_channels, out_channels, 3, stride=2)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Return the map at twice the stride."""
        return self.proj(features)


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator | None = None) -> nn.Module:
    """Draw all weights of a TinyViM anew, in place, and return the model.

    Args:
        model: A TinyViM, or any module that holds parts of one.
        generator: Source of the random numbers; the global one unless given.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            _initialise_conv(module, generator)
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, LocalBlock) and module.layer_scale is not None:
            nn.init.ones_(module.layer_scale)
        elif isinstance(module, LaplaceMixer):
            _initialise_scan(module, generator)
    return model


def _initialise_conv(conv: nn.Conv2d, generator: torch.Generator | None) -> None:
    # A biased convolution is the scaling path of a depthwise unit, beside an identity path.
    std = conv.weight[0].numel() ** -0.5 if conv.bias is None else 0.02
    nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std, generator=generator)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def _initialise_scan(mixer: LaplaceMixer, generator: torch.Generator | None) -> None:
    mixer.out_norm.reset_parameters()
    for weight in (mixer.x_proj_weight, mixer.dt_projs_weight):
        bound = weight.shape[-1] ** -0.5
        nn.init.uniform_(weight, -bound, bound, generator=generator)
    step = nn.init.uniform_(
        torch.empty_like(mixer.dt_projs_bias), math.log(1e-3), math.log(0.1), generator=generator
    ).exp()
    mixer.dt_projs_bias.copy_(step + torch.log(-torch.expm1(-step)))
    states = torch.arange(1, NUM_STATES + 1, dtype=torch.float32)
    mixer.A_logs.copy_(states.log().expand_as(mixer.A_logs))
    nn.init.ones_(mixer.Ds)
