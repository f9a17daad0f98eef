"""TinyViM S, B and L: convolutional encoders whose low frequencies go through a selective scan.

Importing this module registers ``tinyvim_s``, ``tinyvim_b`` and ``tinyvim_l`` with timm. The keys
and shapes of their state dicts are those of the published checkpoints.

Axis letters: ``b`` batch, ``c`` channels (``d`` after a change of them), ``h w`` cells or pixels.

Source: TinyViM: Frequency Decoupling for Tiny Hybrid Vision Mamba (ICCV 2025, arXiv 2411.17473),
written from its formulas. Differs in one respect: images whose sides are not multiples of 32 are
padded instead of refused.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional

from dart.errors import UserError
from dart.models.scan import four_directions, selective_scan, sum_directions

__all__ = ["TinyViM", "initialise", "tinyvim_b", "tinyvim_l", "tinyvim_s"]

STRIDES = (4, 8, 16, 32)
NUM_STATES = 8
FFN_RATIO = 4
POOLING = (8, 4, 2, 1)
"""Average pooling before the scan, per stage: every scan sees a map of stride 32."""
LOW_SHARE = ((1, 4), (1, 2), (1, 2), (3, 4))
"""Share of the channels that is scanned, per stage, as a fraction."""


class Size(NamedTuple):
    """Width and depth of one TinyViM."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


SIZES = {
    "tinyvim_s": Size((48, 64, 168, 224), (3, 3, 9, 6)),
    "tinyvim_b": Size((48, 96, 192, 384), (4, 3, 10, 5)),
    "tinyvim_l": Size((64, 128, 384, 512), (4, 4, 12, 6)),
}


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


