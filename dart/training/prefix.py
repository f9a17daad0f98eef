"""The maps of stages that never change, kept for every image that training has seen.

A frozen encoder gives the same map of stage 0 for the same picture in every epoch, seed and
variant, since the first adapter comes after it. Each is computed once a process, one image
at a time: its value then depends neither on the rest of the batch nor on what was kept before.
"""

from collections.abc import Hashable

import torch
from jaxtyping import Float
from torch import Tensor

from dart.data.sample import Batch, digest_image
from dart.models import DepthNet
from dart.models.folding import is_folded

MAX_BYTES = 2**30
"""Of all maps that are kept; beyond it they are computed and thrown away."""

_kept: dict[Hashable, dict[bytes, list[Tensor]]] = {}


class Prefix:
    """The maps of a network's first stages, of as many as training leaves alone.

    Args:
        model: A network as it is trained: what requires a gradient is decided.
        precision: Name of the precision of its passes.
    """

    def __init__(self, model: DepthNet, precision: str) -> None:
        self.model = model
        self.stages = model.num_constant_stages
        self.kept: dict[bytes, list[Tensor]] = {}
        if model.pretrained is not None:
            weight = next(model.encoder.parameters())
            kind = (str(weight.device), weight.dtype, precision)
            identity = (model.pretrained[1], is_folded(model.encoder), *kind)
            own = [kept for key, kept in _kept.items() if key[:-1] == identity]  # pyright: ignore[reportIndexIssue]
            if not any(own):
                for kept in _kept.values():  # emptied, not forgotten: a run may go on to fill it
                    kept.clear()
            self.kept = _kept.setdefault((*identity, self.stages), {})

    def of(self, batch: Batch) -> list[Float[Tensor, "b _ _ _"]]:
        """Return the maps of the first stages, finest first; none where the first one trains."""
        if self.stages == 0:
            return []
        images = batch.image.split(1)
        rows = [self._of_one(image, of) for image, of in zip(images, batch.digests, strict=True)]
        return [torch.cat(maps) for maps in zip(*rows, strict=True)]

    def _of_one(self, image: Float[Tensor, "1 3 h w"], digest: bytes) -> list[Tensor]:
        key = digest or digest_image(image[0])
        if key in self.kept:
            return self.kept[key]
        maps = self.model.encode_prefix(image)
        size = sum(value.nbytes for value in maps)
        if size * (1 + sum(map(len, _kept.values()))) <= MAX_BYTES:
            self.kept[key] = maps
        return maps
