"""The panels that a run drew: image, truth, before, after, error."""

from matplotlib import image
from matplotlib.axes import Axes

from dart.analysis.details import find_run_file
from dart.analysis.figures.style import get_axes
from dart.analysis.records import open_study
from dart.analysis.tables import Location


def show_predictions(
    study: Location,
    variant: str,
    *,
    seed: int | None = None,
    results: Location | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show the predictions of a variant's run, before and after adaptation, beside the truth.

    Args:
        study: Name, YAML file, or folder in the results.
        variant: One of the study's.
        seed: The first with a picture unless given.
        results: Root of the results; ``DART_RESULTS`` or ``results`` unless given.
        ax: Where to show; a new figure unless given.

    Raises:
        UserError: There is no such study, variant or picture.
    """
    opened = open_study(study, results=results)
    found, path = find_run_file(opened, variant, "predictions.png", seed=seed, words="a picture")
    pixels = image.imread(path)
    height, width = pixels.shape[:2]
    ax = get_axes(ax, width=12, height=12 * height / width + 0.4)
    ax.imshow(pixels)
    ax.set_axis_off()
    ax.set_title(f"{variant}, seed {found}", loc="left")
    return ax
