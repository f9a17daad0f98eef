"""Encoders by name: TinyViM, and networks of timm."""

from pathlib import Path

import timm

from dart.errors import UserError, did_you_mean
from dart.models.stages import Encoder
from dart.models.timm_encoders import PREFIX, create_timm_encoder
from dart.models.tinyvim import SIZES, TinyViM
from dart.models.weights import load_weights


def create_encoder(name: str, *, weights: Path | None = None) -> Encoder:
    """Return an encoder without a classifier.

    Args:
        name: A size of TinyViM, or ``timm/NAME``.
        weights: A local file of weights; random unless given.

    Raises:
        UserError: There is no encoder of that name, it lacks what the network needs, or the file
            does not fit it.
    """
    if name.startswith(PREFIX):
        return create_timm_encoder(name.removeprefix(PREFIX), weights=weights)
    if name not in SIZES:
        allowed = [*SIZES, f"{PREFIX}NAME"]
        raise UserError(
            f"no encoder '{name}'; there are: {', '.join(allowed)}"
            f"{did_you_mean(name, [*SIZES, *(PREFIX + known for known in timm.list_models())])}"
        )
    encoder = timm.create_model(name, num_classes=0)
    assert isinstance(encoder, TinyViM)
    if weights is not None:
        load_weights(encoder, weights)
    return encoder
