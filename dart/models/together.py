"""Several networks on one frozen encoder: its kernels run once for the images of all of them.

Source: horizontal fusion of training jobs (HFTA, Wang et al. 2021, arXiv 2102.02344), with the
difference that what is frozen is not stacked but shared.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dart.cameras import Camera
from dart.models.adapters import Tuner
from dart.models.depth_net import DepthNet, Prediction


def can_share(net: DepthNet) -> bool:
    """Say whether a network leaves its encoder as it is, so that others may use the same one."""
    tuned = any(isinstance(adapter, Tuner) for adapter in net.adapters)
    return not tuned and not any(p.requires_grad for p in net.encoder.parameters())


def forward_together(
    nets: Sequence[DepthNet],
    image: Float[Tensor, "b 3 h w"],
    cameras: Sequence[Camera],
    *,
    known: Sequence[Float[Tensor, "b _ _ _"]] = (),
) -> list[Prediction]:
    """Return what each network says about its share of the images: equal shares, in order.

    Args:
        nets: Networks that share one encoder.
        image: The images of all networks.
        cameras: One an image.
        known: What ``encode_prefix`` gave for these images, of as many stages as all may skip.
    """
    encoder, count = nets[0].encoder, len(nets)
    padded, padded_cameras = nets[0].pad(image, cameras)
    share = len(image) // count
    seen = [padded_cameras[i * share : (i + 1) * share] for i in range(count)]
    outputs: list[list[Tensor]] = [[] for _ in nets]
    features = nets[0].normalise(padded) if len(known) == 0 else known[0]
    for index in range(len(nets[0].strides)):
        plain = known[index] if index < len(known) else encoder.stage_layers(index)(features)
        met = [
            net.meet(index, part, own)
            for net, part, own in zip(nets, plain.chunk(count), seen, strict=True)
        ]
        features = torch.cat([entering for entering, _ in met])
        for list_of_net, (_, output) in zip(outputs, met, strict=True):
            list_of_net.append(output)
    size = (image.shape[2], image.shape[3])
    return [net.decode(maps, own, size) for net, maps, own in zip(nets, outputs, seen, strict=True)]
