"""What was run under a study's name before: a file that has nothing to do with it is refused.

Runs are never lost, they are found by their keys. But two studies of one name would take each
other's place in the tables, and an edit that orphans every run is more often a slip than a wish.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dart.errors import UserError
from dart.recipe import ZERO_SHOT
from dart.studies.records import read_result
from dart.studies.spec import Study


def check_earlier(study: Study, keys: Collection[str], folder: Path) -> int:
    """Return how many finished runs of before a study no longer asks for.

    A study is refused if none of them fits that were finished under its name.

    Variants whose code changed since are no mistake: their runs are made anew.

    Args:
        keys: Of the study as it is now.
        folder: The study's own, in the results.

    Raises:
        UserError: None fits.
    """
    content = _read(folder / "cells.json")
    codes = content.get("code", {})
    now = {name: info.code for name, info in study.variants.items()}
    finished, fits = 0, False
    for cell in content.get("cells", ()):
        variant = cell["variant"]
        if variant == ZERO_SHOT:
            continue
        fits |= codes.get(variant) != now.get(variant, codes.get(variant))
        if cell["key"] in keys:
            fits = True
            continue
        record = read_result(folder.parent.parent, cell["key"])
        finished += record is not None and record["status"] == "finished"
    if finished and not fits:
        raise UserError(
            f"{study.file.path}: none of the {finished} runs that were finished under the name "
            f"'{study.name}' belongs to this file; give it another name, or move {folder} away "
            "(runs are kept and are found again)"
        )
    return finished


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text())
        return content if all({"key", "variant"} <= c.keys() for c in content["cells"]) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # it is written anew
