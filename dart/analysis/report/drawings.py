"""The figures of a report, as bytes; what a study has not kept is said instead."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dart.analysis.details import load_angles, load_curves, load_interpolation, load_updates
from dart.analysis.figures import (
    adapter_maps,
    capacity,
    critical_difference,
    error_by_angle,
    forest,
    forgetting_by_domain,
    interpolation_curve,
    learning_curves,
    show_predictions,
    trade_off,
    update_sizes,
)
from dart.analysis.figures.adapter_maps import list_maps
from dart.analysis.records import Study
from dart.analysis.verdicts import Comparison
from dart.errors import UserError
from dart.recipe import ZERO_SHOT

SHOWN_VARIANTS = 3
"""Sheets of predictions: the baseline's and those that adapted best."""
MAPS = {
    "residual": "the size of the adapters' residuals over that of the features, stage by stage.",
    "attention": "how far one query has a place to itself; one over the number of queries means "
    "that the adapter tells no places apart.",
    "gate": "the trust in the camera's attention, from 0 to 1.",
}


@dataclass(frozen=True)
class Drawing:
    """One figure; ``data`` is empty if it could not be drawn, and ``caption`` says why."""

    name: str
    caption: str
    data: bytes = b""
    suffix: str = "svg"

    @property
    def mime(self) -> str:
        """Return the type of the data."""
        return {"svg": "image/svg+xml", "jpg": "image/jpeg"}[self.suffix]

    @property
    def file(self) -> str:
        """Return the name of the figure's file."""
        return f"{self.name}.{self.suffix}"


@dataclass(frozen=True)
class Sources:
    """What figures are drawn from."""

    study: Study
    comparison: Comparison
    runs: pd.DataFrame
    images: pd.DataFrame

    @property
    def ranked(self) -> list[str]:
        """Return the variants that were trained, best adaptation first."""
        trained = [v for v in self.comparison.verdicts if v.variant != ZERO_SHOT and v.effects]
        return [
            v.variant for v in sorted(trained, key=lambda v: -v.effects["adaptation"].own.value)
        ]

    def domains(self, *roles: str) -> list[str]:
        """Return the domains of some roles."""
        known = self.images[["domain", "role"]].drop_duplicates()
        return [str(domain) for domain in known["domain"][known["role"].isin(roles)]]


def _draw(
    name: str, caption: str, draw: Callable[[], Axes | Figure], *, suffix: str = "svg"
) -> Drawing:
    buffer = io.BytesIO()
    # Equal input gives equal bytes: identities of SVG elements are random otherwise.
    with sns.plotting_context("notebook"), sns.axes_style("ticks"), rc_context():
        plt.rcParams["svg.hashsalt"] = name
        try:
            figure = draw().get_figure(root=True)
        except UserError as error:
            return Drawing(name, str(error))
        assert figure is not None
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(buffer, format=suffix, bbox_inches="tight", dpi=110, metadata=metadata)
        plt.close("all")
    return Drawing(name, caption, buffer.getvalue(), suffix)


def draw_answer(sources: Sources) -> list[Drawing]:
    """Return the trade-off and the differences to the baseline."""
    comparison = sources.comparison
    words = (
        "The bar is the interval of the difference to the baseline; the shaded band is what the "
        "study declared to make no practical difference."
    )
    drawings = [
        _draw(
            "trade_off",
            "Right is better on the target, down is better on the source. A small dot is a run, "
            "a large one a variant's mean, the cross its intervals. The dotted line is the front: "
            "what no other variant beats on both.",
            lambda: trade_off(sources.runs, comparison=comparison),
        ),
    ]
    if any(v.effects and v.effects["adaptation"].difference for v in comparison.verdicts):
        drawings += [
            _draw(f"forest_{name}", words, lambda name=name: forest(comparison, objective=name))
            for name in ("adaptation", "forgetting")
        ]
    ranks = _draw(
        "ranks",
        "Mean ranks over domains.",
        lambda: critical_difference(sources.images, metric=comparison.metric),
    )
    return [drawing for drawing in (*drawings, ranks, *_draw_costs(sources)) if drawing.data]


