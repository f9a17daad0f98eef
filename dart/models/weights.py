"""Weights of an encoder from a file that somebody else wrote.

Published checkpoints come in several wrappings, and those of TinyViM pickle the training
script's ``argparse.Namespace`` beside the weights. Nothing in a file is ever executed.
"""

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dart.errors import UserError
from dart.models.tinyvim import SIZES

__all__ = ["LoadedWeights", "load_weights", "read_weights"]

_WRAPPERS = ("model", "state_dict", "model_ema")
_PREFIXES = ("module.", "backbone.")
_OPTIONAL = ("norm.", "norm0.", "norm2.", "norm4.", "norm6.", "head.", "dist_head.")
"""Around the trunk: a classifier has some of them, ``fork_feat`` and a bare trunk others."""


class LoadedWeights(NamedTuple):
    """What a file did not give to a model, and what of it was left over."""

    missing: tuple[str, ...]
    """Keys of norms and heads that the file does not hold and that keep their value."""
    unused: tuple[str, ...]
    """Keys of norms and heads that the model does not have."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a ``.safetensors`` file or a file of ``torch.save``.

    Accepted are a bare state dict and one under ``model``, ``state_dict`` or ``model_ema`` (the
    first that is there), with or without the prefix ``module.`` or ``backbone.``.

    Raises:
        UserError: The file is missing, cut short, no such file, or wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights {path}: no such file")
    if path.suffix == ".safetensors":
        return _without_prefix(_read(path, load_file))
    content = _read(path, _unpickle)
    for wrapper in _WRAPPERS:
        inner = content.get(wrapper) if isinstance(content, Mapping) else None
        if isinstance(inner, Mapping):
            content = inner
            break
    return _without_prefix(_checked(path, content))


def load_weights(model: nn.Module, path: str | Path) -> LoadedWeights:
    """Load a file into a TinyViM, in place, and return what did not match.

    The trunk must be in the file whole and in the right shape. Norms and heads may be missing
    on either side, so that a classifier's file fits ``fork_feat`` or ``num_classes=0``, and
    the reverse; what is there must have the right shape.

    Raises:
        UserError: As :func:`read_weights`, or the weights are of another model.
    """
    weights = read_weights(path)
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in weights]
    unused = [key for key in weights if key not in wanted]
    shapes = [key for key in wanted if key in weights and weights[key].shape != wanted[key].shape]
    absent = [key for key in missing if not key.startswith(_OPTIONAL)]
    foreign = [key for key in unused if not key.startswith(_OPTIONAL)]
    if absent or foreign or any(not key.startswith(_OPTIONAL) for key in shapes):
        raise UserError(f"weights {path}: " + _describe(model, weights, shapes, absent, foreign))
    if shapes:
        found, needed = (tuple(side[shapes[0]].shape) for side in (weights, wanted))
        raise UserError(
            f"weights {path}: {shapes[0]} has the shape {found} where the model has {needed}; "
            f"create the model with num_classes={found[0]} or 0"
        )
    model.load_state_dict({key: weights[key] for key in wanted if key in weights}, strict=False)
    return LoadedWeights(tuple(missing), tuple(unused))


def _unpickle(path: Path) -> Any:
    # A Namespace is a plain holder of attributes; every other class stays refused.
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _read(path: Path, read: Any) -> Any:
    try:
        return read(path)
    except Exception as error:  # a broken file can make a reader raise anything
        reason = " ".join(str(error).split())
    if "GLOBAL " in reason:
        what = reason.partition("GLOBAL ")[2].split(" ")[0]
        raise UserError(
            f"weights {path}: holds {what}, which is not loaded since it could run code; "
            "only tensors, plain values and argparse.Namespace are allowed"
        )
    raise UserError(
        f"weights {path}: cut short, or neither a .safetensors file nor one of torch.save"
    )


def _checked(path: Path, content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise UserError(
            f"weights {path}: holds a {type(content).__name__}; a state dict is allowed, bare or "
            f"under one of {', '.join(_WRAPPERS)}"
        )
    others = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        found = f"{others[0]!r}, which is no tensor" if others else "nothing"
        raise UserError(
            f"weights {path}: holds {found}; a state dict is allowed, bare or under one of "
            f"{', '.join(_WRAPPERS)}"
        )
    return dict(content)


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        inner = {
            key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)
        }
        weights = inner or weights
    return weights


def _describe(
    model: nn.Module,
    weights: dict[str, Tensor],
    shapes: list[str],
    absent: list[str],
    foreign: list[str],
) -> str:
    """Return why the weights are not this model's, in a clause."""
    name, found = _name(model.state_dict()), _name(weights)
    if found is not None and found != name:
        return f"are those of {found}, but the model is {name or type(model).__name__}"
    counts = f"{len(absent)} keys missing, {len(foreign)} unknown, {len(shapes)} of another shape"
    example = (absent + foreign + shapes)[0]
    return f"do not fit {name or type(model).__name__}: {counts}, among them {example}"


def _name(weights: Mapping[str, Tensor]) -> str | None:
    """Return which TinyViM has these channels and depths, or None."""
    downs = [weights.get(f"network.{index}.proj.c.weight") for index in (1, 3, 5)]
    blocks = {tuple(key.split(".")[1:3]) for key in weights if key.startswith("network.")}
    depths = tuple(sum(stage == str(index) for stage, _ in blocks) for index in (0, 2, 4, 6))
    if any(down is None or down.ndim != 4 for down in downs):
        return None
    first, *others = [down.shape for down in downs if down is not None]
    channels = (first[1], first[0], *(shape[0] for shape in others))
    for name, size in SIZES.items():
        if size.channels == channels and size.depths == depths:
            return name
    return None
