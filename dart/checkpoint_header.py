"""What a checkpoint says about itself, read without torch, and where checkpoints are.

A safetensors file begins with the length of its header (8 bytes, little endian) and the header,
a JSON object that says where each tensor lies: enough to tell a truncated file from a whole one.
"""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any, TypeGuard

from dart.errors import UserError, did_you_mean

PRETRAINED = Path(__file__).parent / "pretrained"
SUFFIX = ".safetensors"
LONGEST_HEADER = 100_000_000


def list_pretrained() -> list[str]:
    """Return the names of the checkpoints that ship."""
    return sorted(path.stem for path in PRETRAINED.glob(f"*{SUFFIX}"))


def resolve_checkpoint(name_or_path: str | Path) -> Path:
    """Return the file of a shipped checkpoint's name, or of a path.

    Raises:
        UserError: There is no such name and no such file.
    """
    text = str(name_or_path)
    names = list_pretrained()
    if text in names:
        return PRETRAINED / f"{text}{SUFFIX}"
    path = Path(name_or_path)
    if path.is_file():
        return path
    what = "is a folder, not a file" if path.is_dir() else "does not exist"
    raise UserError(
        f"checkpoint '{text}' {what}; give a file or one of: {', '.join(names) or 'none ship'}"
        f"{did_you_mean(text, names)}"
    )


def read_metadata(name_or_path: str | Path) -> dict[str, Any]:
    """Return what the checkpoint says about itself: ``kind``, ``config`` and more.

    Raises:
        UserError: The file is missing, truncated, or no checkpoint of this project.
    """
    path = resolve_checkpoint(name_or_path)
    header = _read_header(path)
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or "kind" not in metadata:
        raise UserError(f"checkpoint {path} was not written by this project: it names no 'kind'")
    return {key: _decode(value) for key, value in metadata.items()}


def encode_metadata(metadata: dict[str, Any]) -> dict[str, str]:
    """Return metadata as a safetensors header takes it: ``read_metadata`` gives it back.

    A text that holds a JSON object or array is kept, and so is read back as that object.
    """
    return {
        key: value if _is_json(value) else json.dumps(value, sort_keys=True)
        for key, value in metadata.items()
    }


def _is_json(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value[:1] in ("{", "[")


def hash_checkpoint(name_or_path: str | Path) -> str:
    """Return the sha256 of a checkpoint's bytes."""
    with resolve_checkpoint(name_or_path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _decode(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _read_header(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else LONGEST_HEADER + 1
            content = file.read(length) if length <= LONGEST_HEADER else b""
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror}") from None
    if size < 8 or (length <= LONGEST_HEADER and len(content) < length):
        raise UserError(f"checkpoint {path} is truncated: it ends within its header ({size} bytes)")
    try:
        header = json.loads(content)
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key[:2] != "__"]
        wanted = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise UserError(f"checkpoint {path} is not a safetensors file") from None
    if size != wanted:
        what = "is truncated" if size < wanted else "has bytes too many"
        raise UserError(f"checkpoint {path} {what}: {size} bytes, its header says {wanted}")
    return header
