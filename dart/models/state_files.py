"""Tensors to and from safetensors files: whole or not at all, and never a wrong fit in silence."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dart.checkpoint_header import encode_metadata, read_metadata
from dart.errors import UserError


def write_state(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and metadata; the file appears when it is complete.

    Raises:
        UserError: The folder cannot be written to.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata=encode_metadata(dict(metadata)))
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink()
        raise UserError(f"checkpoint {path} cannot be written: {error}") from None


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint.

    Raises:
        UserError: The file is missing, truncated, or no checkpoint of this project.
    """
    read_metadata(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"checkpoint {path} cannot be read: {error}") from None


def load_pretrained_state(model: nn.Module, path: Path) -> None:
    """Put a pretrained network into encoder, decoder and scale head.

    Raises:
        UserError: The checkpoint is of another model.
    """
    own = {name: value for name, value in model.state_dict().items() if not _is_adapter(name)}
    fit(own, read_state(path), path)


def fit(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path, *, partial: bool = False
) -> None:
    """Copy ``given`` into ``own`` in place, in the dtype of ``own``.

    Args:
        own: The model's tensors.
        given: The file's tensors.
        path: Names the file in messages.
        partial: Whether tensors of the model may be absent from the file.

    Raises:
        UserError: Names or shapes differ.
    """
    missing = [] if partial else sorted(own.keys() - given.keys())
    unknown = sorted(given.keys() - own.keys())
    shared = sorted(own.keys() & given.keys())
    misshapen = [name for name in shared if own[name].shape != given[name].shape]
    if missing or unknown or misshapen:
        parts = [
            f"{len(names)} tensors {what} (first: {names[0]})"
            for names, what in (
                (missing, "missing"),
                (unknown, "unknown"),
                (misshapen, "of another shape"),
            )
            if names
        ]
        raise UserError(f"checkpoint {path} is of another model: {'; '.join(parts)}")
    with torch.no_grad():
        for name in shared:
            own[name].copy_(given[name])


def _is_adapter(name: str) -> bool:
    return name.startswith("adapters.")