def _stage(channels: int, depth: int, index: int) -> nn.Sequential:
    scans = {depth - 1, depth // 2} if index == 2 else {depth - 1}
    return nn.Sequential(
        *(
            ScanBlock(channels, index) if block in scans else LocalBlock(channels)
            for block in range(depth)
        )
    )


class TinyViM(nn.Module):
    """The encoder, with the classifier's heads or the four output norms of ``fork_feat``.

    Args:
        channels: Channels of the four stages.
        depths: Blocks of the four stages.
        num_classes: Outputs of the heads; 0 leaves the trunk and its final norm.
        in_chans: Channels of the image.
        distilled: Whether the classifier has the second head of hard distillation.
        fork_feat: Replace norm and heads by one norm per stage, as detectors do.
        drop_rate: Dropout before the heads.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        depths: Sequence[int],
        num_classes: int = 1000,
        in_chans: int = 3,
        distilled: bool = True,
        fork_feat: bool = False,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.strides = STRIDES
        self.num_classes = 0 if fork_feat else num_classes
        self.num_features = self.head_hidden_size = self.channels[-1]
        self.distilled = distilled
        self.distilled_training = False
        self.fork_feat = fork_feat
        self.feature_info = [
            {"num_chs": width, "reduction": stride, "module": f"network.{2 * index}"}
            for index, (width, stride) in enumerate(zip(self.channels, STRIDES, strict=True))
        ]
        half = self.channels[0] // 2
        self.patch_embed = nn.Sequential(
            ConvNorm(in_chans, half, 3, stride=2),
            nn.GELU(),
            ConvNorm(half, self.channels[0], 3, stride=2),
            nn.GELU(),
        )
        self.network = nn.ModuleList([_stage(self.channels[0], depths[0], 0)])
        for index, (before, after) in enumerate(pairwise(self.channels), start=1):
            self.network.append(Downsampling(before, after))
            self.network.append(_stage(after, depths[index], index))
        self.head_drop = nn.Dropout(drop_rate)
        if fork_feat:
            for index, width in enumerate(self.channels):
                self.add_module(f"norm{2 * index}", nn.BatchNorm2d(width))
        else:
            self.norm = nn.BatchNorm2d(self.channels[-1])
            self.reset_classifier(num_classes)
        initialise(self)

    def stem(self, image: Float[Tensor, "b i h w"]) -> Float[Tensor, "b c h4 w4"]:
        """Return the map of stride 4 that enters stage 0; sides must be multiples of 32."""
        return self.patch_embed(image)

    def forward_stage(
        self, index: int, features: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b d h2 w2"]:
        """Return the raw output of stage ``index`` from the stem's or the previous stage's.

        Raises:
            UserError: The map does not come from an image whose sides are multiples of 32.
        """
        if index > 0:
            features = self.network[2 * index - 1](features)
        pooling = POOLING[index]
        height, width = features.shape[2:]
        if height % pooling or width % pooling:
            raise UserError(
                f"stage {index} of TinyViM got a map of {height}x{width}: both sides must be "
                f"multiples of {pooling}, so pad the image to multiples of {STRIDES[-1]}"
            )
        return self.network[2 * index](features)

    def forward_intermediates(
        self,
        x: Float[Tensor, "b i h w"],
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return stage outputs, cropped to the image: ceil(side / stride) cells.

        Args:
            x: Normalised image of any size.
            indices: Stages to return: all, the last so many, or a list.
            norm: Apply the stage's norm of ``fork_feat``; else the final norm to the last stage.
            stop_early: Do not run the stages after the last one that is returned.
            output_fmt: Only ``NCHW``.
            intermediates_only: Leave out the final features.

        Raises:
            UserError: An empty image, or another output format.
        """
        if output_fmt != "NCHW":
            raise UserError(f"output_fmt {output_fmt!r} of TinyViM: only 'NCHW' is allowed")
        take, last = feature_take_indices(len(self.channels), indices)
        stop = last + 1 if stop_early else len(self.channels)
        height, width = x.shape[2:]
        features = self.stem(_pad(x))
        kept: dict[int, Tensor] = {}
        for index in range(stop):
            features = self.forward_stage(index, features)
            if index in take:
                output = self._normalise(index, features) if norm else features
                rows, columns = -(-height // STRIDES[index]), -(-width // STRIDES[index])
                kept[index] = output[:, :, :rows, :columns]
        intermediates = [kept[index] for index in take]
        if intermediates_only:
            return intermediates
        return self._normalise(stop - 1, features), intermediates

    def _normalise(self, index: int, features: Tensor) -> Tensor:
        if self.fork_feat:
            return self.get_submodule(f"norm{2 * index}")(features)
        return self.norm(features) if index == len(self.channels) - 1 else features

    def forward_features(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b c h32 w32"]:
        """Return the normalised map of stride 32: ceil(side / 32) cells."""
        return self._last(x)

    def _last(self, x: Tensor) -> Tensor:
        outputs = self.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
        return outputs[0]

    def forward_head(
        self, x: Float[Tensor, "b c h w"], pre_logits: bool = False
    ) -> Float[Tensor, "b d"] | tuple[Tensor, Tensor]:
        """Return the logits (mean of both heads), or the pooled features without a head."""
        pooled = self.head_drop(x.mean((2, 3)))
        if pre_logits or self.num_classes == 0:
            return pooled
        logits = self.head(pooled)
        if self.dist_head is None:
            return logits
        distilled = self.dist_head(pooled)
        if self.training and self.distilled_training:
            return logits, distilled
        return (logits + distilled) / 2

    def forward(
        self, x: Float[Tensor, "b i h w"]
    ) -> Tensor | tuple[Tensor, Tensor] | list[Tensor]:
        """Return logits, or with ``fork_feat`` the four normalised stage outputs."""
        if self.fork_feat:
            return self.forward_intermediates(x, norm=True, intermediates_only=True)
        return self.forward_head(self.forward_features(x))

    def set_distilled_training(self, enable: bool = True) -> None:
        """In training, return the outputs of the two heads apart instead of their mean."""
        self.distilled_training = enable

    def get_classifier(self) -> nn.Module | tuple[nn.Module, nn.Module]:
        """Return the head, or both heads."""
        return self.head if self.dist_head is None else (self.head, self.dist_head)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the heads; 0 removes them."""
        if global_pool not in (None, "avg"):
            raise UserError(f"global_pool {global_pool!r} of TinyViM: only 'avg' is allowed")
        self.num_classes = num_classes
        width = self.channels[-1]
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()
        has_second = num_classes > 0 and self.distilled
        self.dist_head = nn.Linear(width, num_classes) if has_second else None

    def no_weight_decay(self) -> set[str]:
        """Return the scan's parameters that a decay towards zero would distort."""
        kept = ("A_logs", "Ds", "dt_projs_bias", "layer_scale")
        return {name for name, _ in self.named_parameters() if name.endswith(kept)}


def _pad(image: Tensor) -> Tensor:
    """Return the image with its last row and column repeated up to multiples of 32."""
    height, width = image.shape[2:]
    if height < 1 or width < 1:
        raise UserError(f"image of {height}x{width} pixels: both sides must be at least 1")
    right, bottom = -width % STRIDES[-1], -height % STRIDES[-1]
    if right == 0 and bottom == 0:
        return image
    return functional.pad(image, (0, right, 0, bottom), mode="replicate")


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


default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "fixed_input_size": False,
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "patch_embed.0.c",
            "classifier": ("head", "dist_head"),
            "license": "",
        }
        for name in SIZES
    }
)


def _build(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    if pretrained:
        raise UserError(
            f"{name} has no weights to download; create it with pretrained=False and give a "
            "checkpoint to dart.models.weights.load_weights"
        )
    size = SIZES[name]
    return build_model_with_cfg(
        TinyViM,
        name,
        False,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        channels=size.channels,
        depths=size.depths,
        **options,
    )


@register_model
def tinyvim_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TinyViM-S: 5.5 M parameters in the trunk."""
    return _build("tinyvim_s", pretrained, kwargs)


@register_model
def tinyvim_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TinyViM-B: 10.7 M parameters in the trunk."""
    return _build("tinyvim_b", pretrained, kwargs)


@register_model
def tinyvim_l(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TinyViM-L: 31.4 M parameters in the trunk."""
    return _build("tinyvim_l", pretrained, kwargs)
