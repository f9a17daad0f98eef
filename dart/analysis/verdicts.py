"""From a study to its verdicts: what may be claimed of each variant against the baseline.

The rule is declared before the study runs, in its ``comparison``: a variant is better if it adapts
better, beyond what chance among all variants explains, and does not forget more than the margin.
docs/verdicts.md says how to read the result.
"""

import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from dart.analysis.bootstrap import (
    REPLICATES,
    CrossedBootstrap,
    Interval,
    favourable,
    interval,
    summarize_front,
)
from dart.analysis.claims import Evidence, Verdict, decide
from dart.analysis.pairs import Errors, Pairs, pair_study
from dart.analysis.records import StudyRecord, open_study
from dart.analysis.statistics import (
    Estimate,
    Reading,
    adjust_holm,
    estimate_mean,
    estimate_ratio,
    read_posterior,
    standardized_mean,
    warn_of_few_seeds,
)
from dart.analysis.tables import read_records
from dart.comparison import ComparisonSpec
from dart.errors import UserError, did_you_mean
from dart.metrics import METRICS
from dart.recipe import ZERO_SHOT

Location = str | os.PathLike[str]
Objective = Literal["adaptation", "forgetting", "held_out"]
ROLES: Mapping[Objective, str] = {
    "adaptation": "target",
    "forgetting": "source",
    "held_out": "held_out",
}
SIGNS: Mapping[Objective, float] = {"adaptation": -1.0, "forgetting": 1.0, "held_out": -1.0}
"""From loss to objective: adaptation and the held-out change are gains, forgetting is a loss."""


@dataclass(frozen=True)
class Effect:
    """One objective of one variant."""

    own: Estimate
    """Change from before adaptation to after it."""
    difference: Estimate | None = None
    """That change minus the baseline's; all below is of this difference."""
    p_holm: float = math.nan
    """Its p value, corrected for all variants of the study."""
    bound: float = math.nan
    """One-sided bound on the bad side: what the difference is worse than with chance alpha."""
    relative: Estimate | None = None
    """Value after adaptation over the baseline's, minus 1."""
    effect_size: float = math.nan
    """d_z: the difference over its standard deviation between seeds."""
    wins: Interval | None = None
    """Share of pairs of seed and image on which the variant beats the baseline."""
    reading: Reading | None = None
    """Bayesian: above, within and below the region of practical equivalence."""


@dataclass(frozen=True)
class VariantVerdict:
    """What may be claimed of a variant, and why."""

    variant: str
    settings: str
    verdict: Verdict
    reason: str
    failed: int
    missing: int
    effects: Mapping[Objective, Effect]
    """Empty where no run finished."""
    on_front: float = math.nan
    """Probability that no other variant, nor the untouched network, beats it on both objectives."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """What a run took on average (those of ``tables.COSTS``), as far as it was recorded."""


@dataclass(frozen=True)
class Comparison:
    """A study's verdicts and what they rest on."""

    study: str
    metric: str
    baseline: str
    alpha: float
    margin: float
    """Of forgetting, in the metric's unit."""
    rope: float
    """Of adaptation, in the metric's unit."""
    seeds: tuple[int, ...]
    images: Mapping[str, int]
    """Domain -> images that were compared."""
    scenes: Mapping[str, int]
    """Domain -> scenes they show; scenes are what counts as independent."""
    verdicts: tuple[VariantVerdict, ...]
    """In the study's order."""
    hypervolume: Interval
    """Area under the front, from no gain and all lost, in shares of the values before."""
    notes: tuple[str, ...]
    """What a reader must know: dropped and failed runs, few seeds, mixed code."""


def compare_study(
    study: Location,
    *,
    baseline: str | None = None,
    metric: str | None = None,
    results: Location | None = None,
    tracking_uri: str | None = None,
) -> Comparison:
    """Return the verdict of every variant of a study against the baseline.

    Args:
        study: Name, YAML file, or folder in the results.
        baseline: The study's own unless given; ``zero_shot`` is the untouched network.
        metric: The study's own unless given.
        results: Root of the results; ``DART_RESULTS`` or ``results`` unless given.
        tracking_uri: Address of an MLflow store to read the study from instead.

    Raises:
        UserError: The study, baseline or metric is unknown, or nothing can be compared.
    """
    opened = open_study(study, results=results, tracking_uri=tracking_uri)
    variants = list(dict.fromkeys(cell.variant for cell in opened.record.cells))
    metric = _known("metric", metric or opened.record.metric, METRICS)
    trained = [name for name in variants if name != ZERO_SHOT]
    if not trained:
        raise UserError(f"study {opened.record.study!r} has no variant, only the untouched network")
    baseline = baseline or opened.record.baseline or trained[0]
    baseline = _known("baseline", baseline, variants)
    pairs = pair_study(opened, read_records(opened), metric=metric, baseline=baseline)
    return Comparer(opened.record, pairs, metric=metric, baseline=baseline).run()


