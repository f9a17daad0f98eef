"""Encoders of timm by name, cut into four stages that run one by one.

Pyramids keep timm's own features of strides 4, 8, 16 and 32. A plain vision transformer is cut
into four groups of blocks of one stride. Nothing is ever downloaded.

Axis letters: ``b`` batch, ``c`` channels, ``n`` tokens, ``h w`` cells or
pixels, ``rows`` rows of cells and of tokens that belong to no cell.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.models import FeatureListNet
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from dart.errors import UserError, did_you_mean
from dart.models.stages import Encoder
from dart.models.weights import read_weights

__all__ = ["PREFIX", "TimmPyramid", "TimmTransformer", "create_timm_encoder"]

PREFIX = "timm/"
STRIDES = (4, 8, 16, 32)
_PROBE = (2, 3)
"""Sides of the image on which stages are compared with timm, in cells of the last stage."""


class _ToChannelsLast(nn.Module):
    """Gives a map of channels first to layers that keep channels last."""

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w c"]:
        return features.permute(0, 2, 3, 1)


class _ToChannelsFirst(nn.Module):
    """Gives back a map of channels first."""

    def forward(self, features: Float[Tensor, "b h w c"]) -> Float[Tensor, "b c h w"]:
        return features.permute(0, 3, 1, 2)


class TimmPyramid(Encoder):
    """A network of timm with maps of strides 4, 8, 16 and 32.

    Args:
        name: timm's name.
        weights: A local file of weights; random unless given.

    Raises:
        UserError: The network has not these strides or does not run stage by stage.
    """

    def __init__(self, name: str, *, weights: Path | None = None) -> None:
        super().__init__()
        network = _create_features(name, weights)
        reductions = [int(item["reduction"]) for item in network.feature_info.info]
        if not set(STRIDES) <= set(reductions):
            given = ", ".join(map(str, sorted(set(reductions))))
            raise UserError(
                f"encoder '{PREFIX}{name}' has maps of strides {given}; "
                f"needed are {', '.join(map(str, STRIDES))}, or a plain vision transformer"
            )
        # Where several maps have one stride, the last has seen the most.
        wanted = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]
        if list(network.feature_info.out_indices) != wanted:
            network = _create_features(name, weights, out_indices=tuple(wanted))
        self.channels = tuple(network.feature_info.channels())
        self.strides = STRIDES
        is_last = getattr(network, "output_fmt", None) == "NHWC"
        self.stages = nn.ModuleList(_cut(name, network, channels_last=is_last))
        with _running(name), torch.no_grad():
            expected = network.eval()(_probe_image(STRIDES[-1]))
            if is_last:
                expected = [features.permute(0, 3, 1, 2) for features in expected]
        _check_stages(self, name, expected)

    def stage_layers(self, index: int) -> nn.Module:
        """Return what makes the map of stage ``index``; the first stage holds the stem."""
        return self.stages[index]


class _Enter(nn.Module):
    """The first layers of a plain transformer: patches, class tokens and positions."""

    def __init__(self, body: VisionTransformer) -> None:
        super().__init__()
        self.body = body

    def forward(self, image: Float[Tensor, "b i h w"]) -> Float[Tensor, "b c rows w2"]:
        cells = self.body.patch_embed(image)
        tokens = self.body.norm_pre(self.body._pos_embed(cells))
        return _to_map(tokens, self.body.num_prefix_tokens, cells.shape[2])


class _Group(nn.Module):
    """Some blocks of a plain transformer, from map to map."""

    def __init__(self, blocks: Sequence[nn.Module], num_others: int) -> None:
        super().__init__()
        self.num_others = num_others
        self.blocks = nn.Sequential(*blocks)

    def forward(self, features: Float[Tensor, "b c rows w"]) -> Float[Tensor, "b c rows w"]:
        tokens = self.blocks(_to_tokens(features, self.num_others))
        return _to_map(tokens, self.num_others, features.shape[3])


class TimmTransformer(Encoder):
    """A plain vision transformer of timm, as four groups of blocks.

    Class and register tokens travel from group to group in rows below the image's cells. The
    final norm is no part of it, as in ``forward_intermediates``.

    Args:
        name: timm's name, for messages.
        body: The transformer, made for images of any size; it is taken apart.

    Raises:
        UserError: There are fewer than four blocks, or they need more than the tokens.
    """

    def __init__(self, name: str, body: VisionTransformer) -> None:
        super().__init__()
        blocks, count = list(body.blocks), len(STRIDES)
        stride = int(body.patch_embed.patch_size[0])
        if len(blocks) < count or stride % 2:
            raise UserError(
                f"encoder '{PREFIX}{name}' has {len(blocks)} blocks and patches of {stride} "
                f"pixels; needed are at least {count} blocks and an even number of pixels"
            )
        self.channels, self.strides = (body.embed_dim,) * count, (stride,) * count
        ends = [len(blocks) * (index + 1) // count for index in range(count)]
        with _running(name), torch.no_grad():
            expected = body.eval().forward_intermediates(
                _probe_image(stride), [end - 1 for end in ends], intermediates_only=True
            )
        body.blocks = nn.Sequential()
        body.norm = body.fc_norm = body.head = nn.Identity()
        first, *others = (
            _Group(blocks[start:end], body.num_prefix_tokens) for start, end in pairwise((0, *ends))
        )
        entered = nn.Sequential(OrderedDict({"enter": _Enter(body), "group": first}))
        self.stages = nn.ModuleList([entered, *others])
        assert isinstance(expected, list)
        _check_stages(self, name, expected)

    def stage_layers(self, index: int) -> nn.Module:
        """Return what makes the map of stage ``index``; the first stage holds the patches."""
        return self.stages[index]


def create_timm_encoder(name: str, *, weights: Path | None = None) -> Encoder:
    """Return the encoder of a name of timm.

    Args:
        name: timm's name, without the prefix ``timm/``.
        weights: A local file of weights, as timm publishes them; random unless given.

    Raises:
        UserError: There is no such network, it lacks what is needed, or the file does not fit.
    """
    plain, known = name.partition(".")[0], timm.list_models()
    if plain not in known:
        hint = did_you_mean(plain, known)
        raise UserError(f"no encoder '{PREFIX}{name}': timm {timm.__version__} has none such{hint}")
    try:
        body = _create(name, weights, num_classes=0, dynamic_img_size=True)
    except TypeError:  # most families take no such option, and are no plain transformers
        return TimmPyramid(name, weights=weights)
    if isinstance(body, VisionTransformer):
        return TimmTransformer(name, body)
    return TimmPyramid(name, weights=weights)


def _create(name: str, weights: Path | None, **options: Any) -> nn.Module:
    """Return a network of timm; a TypeError says that it does not take an option."""
    if weights is None:
        return timm.create_model(name, pretrained=False, **options)
    state = read_weights(weights)
    generator = torch.get_rng_state()
    untouched = timm.create_model(name, pretrained=False, **options).state_dict()
    torch.set_rng_state(generator)
    try:
        # A state dict comes before every address, so that nothing is fetched.
        overlay = {"state_dict": state, "custom_load": False}
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except (RuntimeError, KeyError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"weights {weights} do not fit encoder '{PREFIX}{name}': {reason}"
        ) from None
    # timm leaves at their random start what the file lacks, and only logs it.
    for key, value in model.state_dict().items():
        if value.numel() > 1 and value.min() < value.max() and torch.equal(value, untouched[key]):
            raise UserError(f"weights {weights} do not fit encoder '{PREFIX}{name}': no {key}")
    return model


def _create_features(name: str, weights: Path | None, **options: Any) -> Any:
    """Return timm's own network of feature maps, for images of any size where it can."""
    try:
        return _create(name, weights, features_only=True, strict_img_size=False, **options)
    except TypeError:
        pass
    try:
        return _create(name, weights, features_only=True, **options)
    except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
        raise UserError(f"encoder '{PREFIX}{name}' gives no feature maps: {error}") from None


