"""What a run's adapters do over the image, stage by stage."""

import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy import ndarray

from dart.analysis.details import find_run_file
from dart.analysis.records import open_study, refuse
from dart.analysis.tables import Location
from dart.errors import UserError, did_you_mean

WITHOUT_MAPS = (
    "maps of its adapters; there are none without an adapter, and runs made before they were "
    "recorded have none"
)

QUANTITIES = {
    "residual": "residual / features",
    "attention": "share of the foremost query",
    "gate": "trust in the camera",
}


def adapter_maps(
    study: Location,
    variant: str,
    *,
    quantity: str = "residual",
    seed: int | None = None,
    results: Location | None = None,
) -> Figure:
    """Draw one quantity of each stage's adapter over the first test image of every domain.

    Colours share one scale a row, so that stages compare; ``residual`` is the size of the residual
    over that of the features, ``attention`` how far one query has a place to itself (one over the
    number of queries: the adapter tells none apart), ``gate`` the trust in the camera's attention.

    Args:
        study: Name, YAML file, or folder in the results.
        variant: One of the study's.
        quantity: ``residual``, or ``attention`` or ``gate`` where the adapter has them.
        seed: The first with maps unless given.
        results: Root of the results; ``DART_RESULTS`` or ``results`` unless given.

    Raises:
        UserError: There is no such study, variant, quantity or map.
    """
    opened = open_study(study, results=results)
    found_seed, path = find_run_file(
        opened, variant, "adapter_maps.npz", seed=seed, words=WITHOUT_MAPS
    )
    content = _read(path)
    known = sorted({name.rsplit("/", 1)[1] for name in content} - {"image"})
    if quantity not in known:
        raise UserError(
            f"variant {variant!r} has no map of {quantity!r}; it has: {', '.join(known)}"
            + did_you_mean(quantity, known)
        )
    domains = [name.removesuffix("/image") for name in content if name.endswith("/image")]
    stages = sorted({n.split("/")[-2] for n in content if n.endswith(f"/{quantity}")})
    size = (2.3 * (len(stages) + 1) + 1.2, 2.0 * len(domains) + 0.5)
    figure, grid = plt.subplots(
        len(domains), len(stages) + 1, figsize=size, layout="constrained", squeeze=False
    )
    for row, domain in zip(grid, domains, strict=True):
        maps = {s: content[k] for s in stages if (k := f"{domain}/{s}/{quantity}") in content}
        _draw_row(figure, row, content[f"{domain}/image"], maps, words=QUANTITIES[quantity])
        row[0].set_ylabel(domain, fontsize="small")
    for axes, name in zip(grid[0], ("image", *stages), strict=True):
        axes.set_title(name, fontsize="medium")
    figure.suptitle(f"{variant}, seed {found_seed}", fontsize="medium")
    return figure


def list_maps(
    study: Location, *, quantity: str = "residual", results: Location | None = None
) -> list[str]:
    """Return the variants with a run that kept maps of a quantity, in the study's order."""
    opened = open_study(study, results=results)
    known: dict[str, None] = {}
    for cell in opened.record.cells:
        path = opened.run_folder(cell) / "adapter_maps.npz"
        if cell.variant in known or not path.is_file():
            continue
        if any(name.endswith(f"/{quantity}") for name in _read(path)):
            known[cell.variant] = None
    return list(known)


def _draw_row(
    figure: Figure,
    row: ndarray,
    image: UInt8[ndarray, "h w 3"],
    maps: dict[str, Float[ndarray, "_h _w"]],
    *,
    words: str,
) -> None:
    row[0].imshow(image)
    top = max(float(np.percentile(values, 99)) for values in maps.values()) or 1.0
    norm = Normalize(0, 1.0 if words == QUANTITIES["gate"] else top)
    height, width = image.shape[:2]
    for axes, values in zip(row[1:], maps.values(), strict=True):
        axes.imshow(values, cmap="cividis", norm=norm, extent=(0, width, height, 0))
    bar = figure.colorbar(ScalarMappable(norm, "cividis"), ax=row[-1])
    bar.set_label(words, fontsize="small")
    for axes in row:
        axes.set_xticks([])
        axes.set_yticks([])


def _read(path: Path) -> dict[str, ndarray]:
    try:
        with np.load(path) as content:
            return dict(content)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        refuse(path, error)
