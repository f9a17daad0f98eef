"""The folder that frames are rendered into: what lies in it already, and who writes to it.

Every frame is written whole and then noted in a journal, so that a killed rendering goes on; the
index is written last: a folder with an index is complete. One process at a time holds the folder.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from dart.data.frames import INDEX, FrameIndex, FrameRecord, FrameStore, write_atomically
from dart.errors import UserError
from dart.locks import Held, hold_lock

_JOURNAL = "journal.jsonl"
_LOCK = ".lock"

Place = tuple[int, int]
"""Scene and view: what names a frame within its split."""


@dataclass(frozen=True)
class Header:
    """What every frame of a folder has in common."""

    domain: str
    split: str
    size: tuple[int, int]
    """Height and width in pixels."""
    renderer_version: int


@dataclass(frozen=True)
class Earlier:
    """What earlier runs left in a folder."""

    frames: dict[Place, FrameRecord]
    """Frames whose files are whole."""
    damaged: int
    """Frames that were noted, but whose files are missing or not as they were written."""
    finished: int
    """Number of frames of the complete set that lies there; 0 = none does."""


@contextmanager
def hold_folder(out: Path) -> Iterator[None]:
    """Make a folder and keep other processes from rendering into it.

    Raises:
        UserError: the folder cannot be written to, or another process renders into it.
    """
    with ExitStack() as stack:
        try:
            with refuse_unwritable(out):
                out.mkdir(parents=True, exist_ok=True)
                stack.enter_context(hold_lock(out / _LOCK))
        except Held as holder:
            raise UserError(
                f"{out}: process {holder} is rendering into it; wait for it, "
                "or choose another folder with --out"
            ) from None
        yield


@contextmanager
def refuse_unwritable(out: Path) -> Iterator[None]:
    """Tell what keeps a folder from being written to in one line.

    Raises:
        UserError: the disk is full, the folder is read-only, and the like.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{out}: cannot be written to ({reason})") from None


def read_earlier(out: Path, header: Header) -> Earlier:
    """Return what earlier runs finished in a folder, with every file checked.

    Raises:
        UserError: the folder holds frames of another domain, split, size or renderer.
    """
    records: list[FrameRecord] = []
    finished = 0
    if (out / INDEX).is_file():
        index = FrameStore(out).index
        _check_header(out, _header_of(index), header)
        records += index.frames
        finished = len(records)
    if (out / _JOURNAL).is_file():
        other, noted = _read_journal(out / _JOURNAL)
        if other is not None:
            _check_header(out, other, header)
        records += noted
    frames = {(record.scene, record.view): record for record in records}
    whole = {place: record for place, record in frames.items() if _is_whole(out, record)}
    return Earlier(whole, len(frames) - len(whole), finished)


def _header_of(index: FrameIndex) -> Header:
    version = int(index.recipe.get("renderer_version", 0))
    return Header(index.domain, index.split, index.size, version)


def _check_header(out: Path, found: Header, wanted: Header) -> None:
    pairs = (
        (f"{found.domain}/{found.split}", f"{wanted.domain}/{wanted.split}"),
        ("{}x{}".format(*found.size), "{}x{}".format(*wanted.size)),
        (f"renderer version {found.renderer_version}", f"version {wanted.renderer_version}"),
    )
    for there, here in pairs:
        if there.removeprefix("renderer ") != here:
            raise UserError(
                f"{out}: holds frames of {there}, not of {here}; choose another folder with --out"
            )


def _is_whole(out: Path, record: FrameRecord) -> bool:
    files = (
        (record.image_file, record.image_sha256),
        (record.range_file, record.range_sha256),
    )
    try:
        return all(
            sha256((out / name).read_bytes()).hexdigest() == checksum for name, checksum in files
        )
    except OSError:
        return False


def _read_journal(path: Path) -> tuple[Header | None, list[FrameRecord]]:
    """Return the journal's header and records; a kill may have cut its last line short."""
    header, records = None, []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            content: dict[str, Any] = json.loads(line)
            if "renderer_version" in content:
                height, width = content.pop("size")
                header = Header(size=(height, width), **content)
            else:
                records.append(FrameRecord(**content))
        except (ValueError, TypeError):
            continue
    return header, records


class Journal:
    """Notes finished frames, those of earlier runs first, until the index replaces it."""

    def __init__(self, out: Path, header: Header, frames: dict[Place, FrameRecord]) -> None:
        self._out = out
        lines = [asdict(header), *(asdict(record) for record in frames.values())]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomically(out / _JOURNAL, text.encode())
        (out / INDEX).unlink(missing_ok=True)
        for leftover in (*out.glob("image/.*"), *out.glob("range/.*")):
            leftover.unlink(missing_ok=True)

    def note(self, record: FrameRecord) -> None:
        """Add a frame whose files are written."""
        with (self._out / _JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(asdict(record)) + "\n")

    def close(self, index: FrameIndex) -> None:
        """Write the index, which makes the set complete."""
        write_atomically(self._out / INDEX, index.to_json().encode())
        (self._out / _JOURNAL).unlink(missing_ok=True)
