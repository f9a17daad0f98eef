"""What several commands share; without torch."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from dart.errors import UserError

_WIDTH_OF_FILES = 200


def results_folder(options: Namespace) -> Path:
    """Return where results lie: ``--results``, else ``$DART_RESULTS``, else ``./results``."""
    return options.results or Path(os.environ.get("DART_RESULTS", "results"))


def make_folder(folder: Path) -> None:
    """Make a folder.

    Raises:
        UserError: If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to the folder {folder}: {error.strerror}") from error


def create_progress() -> Progress:
    """Return a progress bar on the error stream that is gone when it is done; no terminal, none."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def create_console() -> Console:
    """Return a console for tables: text is taken as it is, and a file or pipe is wide enough."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH_OF_FILES
    return console


def write_whole(path: Path, write_to: Callable[[Path], object]) -> None:
    """Write a file so that it is whole or absent.

    Raises:
        UserError: The disk is full, the folder is read-only, and the like.
    """
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write_to(partial)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    sys.stdout.write(json.dumps(content, indent=1) + "\n")
