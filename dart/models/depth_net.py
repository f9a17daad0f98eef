"""The network: encoder, one adapter a stage, decoder and scale head; image in, metres out.

Axis letters: ``b`` batch, ``c`` channels, ``h w`` pixels or cells, ``rows`` rows of cells and of
tokens that belong to no cell.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dart.cameras import Camera, CameraEmbedder, default_camera
from dart.conditioning import Conditioning
from dart.errors import UserError
from dart.models.adapters import Stage, Tuner
from dart.models.depth_head import DepthHead
from dart.models.encoder import create_encoder
from dart.models.network_config import NetworkConfig
from dart.models.scale_head import ScaleHead
from dart.models.stages import Encoder
from dart.seeds import derive_seed
from dart.tricks import is_on

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SMALLEST_DISPARITY = 1e-6


@dataclass(frozen=True)
class Prediction:
    """What the network says about a batch of images."""

    distance: Float[Tensor, "b h w"]
    """Metres along the ray of each pixel."""
    relative_inverse_depth: Float[Tensor, "b h w"]
    """The decoder's answer, in (0, 1)."""
    scale: Float[Tensor, " b"]
    """The scale head's answer: a factor on inverse distance."""


class NoAdapter(nn.Module):
    """Stands in the list of adapters at a stage that has none; it is never run."""


