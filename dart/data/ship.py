"""Makes the packs of frames that ship with the project, and the recipe beside them."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dart.data.frames import FrameStore, write_atomically, write_pack
from dart.data.render import DEFAULT_OPTIONS, RenderOptions, render_frames
from dart.domains import DOMAINS, fingerprint, pack_path
from dart.errors import UserError

RECIPE = "recipe.json"

OnFrame = Callable[[str, int, int], None]
"""Called with the name of a pack, the number of its frames done and the number in all."""


def shipped_splits() -> list[tuple[str, str]]:
    """Return domain and split of every pack that ships."""
    return [
        (name, split)
        for name, domain in DOMAINS.items()
        for split, spec in domain.splits.items()
        if spec.shipped
    ]


def ship_packs(
    work: Path,
    *,
    packs: Path | None = None,
    options: RenderOptions = DEFAULT_OPTIONS,
    on_frame: OnFrame | None = None,
) -> list[Path]:
    """Render every split that ships, write one pack each, and return the packs.

    A pack that already holds the same frames stays as it is.

    Args:
        work: Folder for the loose frames; a killed run goes on from there.
        packs: Folder for the packs and their recipe; by default the project's own.
        options: Device and processes.
        on_frame: Told of the progress within each split.

    Raises:
        UserError: a folder cannot be written to.
    """
    target = packs or pack_path("", "").parent
    recipe = {}
    written = []
    for name, split in shipped_splits():
        pack = target / pack_path(name, split).name
        done = render_frames(
            name,
            split,
            count=DOMAINS[name].splits[split].shipped,
            out=work / f"{name}-{split}",
            options=options,
            on_frame=on_frame and partial(on_frame, pack.stem),
        )
        made = fingerprint(name, split, folder=done.folder)
        if _fingerprint(name, split, pack) != made:
            write_pack(done.folder, pack)
        index = FrameStore(pack).index
        recipe[pack.name] = {**index.recipe, "frames": len(index.frames), "fingerprint": made}
        written.append(pack)
    write_atomically(target / RECIPE, (json.dumps(recipe, indent=1) + "\n").encode())
    return written


def _fingerprint(name: str, split: str, pack: Path) -> str | None:
    """Return the fingerprint of a pack, if there is one that can be read."""
    try:
        return fingerprint(name, split, folder=pack)
    except UserError:
        return None