def _cut(name: str, network: nn.Module, *, channels_last: bool) -> Iterator[nn.Module]:
    """Yield the layers of each stage: those up to and with the layer that gives its map."""
    if isinstance(network, FeatureListNet):
        steps, ends = list(network.items()), set(network.return_layers)
    elif isinstance(network, EfficientNetFeatures | MobileNetV3Features) and (
        network.feature_hooks is None
    ):
        blocks = [(f"blocks_{index}", block) for index, block in enumerate(network.blocks)]
        names = [name for name in ("conv_stem", "bn1", "act1") if hasattr(network, name)]
        steps = [*((name, network.get_submodule(name)) for name in names), *blocks]
        # Index 0 is the stem's own map, before the first group of blocks.
        ends = {steps[int(index) + len(names) - 1][0] for index in network._stage_out_idx}
    else:
        raise UserError(
            f"encoder '{PREFIX}{name}' does not run stage by stage: timm reads its maps through "
            f"{type(network).__name__}, not from layers in a row"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for step, layer in steps:
        layers[step] = layer
        if step in ends:
            if channels_last:
                layers["channels_first"] = _ToChannelsFirst()
            yield nn.Sequential(layers)
            layers = OrderedDict({"channels_last": _ToChannelsLast()} if channels_last else {})


def _to_map(tokens: Tensor, num_others: int, width: int) -> Tensor:
    """Return tokens (b n c) as a map of ``width`` cells a row, the first tokens in rows below."""
    others, cells = tokens[:, :num_others], tokens[:, num_others:]
    others = functional.pad(others, (0, 0, 0, -num_others % width))
    return torch.cat([cells, others], 1).mT.unflatten(2, (-1, width)).contiguous()


def _to_tokens(features: Tensor, num_others: int) -> Tensor:
    """Return the tokens that ``_to_map`` made a map of."""
    width = features.shape[3]
    tokens = features.flatten(2).mT
    num_cells = tokens.shape[1] - -(-num_others // width) * width
    return torch.cat([tokens[:, num_cells : num_cells + num_others], tokens[:, :num_cells]], 1)


def _probe_image(stride: int) -> Tensor:
    height, width = (cells * stride for cells in _PROBE)
    return torch.linspace(-2, 2, 3 * height * width).sin().view(1, 3, height, width)


@contextmanager
def _running(name: str) -> Iterator[None]:
    """Say of whatever timm raises inside that the network does not take such an image."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # timm's own checks raise anything
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"encoder '{PREFIX}{name}' does not run on images of any size: {reason}"
        ) from None


def _check_stages(encoder: Encoder, name: str, expected: Sequence[Tensor]) -> None:
    """Compare the stages, one after the other, with timm's own maps of the same image."""
    encoder.eval()
    features = _probe_image(encoder.strides[-1])
    with _running(name), torch.no_grad():
        for index, wanted in enumerate(expected):
            features = encoder.stage_layers(index)(features)
            cells = features[:, :, : wanted.shape[2]]
            if cells.shape != wanted.shape or not torch.allclose(cells, wanted, 1e-3, 1e-4):
                raise UserError(
                    f"encoder '{PREFIX}{name}' does not run stage by stage: the map of stage "
                    f"{index} differs from timm's own"
                )
    encoder.train()
