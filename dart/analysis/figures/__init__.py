"""Figures of a study's result, one function each, drawn on given or new axes."""

from dart.analysis.figures.scatter import trade_off
from dart.analysis.figures.style import colour_variants

__all__ = ["colour_variants", "trade_off"]
