"""Checkpoints: a pretrained network whole, an adapted one as what was trained and nothing else.

An adapted network's file says by hash which pretrained network it belongs to, and carries all
that is needed to build the full network again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dart.checkpoint_header import hash_checkpoint, read_metadata
from dart.checkpoint_header import resolve_checkpoint as resolve
from dart.conditioning import Conditioning
from dart.errors import UserError
from dart.models.depth_net import DepthNet
from dart.models.network_config import NetworkConfig
from dart.models.registry import create_model
from dart.models.state_files import fit, read_state, write_state

GROUPS = ("encoder", "adapters", "decoder", "scale_head")


def save_pretrained(model: DepthNet, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Write encoder, decoder and scale head in half precision.

    Args:
        model: A network without adapters.
        path: The file, ``*.safetensors``.
        metadata: What else the file should say about itself, as its recipe.

    Raises:
        UserError: A weight does not fit half precision, or the file cannot be written.
    """
    if model.variant != "none":
        raise UserError(f"a pretrained network has variant 'none', this one '{model.variant}'")
    state = {name: _halve(name, value) for name, value in model.state_dict().items()}
    own = {"kind": "pretrained", "config": model.config.to_dict()}
    write_state(Path(path), state, {**metadata, **own})


def save_adapter(model: DepthNet, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Write what was trained: the adapters, and every other part with a trainable parameter.

    Of such a part the trainable parameters and all buffers are kept, in full precision.

    Raises:
        UserError: The network did not start from a pretrained checkpoint, or the file cannot be
            written.
    """
    if model.pretrained is None:
        raise UserError(
            "an adapter belongs to a pretrained network, and this one started at random; "
            "create_model(..., pretrained=...) names it"
        )
    state: dict[str, Tensor] = {}
    for group in GROUPS:
        part = model.get_submodule(group)
        state |= {f"{group}.{name}": value for name, value in _trained(part, group).items()}
    name, digest = model.pretrained
    own = {
        "kind": "adapter",
        "variant": model.variant,
        "hyperparameters": model.hyperparameters,
        "config": model.config.to_dict(),
        "conditioning": model.conditioning.to_dict(),
        "pretrained": name,
        "pretrained_sha256": digest,
    }
    write_state(Path(path), state, {**metadata, **own})


def load_pretrained(name_or_path: str | Path) -> DepthNet:
    """Return a pretrained network, in evaluation mode.

    Raises:
        UserError: There is no such checkpoint, or it holds no pretrained network.
    """
    return create_model("none", pretrained=name_or_path).eval()


def load_adapter(path: str | Path, *, pretrained: str | Path | None = None) -> DepthNet:
    """Return the whole adapted network, in evaluation mode.

    Args:
        path: What ``save_adapter`` wrote.
        pretrained: Where the pretrained network is now; where it was unless given.

    Raises:
        UserError: The file is no adapter, its variant has changed, or the pretrained network is
            not the one that it belongs to.
    """
    file = resolve(path)
    metadata = read_metadata(file)
    if metadata["kind"] != "adapter":
        raise UserError(f"checkpoint {file} is of kind '{metadata['kind']}', not 'adapter'")
    missing = _NEEDED - metadata.keys()
    if missing:
        raise UserError(f"checkpoint {file} does not name its {', '.join(sorted(missing))}")
    hyperparameters = metadata["hyperparameters"]
    if not isinstance(hyperparameters, dict):
        raise UserError(f"checkpoint {file}: hyperparameters must be a mapping")
    base = _find_pretrained(file, metadata, pretrained)
    config = NetworkConfig.from_dict(metadata["config"], where=f"checkpoint {file}")
    # Absent where the file is older than the choice.
    shown = Conditioning.from_dict(metadata.get("conditioning", {}), where=f"checkpoint {file}")
    try:
        model = create_model(
            str(metadata["variant"]),
            config=config,
            pretrained=base,
            conditioning=shown,
            **hyperparameters,
        )
    except UserError as error:
        raise UserError(f"checkpoint {file}: {error}") from None
    own, given = model.state_dict(), read_state(file)
    lacking = [name for name in own if name.startswith("adapters.") and name not in given]
    if lacking:
        raise UserError(f"checkpoint {file} is of another model: it lacks {lacking[0]}")
    fit(own, given, file, partial=True)
    return model.eval()


def load_checkpoint(name_or_path: str | Path) -> DepthNet:
    """Return the network of a checkpoint of either kind, in evaluation mode.

    Raises:
        UserError: There is no such checkpoint, or it is not of this project.
    """
    kind = read_metadata(name_or_path)["kind"]
    return load_adapter(name_or_path) if kind == "adapter" else load_pretrained(name_or_path)


_NEEDED = {"variant", "hyperparameters", "config", "pretrained", "pretrained_sha256"}


def _find_pretrained(file: Path, metadata: Mapping[str, Any], given: str | Path | None) -> str:
    base = str(metadata["pretrained"] if given is None else given)
    try:
        found = hash_checkpoint(base)
    except UserError as error:
        raise UserError(f"checkpoint {file} belongs to a pretrained network: {error}") from None
    if found != metadata["pretrained_sha256"]:
        raise UserError(
            f"checkpoint {file} belongs to pretrained '{metadata['pretrained']}' with sha256 "
            f"{str(metadata['pretrained_sha256'])[:12]}; '{base}' has {found[:12]}"
        )
    return base


def _trained(part: nn.Module, group: str) -> dict[str, Tensor]:
    """Return what of a part belongs into an adapter's file."""
    # Frozen adapters are kept too: no other file has their random start.
    whole = group == "adapters"
    trained = {name: p for name, p in part.named_parameters() if whole or p.requires_grad}
    if not trained and not whole:
        return {}
    buffers = part.state_dict().keys() - dict(part.named_parameters()).keys()
    return trained | {name: part.get_buffer(name) for name in buffers}


def _halve(name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    half = value.to(torch.float16)
    if not half.isfinite().all():
        raise UserError(f"{name} does not fit half precision: largest value {value.abs().max():g}")
    return half
