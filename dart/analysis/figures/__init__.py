"""Figures of a study's result, one function each, drawn on given or new axes."""

from dart.analysis.figures.adapter_maps import adapter_maps
from dart.analysis.figures.cost import capacity, interpolation_curve
from dart.analysis.figures.details import (
    error_by_angle,
    forgetting_by_domain,
    learning_curves,
    update_sizes,
)
from dart.analysis.figures.forest import forest
from dart.analysis.figures.predictions import show_predictions
from dart.analysis.figures.ranks import critical_difference
from dart.analysis.figures.scatter import trade_off
from dart.analysis.figures.search import (
    contour,
    factor_bars,
    hypervolume_history,
    importance_bars,
)
from dart.analysis.figures.style import colour_variants

__all__ = [
    "adapter_maps",
    "capacity",
    "colour_variants",
    "contour",
    "critical_difference",
    "error_by_angle",
    "factor_bars",
    "forest",
    "forgetting_by_domain",
    "hypervolume_history",
    "importance_bars",
    "interpolation_curve",
    "learning_curves",
    "show_predictions",
    "trade_off",
    "update_sizes",
]
