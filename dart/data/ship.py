"""Makes the packs of frames that ship with the project, and the recipe beside them."""

import json
from pathlib import Path

from dart.data.frames import FrameStore, write_atomically, write_pack
from dart.data.render import OnFrame, render_frames
from dart.domains import DOMAINS, fingerprint, pack_path

RECIPE = "recipe.json"


def ship_packs(
    work: Path, *, packs: Path | None = None, workers: int = 1, on_frame: OnFrame | None = None
) -> list[Path]:
    """Render every split that ships, write one pack each, and return the packs.

    Args:
        work: Folder for the loose frames; a killed run goes on from there.
        packs: Folder for the packs and their recipe; by default the project's own.
        workers: Processes that render.
        on_frame: Told of the progress within each split.

    Raises:
        UserError: a folder cannot be written to.
    """
    written: list[Path] = []
    recipe: dict[str, object] = {}
    for name, domain in DOMAINS.items():
        for split, spec in domain.splits.items():
            if not spec.shipped:
                continue
            folder = render_frames(
                name,
                split,
                count=spec.shipped,
                out=work / f"{name}-{split}",
                workers=workers,
                on_frame=on_frame,
            )
            standard = pack_path(name, split)
            pack = (packs or standard.parent) / standard.name
            write_pack(folder, pack)
            written.append(pack)
            index = FrameStore(pack).index
            recipe[pack.name] = {
                **index.recipe,
                "frames": len(index.frames),
                "fingerprint": fingerprint(name, split, folder=pack),
            }
    write_atomically(written[0].with_name(RECIPE), (json.dumps(recipe, indent=1) + "\n").encode())
    return written