@contextmanager
def isolated_seed(seed: int, *names: str | int) -> Iterator[None]:
    """Draw what is drawn inside from a stream of its own; leave the global one as it was.

    Modules of torch draw their first weights from the global generator of the CPU. A stream for
    each component keeps the decoder's start the same whatever adapters were built before it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, *names))
        yield


def invert(
    relative_inverse_depth: Float[Tensor, "b h w"],
    scale: Float[Tensor, " b"],
    config: NetworkConfig,
) -> Float[Tensor, "b h w"]:
    """Return metres from relative inverse depth in (0, 1) and a factor on inverse distance.

    ``bounded``: 1 / distance = scale (1 / max + (1 / min - 1 / max) r), kept within both bounds.
    ``max_over_disparity``: max / (scale r), which with both factors below 1 cannot give anything
    nearer than ``max_distance``; kept to show what it does (owner's notes).
    """
    scale = scale[:, None, None]
    if config.inversion == "max_over_disparity":
        disparity = (scale * relative_inverse_depth).clamp_min(SMALLEST_DISPARITY)
        return config.max_distance / disparity
    farthest, nearest = 1 / config.max_distance, 1 / config.min_distance
    inverse = scale * (farthest + (nearest - farthest) * relative_inverse_depth)
    distance = inverse.clamp(farthest, nearest).reciprocal()
    return distance.clamp(config.min_distance, config.max_distance)


def initial_relative_inverse_depth(config: NetworkConfig) -> float:
    """Return the decoder's first answer: the geometric mean of both bounds, as r."""
    farthest, nearest = 1 / config.max_distance, 1 / config.min_distance
    return ((farthest * nearest) ** 0.5 - farthest) / (nearest - farthest)


def add_residual(
    adapter: Callable[..., Tensor],
    cells: Float[Tensor, "b c h w"],
    camera: Float[Tensor, "#b _ h w"],
) -> Float[Tensor, "b c h w"]:
    """Return what an adapter makes of a stage's map."""
    return cells + adapter(cells, camera)


def answer(
    decoder: Callable[..., Tensor],
    scale_head: Callable[..., Tensor],
    config: NetworkConfig,
    size: tuple[int, int],
    padded: tuple[int, int],
    camera: Float[Tensor, "#b e h w"],
    *features: Float[Tensor, "b _ _ _"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the fields of a ``Prediction``, of ``size`` where the maps are of ``padded``."""
    relative = decoder(features, padded)[:, : size[0], : size[1]]
    scale = scale_head(features[-1], camera)
    return invert(relative, scale, config), relative, scale


class DepthNet(nn.Module):
    """Metric distance from one image and its camera.

    Args:
        config: Shape of the network and meaning of its output.
        encoder: Runs stage by stage.
        seed: Decides the first weights of decoder and scale head.
        conditioning: What adapters are shown of the camera.
    """

    variant: str = "none"
    """Name of the variant that built the adapters."""
    image_mean: Tensor
    image_std: Tensor

    def __init__(
        self,
        config: NetworkConfig,
        *,
        encoder: Encoder,
        seed: int = 0,
        conditioning: Conditioning | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.conditioning = Conditioning() if conditioning is None else conditioning
        self.hyperparameters: dict[str, Any] = {}
        self.pretrained: tuple[str, str] | None = None
        """Name or path and sha256 of the checkpoint that the weights began from."""
        self.adapters_enabled = True
        self.encoder = encoder
        self.strides = tuple(encoder.strides)
        self.adapters = nn.ModuleList(NoAdapter() for _ in self.strides)
        widths = encoder.channels
        with isolated_seed(seed, "decoder"):
            self.decoder = DepthHead(
                widths,
                channels=config.decoder_channels,
                strides=self.strides,
                initial=initial_relative_inverse_depth(config),
            )
        with isolated_seed(seed, "scale_head"):
            self.scale_head = ScaleHead(
                widths[-1],
                config.camera_dim,
                dim=config.scale_dim,
                activation=config.scale_activation,
            )
        self.embedder = CameraEmbedder(config.camera_dim)
        """Shows the scale head the camera; ``adapter_embedder`` shows it to the adapters."""
        self.adapter_embedder = self.embedder
        if self.conditioning != Conditioning():
            self.adapter_embedder = CameraEmbedder(
                config.camera_dim,
                kind=self.conditioning.embedding,
                control=self.conditioning.camera,
            )
        for name, values in (("image_mean", IMAGENET_MEAN), ("image_std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def adapt(self, adapters: Sequence[nn.Module | None]) -> None:
        """Put one adapter at each stage; None where there is none."""
        self.adapters = nn.ModuleList(
            NoAdapter() if adapter is None else adapter for adapter in adapters
        )

    def forward(
        self,
        image: Float[Tensor, "b 3 h w"],
        cameras: Sequence[Camera] | None = None,
        *,
        known: Sequence[Float[Tensor, "b _ _ _"]] = (),
    ) -> Prediction:
        """Return distances in metres along the rays.

        Args:
            image: Red, green and blue in 0..1; any size.
            cameras: One an image, of the image's size; the seed's fixed camera unless given.
            known: What ``encode_prefix`` gave for these images, which is then not computed again.

        Raises:
            UserError: The image is empty, or the cameras are not those of the images.
        """
        padded, cameras = self.pad(image, cameras)
        features = self._encode(self.normalise(padded), cameras, known)
        return self.decode(features, cameras, (image.shape[2], image.shape[3]))

    def normalise(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return what the encoder takes."""
        # Depthwise convolutions on a CPU are many times slower in the default layout.
        if is_on("channels_last"):
            image = image.contiguous(memory_format=torch.channels_last)
        return (image - self.image_mean) / self.image_std

    def _encode(
        self, image: Tensor, cameras: Sequence[Camera], known: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return the four maps; an adapted one is what the next stage starts from."""
        outputs = []
        features = image if len(known) == 0 else known[0]
        for index, adapter in enumerate(self.adapters):
            layers = self.encoder.stage_layers(index)
            if self.adapters_enabled and isinstance(adapter, Tuner):
                camera = self.show(cameras, index, image)
                features = adapter(layers, features, camera)
                output, _ = self._split(index, features, cameras)
            else:
                plain = known[index] if index < len(known) else layers(features)
                given = self.ask_adapter(index, plain, cameras)
                adapted = None if given is None else add_residual(adapter, *given)
                features, output = self.meet(index, plain, cameras, adapted)
            outputs.append(output)
        return outputs

    def ask_adapter(
        self, index: int, plain: Float[Tensor, "b c rows w"], cameras: Sequence[Camera]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "#b _ h w"]] | None:
        """Return what the adapter of a stage is given; None where there is none."""
        if not self.adapters_enabled or isinstance(self.adapters[index], NoAdapter):
            return None
        cells, _ = self._split(index, plain, cameras)
        return cells, self.show(cameras, index, cells)

    def meet(
        self,
        index: int,
        plain: Float[Tensor, "b c rows w"],
        cameras: Sequence[Camera],
        adapted: Float[Tensor, "b c h w"] | None,
    ) -> tuple[Float[Tensor, "b c rows w"], Float[Tensor, "b c h w"]]:
        """Return what the next stage and the decoder get of a stage's own map and the adapted one.

        They differ for an adapter with ``feeds_next_stage = False``, which the decoder alone sees.
        """
        if adapted is None:
            return plain, self._split(index, plain, cameras)[0]
        if not getattr(self.adapters[index], "feeds_next_stage", True):
            return plain, adapted
        others = plain[:, :, adapted.shape[2] :]
        return (adapted if others.shape[2] == 0 else torch.cat([adapted, others], 2)), adapted

    def _split(
        self, index: int, features: Float[Tensor, "b c rows w"], cameras: Sequence[Camera]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c others w"]]:
        """Return the cells of the image, and the rows of tokens that belong to no cell."""
        height = cameras[0].size[0] // self.strides[index]
        cells, others = features[:, :, :height], features[:, :, height:]
        # One layout with and without an adapter, whose sum is contiguous: the same bits.
        return (cells.contiguous() if others.shape[2] else features), others

    def decode(
        self,
        features: Sequence[Float[Tensor, "b _ _ _"]],
        cameras: Sequence[Camera],
        size: tuple[int, int],
    ) -> Prediction:
        """Return the answer of decoder and scale head at ``size``, that of the images."""
        given = self.ask_heads(features, cameras, size)
        return Prediction(*answer(self.decoder, self.scale_head, *given))

    def ask_heads(
        self,
        features: Sequence[Float[Tensor, "b _ _ _"]],
        cameras: Sequence[Camera],
        size: tuple[int, int],
    ) -> tuple[Any, ...]:
        """Return what ``answer`` is given behind decoder and scale head."""
        stride, deepest = self.strides[-1], features[-1]
        padded = (size[0] + -size[0] % stride, size[1] + -size[1] % stride)
        camera = self.embedder.embed(cameras, stride, device=deepest.device)
        return self.config, size, padded, camera.to(deepest.dtype), *features

    def show(
        self, cameras: Sequence[Camera], index: int, like: Float[Tensor, "b _ _ _"]
    ) -> Float[Tensor, "#b _ h w"]:
        """Return what the adapter of a stage is shown of the cameras, on the device of ``like``.

        The embedding; with ``sees_rays = True`` the unit rays; with ``"too"`` the embedding and,
        behind it, the rays.
        """
        wanted = getattr(self.adapters[index], "sees_rays", False)
        views = ([] if wanted is True else [self.adapter_embedder.embed]) + (
            [self.adapter_embedder.rays] if wanted else []
        )
        shown = [view(cameras, self.strides[index], device=like.device) for view in views]
        return torch.cat(shown, dim=1).to(like.dtype)

    @property
    def num_constant_stages(self) -> int:
        """Number of first stages whose own maps depend on the image alone while this trains."""
        if any(parameter.requires_grad for parameter in self.encoder.parameters()):
            return 0
        for index, adapter in enumerate(self.adapters):
            if isinstance(adapter, Tuner):
                return index
            if not isinstance(adapter, NoAdapter) and getattr(adapter, "feeds_next_stage", True):
                return index + 1
        return len(self.adapters)

    @torch.no_grad()
    def encode_prefix(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Return the own maps of the first ``num_constant_stages`` stages."""
        features, known = self.normalise(self.pad(image, None)[0]), []
        for index in range(self.num_constant_stages):
            features = self.encoder.stage_layers(index)(features)
            known.append(features)
        return known

    def pad(
        self, image: Tensor, cameras: Sequence[Camera] | None
    ) -> tuple[Tensor, Sequence[Camera]]:
        """Extend images and cameras to the right and below, to multiples of the last stride."""
        size = (image.shape[2], image.shape[3])
        if min(size) < 1:
            raise UserError(f"image of {size[0]}x{size[1]} pixels: both sides must be at least 1")
        if cameras is None:
            cameras = [default_camera(size)] * len(image)
        if len(cameras) != len(image):
            raise UserError(f"got {len(cameras)} cameras for {len(image)} images: one each")
        for camera in cameras:
            if camera.size != size:
                raise UserError(
                    f"the camera is of {camera.size[0]}x{camera.size[1]} pixels and its image of "
                    f"{size[0]}x{size[1]}; resize() or crop() makes the camera of an edited image"
                )
        bottom, right = -size[0] % self.strides[-1], -size[1] % self.strides[-1]
        if bottom == 0 and right == 0:
            return image, cameras
        padded = functional.pad(image, (0, right, 0, bottom), mode="replicate")
        return padded, [camera.pad(0, 0, right, bottom) for camera in cameras]


def build_encoder(config: NetworkConfig, *, seed: int) -> Encoder:
    """Return an untrained encoder whose first weights depend on ``seed`` alone."""
    with isolated_seed(seed, "encoder"):
        return create_encoder(config.encoder)


def list_stages(model: DepthNet) -> list[Stage]:
    """Return where adapters sit."""
    encoder = model.encoder
    return [
        Stage(
            index=index,
            channels=width,
            stride=stride,
            camera_dim=model.adapter_embedder.channels,
            layers=encoder.stage_layers(index),
        )
        for index, (width, stride) in enumerate(zip(encoder.channels, encoder.strides, strict=True))
    ]
