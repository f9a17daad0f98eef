"""TinyViM S, B and L: convolutional encoders whose low frequencies go through a selective scan.

Importing this module registers ``tinyvim_s``, ``tinyvim_b`` and ``tinyvim_l`` with timm. The keys
and shapes of their state dicts are those of the published checkpoints.

Axis letters: ``b`` batch, ``c`` channels (``d`` after a change of them), ``h w`` cells or pixels.

Source: TinyViM: Frequency Decoupling for Tiny Hybrid Vision Mamba (ICCV 2025, arXiv 2411.17473),
written from its formulas. Differs in one respect: images whose sides are not multiples of 32 are
padded instead of refused.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from jaxtyping import Float
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional

from dart.errors import UserError
from dart.models.stages import Encoder
from dart.models.tinyvim_blocks import (
    POOLING,
    ConvNorm,
    Downsampling,
    LocalBlock,
    ScanBlock,
    initialise,
)

__all__ = ["TinyViM", "initialise", "tinyvim_b", "tinyvim_l", "tinyvim_s"]

STRIDES = (4, 8, 16, 32)


class Size(NamedTuple):
    """Width and depth of one TinyViM."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


SIZES = {
    "tinyvim_s": Size((48, 64, 168, 224), (3, 3, 9, 6)),
    "tinyvim_b": Size((48, 96, 192, 384), (4, 3, 10, 5)),
    "tinyvim_l": Size((64, 128, 384, 512), (4, 4, 12, 6)),
}


def _stage(channels: int, depth: int, index: int) -> nn.Sequential:
    scans = {depth - 1, depth // 2} if index == 2 else {depth - 1}
    return nn.Sequential(
        *(
            ScanBlock(channels, index) if block in scans else LocalBlock(channels)
            for block in range(depth)
        )
    )


class TinyViM(Encoder):
    """The encoder, with the classifier's heads or the four output norms of ``fork_feat``.

    Args:
        size: Channels and blocks of the four stages.
        num_classes: Outputs of the heads; 0 leaves the trunk and its final norm.
        in_chans: Channels of the image.
        distilled: Whether the classifier has the second head of hard distillation.
        fork_feat: Replace norm and heads by one norm per stage, as detectors do.
        drop_rate: Dropout before the heads.
    """

    def __init__(
        self,
        *,
        size: Size,
        num_classes: int = 1000,
        in_chans: int = 3,
        distilled: bool = True,
        fork_feat: bool = False,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels = size.channels
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
        self.network = nn.ModuleList([_stage(self.channels[0], size.depths[0], 0)])
        for index, (before, after) in enumerate(pairwise(self.channels), start=1):
            self.network.append(Downsampling(before, after))
            self.network.append(_stage(after, size.depths[index], index))
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

    def stage_layers(self, index: int) -> nn.Sequential:
        """Return what makes the map of stage ``index`` from that of the stage before.

        Stage 0 starts from the image. The layers are the encoder's own, not copies.
        """
        first = self.patch_embed if index == 0 else self.network[2 * index - 1]
        enter = "stem" if index == 0 else "down"
        return nn.Sequential(OrderedDict({enter: first, "blocks": self.network[2 * index]}))

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
        listed = list(indices) if isinstance(indices, Sequence) else indices
        take, last = feature_take_indices(len(self.channels), listed)
        stop = last + 1 if stop_early else len(self.channels)
        outputs = self._run_stages(x, stop)
        intermediates = [
            self._normalise(index, outputs[index]) if norm else outputs[index] for index in take
        ]
        if intermediates_only:
            return intermediates
        return self._normalise(stop - 1, outputs[-1]), intermediates

    def _run_stages(self, image: Tensor, stop: int) -> list[Tensor]:
        """Return the raw outputs of the first ``stop`` stages, without the cells of padding."""
        height, width = image.shape[2:]
        features = self.stem(_pad(image))
        outputs = []
        for index, stride in enumerate(STRIDES[:stop]):
            features = self.forward_stage(index, features)
            outputs.append(features[:, :, : -(-height // stride), : -(-width // stride)])
        return outputs

    def _normalise(self, index: int, features: Tensor) -> Tensor:
        if self.fork_feat:
            return self.get_submodule(f"norm{2 * index}")(features)
        return self.norm(features) if index == len(self.channels) - 1 else features

    def forward_features(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b c h32 w32"]:
        """Return the normalised map of stride 32: ceil(side / 32) cells."""
        last = len(self.channels) - 1
        return self._normalise(last, self._run_stages(x, last + 1)[last])

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

    def forward(self, x: Float[Tensor, "b i h w"]) -> Tensor | tuple[Tensor, Tensor] | list[Tensor]:
        """Return logits, or with ``fork_feat`` the four normalised stage outputs."""
        if self.fork_feat:
            outputs = self._run_stages(x, len(self.channels))
            return [self._normalise(index, output) for index, output in enumerate(outputs)]
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
    return build_model_with_cfg(
        TinyViM,
        name,
        False,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        size=SIZES[name],
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
