"""Do small layers beside the encoder's own adapt better than changed weights?

A bottleneck beside a block can do what no change of the block's weights can: look at other
neighbours, and answer non-linearly. It cannot be merged, so it must earn its time.

Source: residual adapters (Rebuffi et al. 2018, arXiv 1803.10082), AdaptFormer (Chen et al. 2022,
arXiv 2205.13535), Convpass (Jie and Deng 2022, arXiv 2207.07039), Conv-Adapter (Chen et al. 2024,
arXiv 2208.07463).

Axis letters: ``b`` batch, ``c`` channels, ``h w`` cells.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dart.models import Stage, register_variant
from dart.models.beside import Beside, OnLastAxis, list_blocks, list_mlps, zero_start


class ConvAdapter(nn.Module):
    """A grouped kernel to fewer channels, an activation, a 1x1 map back, a factor a channel.

    Source: arXiv 2208.07463, section 3.2. Differs in one respect: the map back starts at zero.
    """

    def __init__(self, channels: int, *, reduction: int, kernel: int) -> None:
        super().__init__()
        hidden = channels // reduction
        self.down = nn.Conv2d(
            channels, hidden, kernel, padding=kernel // 2, groups=hidden, bias=False
        )
        self.act = nn.GELU()
        self.up = zero_start(nn.Conv2d(hidden, channels, 1, bias=False))
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the residual."""
        return self.scale * self.up(self.act(self.down(features)))


@register_variant(
    hypothesis="A depthwise bottleneck beside every block adapts better than LoRA.",
    compare_to="lora",
    uses_camera=False,
)
def conv_adapter(stage: Stage, *, num_shared: int = 4, num_taps: int = 3) -> nn.Module:
    """Conv-Adapter beside every residual block.

    ``num_shared`` channels are brought to one, by a kernel of ``num_taps`` cells a side; the
    largest divisor of the channels that is not above it is taken.
    """
    reduction = max(n for n in range(1, num_shared + 1) if stage.channels % n == 0)
    return Beside(
        {
            name: ConvAdapter(stage.channels, reduction=reduction, kernel=2 * (num_taps // 2) + 1)
            for name in list_blocks(stage)
        }
    )


@register_variant(
    hypothesis="A linear map beside every spatial convolution adapts better than LoRA.",
    compare_to="lora",
    uses_camera=False,
)
def residual_adapter(stage: Stage) -> nn.Module | None:
    """A dense 1x1 convolution from zero beside every larger convolution, before its norm."""
    additions = {
        name: Subsampled(
            zero_start(nn.Conv2d(module.in_channels, module.out_channels, 1, bias=False)),
            (module.stride[0], module.stride[1]),
        )
        for name, module in stage.layers.named_modules()
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
    }
    return Beside(additions) if additions else None


class Subsampled(nn.Module):
    """A layer on every so many cells: a 1x1 convolution with a stride, without torch's own.

    The gradient of a strided 1x1 convolution on a CPU has ended the process on small maps
    (torch 2.14.1, found with ``lcnet_050``).
    """

    def __init__(self, layer: nn.Module, stride: tuple[int, int]) -> None:
        super().__init__()
        self.layer = layer
        self.stride = stride

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Return the layer's answer on the chosen cells."""
        rows, columns = self.stride
        return self.layer(features[:, :, ::rows, ::columns])


def bottleneck(inputs: int, outputs: int, *, hidden: int, between: nn.Module) -> nn.Sequential:
    """Return a map through ``hidden`` channels whose last part starts at zero."""
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1), between, zero_start(nn.Conv2d(hidden, outputs, 1))
    )


class Scaled(nn.Module):
    """A network times a constant."""

    def __init__(self, network: nn.Module, *, factor: float) -> None:
        super().__init__()
        self.network = network
        self.factor = factor

    def forward(self, features: Float[Tensor, "b _ *n"]) -> Float[Tensor, "b _ *n"]:
        """Return the network's answer, times the constant."""
        return self.factor * self.network(features)


@register_variant(
    hypothesis="A bottleneck beside every feed-forward part adapts better than LoRA.",
    compare_to="lora",
    uses_camera=False,
)
def adaptformer(stage: Stage, *, hidden_dim: int = 16, factor: float = 0.1) -> nn.Module:
    """AdaptFormer: down, ReLU and up beside every feed-forward part, times ``factor``."""
    additions = {}
    for name, mlp in list_mlps(stage).items():
        if isinstance(first := _first_layer(mlp), nn.Conv2d):
            width = first.in_channels
            network: nn.Module = bottleneck(width, width, hidden=hidden_dim, between=nn.ReLU())
        else:
            width = first.in_features
            network = OnLastAxis(bottleneck(width, width, hidden=hidden_dim, between=nn.ReLU()))
        additions[name] = Scaled(network, factor=factor)
    return Beside(additions)


def _first_layer(mlp: nn.Module) -> nn.Conv2d | nn.Linear:
    """Return the first layer of a feed-forward part, which may stand with its norm."""
    return next(m for m in mlp.modules() if isinstance(m, nn.Conv2d | nn.Linear))


@register_variant(
    hypothesis="Looking at neighbours inside the bottleneck adapts better than AdaptFormer.",
    compare_to="adaptformer",
    uses_camera=False,
)
def convpass(stage: Stage, *, hidden_dim: int = 8, factor: float = 1.0) -> nn.Module:
    """Convpass: 1x1 down, 3x3 and 1x1 up, GELUs between, beside every residual block.

    Source: arXiv 2207.07039. Differs: exact GELU, no dropout, one adapter a block, which sees the
    map that enters the block.
    """
    additions = {}
    for name in list_blocks(stage):
        middle = nn.Sequential(
            nn.GELU(), nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1), nn.GELU()
        )
        network = bottleneck(stage.channels, stage.channels, hidden=hidden_dim, between=middle)
        additions[name] = Scaled(network, factor=factor)
    return Beside(additions)
