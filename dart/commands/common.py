"""What several commands share; without torch."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from dart.errors import UserError


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
    """Return a progress bar on the error stream that is gone when it is done."""
    return Progress(console=Console(stderr=True), transient=True)


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    sys.stdout.write(json.dumps(content, indent=1) + "\n")
