"""Errors by how far off the optical axis a pixel looks, and the solid angle of each pixel.

A mean over an image hides what happens at the edge of a wide lens, where fewer pixels lie or more
than the sphere deserves. Axis letters: ``h w`` pixels, ``n`` valid pixels.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

RING_DEGREES = 10
"""Width of a ring of polar angle: the angle between a pixel's ray and the optical axis."""
DISTANCE_EDGES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, np.inf)
"""Bands of true depth within a ring, in metres."""
_RINGS = 180 // RING_DEGREES
_BANDS = len(DISTANCE_EDGES) - 1
_ERRORS = ("abs_rel", "rmse", "delta1", "log_bias")


def solid_angles(rays: Float[ndarray, "h w 3"]) -> Float[ndarray, "h w"]:
    """Return how much of the sphere each pixel sees, in steradians.

    The area spanned by the change of the unit ray from column to column and from row to row, by
    central differences (one-sided at the border).
    """
    down = np.gradient(rays, axis=0) if rays.shape[0] > 1 else np.zeros_like(rays)
    right = np.gradient(rays, axis=1) if rays.shape[1] > 1 else np.zeros_like(rays)
    return np.linalg.norm(np.cross(right, down), axis=-1)


class AngleErrors:
    """Sums over images of each ring's errors; an image counts in the rings where it has pixels.

    The errors of a ring are means over the ring's pixels in one image. ``log_bias`` is the mean of
    ln(prediction / truth): above 0 is too far.
    """

    def __init__(self) -> None:
        # The first band stands for all distances.
        self._sums = np.zeros((len(_ERRORS), _RINGS, _BANDS + 1))
        self._images = np.zeros((_RINGS, _BANDS + 1), int)
        self._pixels = np.zeros((_RINGS, _BANDS + 1), int)

    def add(
        self,
        predicted: Float[ndarray, " n"],
        true: Float[ndarray, " n"],
        polar: Float[ndarray, " n"],
    ) -> None:
        """Count one image; metres, and radians from the optical axis."""
        ring = np.minimum(np.degrees(polar) // RING_DEGREES, _RINGS - 1).astype(int)
        band = np.digitize(true, DISTANCE_EDGES[1:-1])
        cell = ring * _BANDS + band
        log = np.log(predicted / true)
        error = predicted - true
        within = np.abs(log) < np.log(1.25)
        totals = [
            np.bincount(cell, weights=values, minlength=_RINGS * _BANDS).reshape(_RINGS, _BANDS)
            for values in (np.abs(error) / true, error**2, within, log)
        ]
        counts = np.bincount(cell, minlength=_RINGS * _BANDS).reshape(_RINGS, _BANDS)
        counts, *totals = (
            np.concatenate([part.sum(axis=1, keepdims=True), part], axis=1)
            for part in (counts, *totals)
        )
        means = np.stack(totals) / np.maximum(counts, 1)
        means[_ERRORS.index("rmse")] **= 0.5
        self._sums += means
        self._images += counts > 0
        self._pixels += counts

    def table(self, labels: Mapping[str, str]) -> pd.DataFrame:
        """Return one row for each ring, and each band of it, that any image has pixels in."""
        rows = []
        for ring, band in zip(*np.nonzero(self._images), strict=True):
            images = self._images[ring, band]
            bounds = (np.nan, np.nan) if band == 0 else DISTANCE_EDGES[band - 1 : band + 1]
            rows.append(
                {
                    **labels,
                    "polar_from": ring * RING_DEGREES,
                    "polar_to": (ring + 1) * RING_DEGREES,
                    "distance_from": bounds[0],
                    "distance_to": bounds[1],
                    "images": int(images),
                    "pixels": int(self._pixels[ring, band]),
                    **dict(
                        zip(_ERRORS, (self._sums[:, ring, band] / images).tolist(), strict=True)
                    ),
                }
            )
        return pd.DataFrame(rows)
