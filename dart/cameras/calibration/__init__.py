"""Readers of the field's calibration files, one module a format.

A module turns parsed content into ``Description``, in the words and the pixel coordinates of the
file; ``load`` guesses the format, makes the lens and moves the principal point to centres at +0.5.
"""

from dart.cameras.calibration.load import FORMATS, list_formats, list_names, load_calibration

__all__ = ["FORMATS", "list_formats", "list_names", "load_calibration"]