def _draw_costs(sources: Sources) -> Iterator[Drawing]:
    """Yield what does not say anything of most studies, and is left out of those."""
    comparison, study = sources.comparison, sources.study
    for objective in ("adaptation", "forgetting"):
        yield _draw(
            f"capacity_{objective}",
            f"{objective.capitalize()} over the number of trained parameters; the bar is the "
            "interval of the variant's own change.",
            lambda objective=objective: capacity(comparison, objective=objective),
        )
    yield _draw(
        "interpolation",
        "Between the network before adaptation (no forgetting) and after it (large mark): its "
        "weights mixed with those before. A line is the mean over seeds, the bars its intervals.",
        lambda: interpolation_curve(
            load_interpolation(study.folder, results=study.results), metric=comparison.metric
        ),
    )


def draw_where(sources: Sources) -> list[Drawing]:
    """Return the changes by domain and by viewing angle."""
    metric, folder = sources.comparison.metric, sources.study.folder
    drawings = [
        _draw(
            "by_domain",
            "Every domain that was not trained on. A large mark is a mean over seeds, a small one "
            "a seed; above zero the domain became worse.",
            lambda: forgetting_by_domain(sources.images, metric=metric),
        )
    ]
    try:
        angles = load_angles(folder, metric=metric, results=sources.study.results)
    except UserError as error:
        return [*drawings, Drawing("by_angle", str(error))]
    return drawings + [
        _draw(
            f"by_angle_{domain}",
            f"{domain}: the error in rings around the optical axis; dashed is before "
            "adaptation, a band is the range over seeds.",
            lambda domain=domain: error_by_angle(angles, metric=metric, domain=domain),
        )
        for domain in sources.domains("target", "source", "held_out")
    ]


def draw_why(sources: Sources) -> list[Drawing]:
    """Return how training went and which parameters moved."""
    metric, folder, results = (
        sources.comparison.metric,
        sources.study.folder,
        sources.study.results,
    )
    drawings = []
    try:
        curves = load_curves(folder, metric=metric, results=results)
    except UserError as error:
        drawings.append(Drawing("curves", str(error)))
    else:
        drawings += [
            _draw(
                f"curve_{role}",
                f"The error on a few validation images of the {role} during training.",
                lambda role=role: learning_curves(curves, role=role, metric=metric),
            )
            for role in ("target", "source")
        ]
    drawings.append(
        _draw(
            "updates",
            "How far each group of parameters moved, as a power of ten. A group that moved a "
            "thousand times less than its neighbours took no part.",
            lambda: update_sizes(load_updates(folder, results=results)),
        )
    )
    return [*drawings, *_draw_maps(sources)]


def _draw_maps(sources: Sources) -> Iterator[Drawing]:
    """Yield what the adapters of the variant that adapted best do over the image."""
    folder, results = sources.study.folder, sources.study.results
    for quantity, words in MAPS.items():
        known = list_maps(folder, quantity=quantity, results=results)
        best = [name for name in sources.ranked if name in known]
        if best:
            yield _draw(
                f"maps_{quantity}",
                f"{best[0]}: {words}",
                lambda variant=best[0], quantity=quantity: adapter_maps(
                    folder, variant, quantity=quantity, results=results
                ),
                suffix="jpg",
            )


def draw_predictions(sources: Sources) -> list[Drawing]:
    """Return the sheets of the baseline and of the variants that adapted best."""
    baseline = sources.comparison.baseline
    chosen = [baseline, *(name for name in sources.ranked if name != baseline)][:SHOWN_VARIANTS]
    return list(_sheets(sources, chosen))


def _sheets(sources: Sources, variants: list[str]) -> Iterator[Drawing]:
    for variant in variants:
        yield _draw(
            f"predictions_{variant}",
            f"{variant}: image, true distance, prediction before and after adaptation, and their "
            "relative errors.",
            lambda variant=variant: show_predictions(
                sources.study.folder, variant, results=sources.study.results
            ),
            suffix="jpg",
        )
