"""Labels that cover neither dots nor each other."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox, BboxBase

DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
DISTANCES = (9, 16, 25, 36, 50, 70, 95)
"""Places for a label, in points from its dot, nearest first."""
DOT = 7
"""Half the side of what a mean's dot covers, in pixels."""

Colour = tuple[float, float, float]
Point = tuple[float, float]
Segment = tuple[Point, Point]


def place_labels(
    ax: Axes,
    labels: Sequence[tuple[str, float, float, Colour]],
    dots: Sequence[Point],
    *,
    segments: Sequence[Segment] = (),
) -> None:
    """Write each label at the first place near its dot that covers nothing.

    Args:
        ax: Where to write.
        labels: Words, the place of their dot, and their colour.
        dots: What else must not be covered.
        segments: Upright or level lines that must not be covered.
    """
    ax.figure.canvas.draw()  # a layout engine moves the axes when it first draws
    taken = [_extent(text) for text in ax.texts if isinstance(text, Annotation)]
    taken += [_square(ax, x, y, DOT / 2) for x, y in dots]
    taken += [_square(ax, x, y, DOT) for _, x, y, _ in labels]
    taken += [Bbox(ax.transData.transform(segment)).padded(1) for segment in segments]
    x, y = ax.transData.transform((0, 0))
    taken += [Bbox.from_extents(ax.bbox.x0, y, ax.bbox.x1, y + 1)]
    taken += [Bbox.from_extents(x, ax.bbox.y0, x + 1, ax.bbox.y1)]
    for words, x, y, colour in labels:
        text = ax.annotate(
            words,
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            color=tuple(0.75 * part for part in colour),
            fontsize="small",
            fontweight="bold",
            arrowprops={"arrowstyle": "-", "color": "0.7", "linewidth": 0.6},
            zorder=6,
        )
        places = [(d, r) for r in DISTANCES for d in DIRECTIONS]
        cost = [_cost(_move(text, *place), taken, ax.bbox) for place in places]
        taken.append(_move(text, *places[cost.index(min(cost))]))


def _square(ax: Axes, x: float, y: float, half: float) -> Bbox:
    x, y = ax.transData.transform((x, y))
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _move(text: Annotation, direction: tuple[int, int], distance: float) -> Bbox:
    """Put ``text`` beside its dot and return the box that its words then cover, in pixels."""
    x, y = direction
    text.set_horizontalalignment(("center", "left", "right")[x])
    text.set_verticalalignment(("center", "bottom", "top")[y])
    text.set_position((x * distance, y * distance))
    return _extent(text).padded(1)


def _extent(text: Annotation) -> Bbox:
    """Return the box of the words alone; matplotlib's own takes the leader line in."""
    text.get_window_extent()  # puts the text where its offset says
    return Text.get_window_extent(text)


def _cost(box: Bbox, taken: Sequence[Bbox], inside: BboxBase) -> float:
    """Return how many square pixels of ``box`` cover something or leave the axes."""
    return sum(_overlap(box, other) for other in taken) + _area(box) - _overlap(box, inside)


def _overlap(one: BboxBase, other: BboxBase) -> float:
    both = Bbox.intersection(one, other)
    return _area(both) if both is not None else 0.0


def _area(box: BboxBase) -> float:
    return float(box.width * box.height)
