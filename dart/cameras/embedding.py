"""The dense camera embedding at the network's strides, computed once a camera.

The embedding of a camera never changes, and a domain has few cameras, so it is kept; a study
with a camera an image (crops) must not fill the memory with them, so it is kept only up to a
number of bytes, the longest unused going first.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dart.cameras.camera import Camera
from dart.cameras.controls import arrange, shown_lens
from dart.cameras.kinds import EMBEDDINGS
from dart.cameras.rays import embed_rays, embedding_channels, resize_rays
from dart.conditioning import CameraControl, EmbeddingKind
from dart.errors import UserError


class CameraEmbedder:
    """Channels that describe the rays of a camera, on the grid of a stage, cached.

    Args:
        dim: Channels wanted, as ``embed_rays``; ``channels`` says how many come.
        kind: How rays become channels: one of ``EMBEDDINGS``.
        control: Shows the real camera or a false one (``dart.cameras.controls``).
        max_bytes: Memory that the cache may hold; the last embedding is kept whatever its size.
    """

    def __init__(
        self,
        dim: int,
        *,
        kind: EmbeddingKind = "fourier",
        control: CameraControl = "real",
        max_bytes: int = 256 * 2**20,
    ) -> None:
        if embedding_channels(dim) < 1:
            raise UserError(f"CameraEmbedder: dim = {dim}; it must be at least 2")
        self.dim = dim
        self.kind: EmbeddingKind = kind
        self.control: CameraControl = control
        self.channels = EMBEDDINGS[kind].channels(dim)
        self.max_bytes = max_bytes
        self._cache: OrderedDict[tuple[object, ...], Tensor] = OrderedDict()
        self._bytes = 0

    def embed(
        self,
        cameras: Sequence[Camera],
        stride: int,
        *,
        device: torch.device | str | None = None,
    ) -> Float[Tensor, "#b e h w"]:
        """Return the embedding of each camera at ``stride``; one row if all are the same camera.

        The result is shared with later calls: do not write into it. No gradient reaches the
        cameras' parameters.

        Args:
            cameras: One a picture, of one image size.
            stride: Pixels a cell, which must divide height and width.
            device: Where the result lies; by default where the first camera's parameters lie.

        Raises:
            UserError: If there is no camera, or the images differ in size, or ``stride`` does not
                divide it.
        """
        return self._for_each(
            cameras,
            stride,
            device,
            (self.dim,),
            self._describe,
        )

    def _describe(self, rays: Tensor, cells: tuple[int, int]) -> Tensor:
        if self.kind == "fourier":
            return embed_rays(rays, cells, self.dim)
        features = EMBEDDINGS[self.kind].describe(resize_rays(rays, cells), self.dim)
        return features.permute(0, 3, 1, 2)

    def rays(
        self,
        cameras: Sequence[Camera],
        stride: int,
        *,
        device: torch.device | str | None = None,
    ) -> Float[Tensor, "#b 3 h w"]:
        """Return the unit rays (x right, y down, z ahead) of each cell at ``stride``, as ``embed``.

        Raises:
            UserError: As ``embed``.
        """
        return self._for_each(
            cameras,
            stride,
            device,
            ("rays",),
            lambda rays, cells: resize_rays(rays, cells).permute(0, 3, 1, 2),
        )

    def _for_each(
        self,
        cameras: Sequence[Camera],
        stride: int,
        device: torch.device | str | None,
        name: tuple[object, ...],
        describe: Callable[[Tensor, tuple[int, int]], Tensor],
    ) -> Float[Tensor, "#b e h w"]:
        """Return what ``describe`` says of each camera's rays on the grid of ``stride``, cached."""
        height, width = _common_size(cameras)
        if stride < 1 or height % stride or width % stride:
            raise UserError(
                f"an image of height {height} and width {width} has no embedding at stride "
                f"{stride}; pad both sides to a multiple of it"
            )
        target = torch.device(device) if device is not None else cameras[0].params.device
        cells = (height // stride, width // stride)

        def described(camera: Camera) -> Tensor:
            key = (camera.key, camera.params.dtype, target)
            return self._cached(
                (*key, stride, *name),
                lambda: arrange(
                    describe(
                        self._cached(
                            key, lambda: _pixel_rays(shown_lens(camera, self.control)).to(target)
                        ),
                        cells,
                    ),
                    self.control,
                ),
            )

        rows = {camera.key: described(camera) for camera in cameras}
        if len(rows) == 1 and cameras[0].params.ndim == 1:
            return rows[cameras[0].key]
        return torch.cat([rows[camera.key] for camera in cameras])

    def _cached(self, key: tuple[object, ...], compute: Callable[[], Tensor]) -> Tensor:
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        # A tensor born in inference mode could not be used in training later.
        with torch.inference_mode(False), torch.no_grad():
            value = compute().contiguous()
        self._cache[key] = value
        self._bytes += value.nbytes
        while self._bytes > self.max_bytes and len(self._cache) > 1:
            self._bytes -= self._cache.popitem(last=False)[1].nbytes
        return value


def _common_size(cameras: Sequence[Camera]) -> tuple[int, int]:
    if not cameras:
        raise UserError("no camera to embed; default_camera(size) is for images without one")
    for camera in cameras:
        if camera.size != cameras[0].size:
            raise UserError(
                f"cameras of one batch differ in image size: {cameras[0].size} and {camera.size} "
                "(height, width)"
            )
    return cameras[0].size


def _pixel_rays(camera: Camera) -> Float[Tensor, "b height width 3"]:
    return camera.rays().reshape(-1, *camera.size, 3)