def _known(what: str, name: str, allowed: Sequence[str] | Mapping[str, object]) -> str:
    if name not in allowed:
        raise UserError(
            f"unknown {what} {name!r}; there is: {', '.join(allowed)}{did_you_mean(name, allowed)}"
        )
    return name


class Comparer:
    """Compares every variant of one study with one baseline in one metric.

    Args:
        study: What the study asked and declared.
        pairs: Its runs, aligned in that metric.
        metric: The metric.
        baseline: One of the variants, or the untouched network.
        replicates: Of the bootstrap, on which no verdict depends.
    """

    def __init__(
        self,
        study: StudyRecord,
        pairs: Pairs,
        *,
        metric: str,
        baseline: str,
        replicates: int = REPLICATES,
    ) -> None:
        self.study = study
        self.pairs = pairs
        self.metric = metric
        self.baseline = baseline
        self.spec: ComparisonSpec = study.comparison
        self.margin = self.spec.resolve_margin(self._before("source"))
        self.rope = self.spec.resolve_rope(self._before("target"))
        # Seeded by what is compared, so that the same study gives the same digits.
        seed = zlib.crc32(f"{study.study} {baseline} {metric}".encode())
        self.bootstrap = CrossedBootstrap(
            len(pairs.seeds),
            {name: errors.after.shape[2] for name, errors in pairs.domains.items()},
            generator=np.random.default_rng(seed),
            replicates=replicates,
        )

    def run(self) -> Comparison:
        """Return the comparison."""
        effects = {name: self._effects(name) for name in self.pairs.names}
        self._correct(effects)
        front, area = self._front()
        return Comparison(
            study=self.study.study,
            metric=self.metric,
            baseline=self.baseline,
            alpha=self.spec.alpha,
            margin=self.margin,
            rope=self.rope,
            seeds=self.pairs.seeds,
            images={name: errors.num_images for name, errors in self.pairs.domains.items()},
            scenes={name: errors.num_scenes for name, errors in self.pairs.domains.items()},
            verdicts=tuple(
                self._verdict(name, effects.get(name, {}), front.get(name, math.nan))
                for name in self.pairs.asked
            ),
            hypervolume=area,
            notes=(*self.pairs.notes, *self._notes()),
        )

    def _before(self, role: str) -> float:
        domains = self.pairs.of_role(role).values()
        return float(np.mean([errors.before.mean() for errors in domains]))

    def _notes(self) -> list[str]:
        notes = [warn_of_few_seeds(len(self.pairs.seeds))] if len(self.pairs.seeds) > 1 else []
        if len(self.pairs.seeds) == 1:
            notes.append("1 seed: no interval, no p value and no claim; a second one gives them")
        for name, errors in self.pairs.domains.items():
            if errors.num_scenes < errors.num_images:
                notes.append(
                    f"{name}: {errors.num_images} images of {errors.num_scenes} scenes; the mean "
                    "of a scene counts as one"
                )
        return [note for note in notes if note]

    def _blocks(self, objective: Objective) -> dict[str, Float[ndarray, "v s _i"]]:
        """Return the objective of every variant, positive as the objective's name says."""
        return {
            name: SIGNS[objective] * errors.loss(self.metric)
            for name, errors in self.pairs.of_role(ROLES[objective]).items()
        }

    def _effects(self, name: str) -> dict[Objective, Effect]:
        return {
            objective: self._effect(name, objective)
            for objective, role in ROLES.items()
            if self.pairs.of_role(role)
        }

    def _effect(self, name: str, objective: Objective) -> Effect:
        alpha = self.spec.alpha
        ours, theirs = (self.pairs.names.index(which) for which in (name, self.baseline))
        blocks = self._blocks(objective)
        own = estimate_mean([block[ours] for block in blocks.values()], alpha=alpha)
        if name in (self.baseline, ZERO_SHOT):
            return Effect(own)
        paired = {domain: block[ours] - block[theirs] for domain, block in blocks.items()}
        differences = list(paired.values())
        difference = estimate_mean(differences, alpha=alpha)
        errors: Sequence[Errors] = list(self.pairs.of_role(ROLES[objective]).values())
        is_gain = SIGNS[objective] < 0
        return Effect(
            own=own,
            difference=difference,
            bound=difference.quantile(alpha if is_gain else 1 - alpha),
            relative=estimate_ratio(
                [error.after[ours] for error in errors],
                [error.after[theirs] for error in errors],
                alpha=alpha,
            ),
            effect_size=standardized_mean(differences),
            wins=self._wins(paired, 1.0 if is_gain else -1.0),
            reading=read_posterior(difference, self.rope if is_gain else self.margin),
        )

    def _wins(self, paired: Mapping[str, Float[ndarray, "s _i"]], sign: float) -> Interval:
        shares = {domain: favourable(sign * block)[None] for domain, block in paired.items()}
        value = float(np.mean([share.mean() for share in shares.values()]))
        if len(self.pairs.seeds) < 2:
            return Interval(value, math.nan, math.nan)
        found = interval(value, self.bootstrap.means(shares)[:, 0], alpha=self.spec.alpha)
        return Interval(value, max(0.0, found.lower), min(1.0, found.upper))

    def _correct(self, effects: dict[str, dict[Objective, Effect]]) -> None:
        """Correct p values within each objective, over all variants but the baseline."""
        for objective in ROLES:
            tested = {
                name: effect.difference.p
                for name, of_variant in effects.items()
                if (effect := of_variant.get(objective)) and effect.difference is not None
            }
            adjusted = adjust_holm(np.array([*tested.values()], dtype=float))
            for name, p in zip(tested, adjusted, strict=True):
                effect = effects[name][objective]
                effects[name][objective] = _with_p(effect, float(p))

    def _front(self) -> tuple[dict[str, float], Interval]:
        """Return P(on front) of every trained variant and the area under the front."""
        trained = [i for i, name in enumerate(self.pairs.names) if name != ZERO_SHOT]
        shares = []
        for objective in ("adaptation", "forgetting"):
            before = abs(self._before(ROLES[objective])) or math.nan
            blocks = {k: block[trained] / before for k, block in self._blocks(objective).items()}
            values = np.mean([block.mean(axis=(1, 2)) for block in blocks.values()], axis=0)
            shares.append((values, self.bootstrap.means(blocks)))
        probabilities, area = summarize_front(*shares, alpha=self.spec.alpha)
        if len(self.pairs.seeds) < 2:
            return {}, Interval(area.value, math.nan, math.nan)
        names = [self.pairs.names[i] for i in trained]
        return dict(zip(names, probabilities, strict=True)), area

    def _verdict(
        self, name: str, effects: Mapping[Objective, Effect], on_front: float
    ) -> VariantVerdict:
        verdict, reason = self._decide(name, effects)
        return VariantVerdict(
            variant=name,
            settings=self.pairs.settings.get(name, ""),
            verdict=verdict,
            reason=reason,
            failed=self.pairs.failed.get(name, 0),
            missing=self.pairs.missing.get(name, 0),
            effects=effects,
            on_front=on_front,
            costs=self.pairs.costs.get(name, {}),
        )

    def _decide(self, name: str, effects: Mapping[Objective, Effect]) -> tuple[Verdict, str]:
        if name == self.baseline:
            return "baseline", "what the others are compared with"
        if name == ZERO_SHOT:
            return "reference", "the network before adaptation"
        if not effects:
            return "inconclusive", "no finished run"
        adaptation, forgetting = effects["adaptation"], effects["forgetting"]
        assert adaptation.difference is not None
        assert forgetting.difference is not None
        return decide(
            Evidence(adaptation.difference, adaptation.p_holm, self.rope),
            Evidence(forgetting.difference, forgetting.p_holm, self.margin),
            alpha=self.spec.alpha,
        )


def _with_p(effect: Effect, p: float) -> Effect:
    return Effect(**{**vars(effect), "p_holm": p})
