"""Encoders that can be run stage by stage, so that an adapter's output enters the next stage."""

import timm

from dart.errors import UserError, did_you_mean
from dart.models.tinyvim import SIZES, TinyViM


def create_encoder(name: str) -> TinyViM:
    """Return an untrained encoder without a classifier.

    Raises:
        UserError: There is no encoder of that name.
    """
    if name not in SIZES:
        allowed = list(SIZES)
        raise UserError(
            f"no encoder '{name}'; there are: {', '.join(allowed)}{did_you_mean(name, allowed)}"
        )
    encoder = timm.create_model(name, num_classes=0)
    assert isinstance(encoder, TinyViM)
    return encoder
