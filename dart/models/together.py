"""Several networks on one frozen encoder: its kernels run once for the images of all of them.

Source: horizontal fusion of training jobs (HFTA, Wang et al. 2021, arXiv 2102.02344), with the
difference that what is frozen is not stacked but shared.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dart.cameras import Camera
from dart.models.adapters import Tuner
from dart.models.batched import Act, call_alike
from dart.models.depth_net import DepthNet, Prediction, add_residual, answer


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
    batched: bool = False,
) -> list[Prediction]:
    """Return what each network says about its share of the images: equal shares, in order.

    Args:
        nets: Networks that share one encoder.
        image: The images of all networks.
        cameras: One an image.
        known: What ``encode_prefix`` gave for these images, of as many stages as all may skip.
        batched: Call adapters, decoders and scale heads of one architecture at once.
    """
    encoder, count = nets[0].encoder, len(nets)
    padded, padded_cameras = nets[0].pad(image, cameras)
    share = len(image) // count
    seen = [padded_cameras[i * share : (i + 1) * share] for i in range(count)]
    outputs: list[list[Tensor]] = [[] for _ in nets]
    features = nets[0].normalise(padded) if len(known) == 0 else known[0]
    for index in range(len(nets[0].strides)):
        plain = known[index] if index < len(known) else encoder.stage_layers(index)(features)
        parts = plain.chunk(count)
        adapted = _adapt(nets, index, parts, seen, batched=batched)
        met = [
            net.meet(index, part, own, new)
            for net, part, own, new in zip(nets, parts, seen, adapted, strict=True)
        ]
        features = torch.cat([entering for entering, _ in met])
        for list_of_net, (_, output) in zip(outputs, met, strict=True):
            list_of_net.append(output)
    size = (image.shape[2], image.shape[3])
    given = [
        net.ask_heads(maps, own, size) for net, maps, own in zip(nets, outputs, seen, strict=True)
    ]
    heads = [(net.decoder, net.scale_head) for net in nets]
    names = ["decoder and scale head"] * count
    return [Prediction(*fields) for fields in _call(answer, heads, given, names, batched=batched)]


def _adapt(
    nets: Sequence[DepthNet],
    index: int,
    parts: Sequence[Float[Tensor, "b c rows w"]],
    seen: Sequence[Sequence[Camera]],
    *,
    batched: bool,
) -> list[Tensor | None]:
    """Return each network's adapted map of a stage; None where it has no adapter."""
    asked = [
        net.ask_adapter(index, part, own) for net, part, own in zip(nets, parts, seen, strict=True)
    ]
    at = [place for place, given in enumerate(asked) if given is not None]
    given = [own for own in asked if own is not None]
    adapters = [(nets[place].adapters[index],) for place in at]
    names = [nets[place].variant for place in at]
    called = _call(add_residual, adapters, given, names, batched=batched)
    adapted: list[Tensor | None] = [None] * len(nets)
    for place, new in zip(at, called, strict=True):
        adapted[place] = new
    return adapted


def _call(
    act: Act,
    members: Sequence[Sequence[nn.Module]],
    inputs: Sequence[Sequence[Any]],
    names: Sequence[str],
    *,
    batched: bool,
) -> list[Any]:
    if batched:
        return call_alike(act, members, inputs, names)
    return [act(*modules, *given) for modules, given in zip(members, inputs, strict=True)]
