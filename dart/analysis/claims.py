"""The claim rule: from what is known of two objectives to one word and one sentence.

Source: PLATFORM 5.3. Adaptation must be superior and forgetting not inferior, so no correction
between the two is needed (intersection-union); within each, Holm's over the variants is.
"""

from dataclasses import dataclass
from typing import Literal

from dart.analysis.statistics import Estimate

Verdict = Literal[
    "better", "trade-off", "worse", "equivalent", "inconclusive", "baseline", "reference"
]

LEGEND: dict[Verdict, str] = {
    "better": "adapts better (Holm) and does not forget more than the margin",
    "trade-off": "better on one objective and worse on the other (Holm on both)",
    "worse": "adapts worse, or forgets more than the margin may hide (Holm), and gains nothing",
    "equivalent": "both differences lie within their margins (two one-sided tests)",
    "inconclusive": "none of these is shown; that is not the same as no difference",
}

SLIGHT = "; the gain is real but too small to matter in practice, by what the study declared"


@dataclass(frozen=True)
class Evidence:
    """What is known of one objective's difference to the baseline."""

    difference: Estimate
    p_holm: float
    margin: float
    """Difference that makes no practical difference."""


def decide(adaptation: Evidence, forgetting: Evidence, *, alpha: float) -> tuple[Verdict, str]:
    """Return the verdict and the sentence that gives its reason."""
    if reason := adaptation.difference.reason or forgetting.difference.reason:
        return "inconclusive", reason
    gain, loss = _direction(adaptation, alpha), _direction(forgetting, alpha)
    kept = forgetting.difference.quantile(1 - alpha) < forgetting.margin
    if loss > 0 and kept:
        loss = 0  # more, but by less than the margin: the study declared that this is none
    words = f"{_say_gain(gain)}; {_say_loss(loss, kept=kept)}"
    if gain > 0 and kept:
        slight = adaptation.difference.lies_within(adaptation.margin, alpha=alpha)
        return "better", f"{words}{SLIGHT if slight else ''}"
    if gain * loss > 0:
        return "trade-off", words
    if gain < 0 or loss > 0:
        return "worse", words
    alike = adaptation.difference.lies_within(adaptation.margin, alpha=alpha)
    if alike and forgetting.difference.lies_within(forgetting.margin, alpha=alpha):
        return "equivalent", "adapts and forgets alike, within the declared margins"
    return "inconclusive", words


def _direction(evidence: Evidence, alpha: float) -> int:
    """Return the sign of a difference that is claimed, 0 where none is."""
    if not evidence.p_holm < alpha:
        return 0
    return 1 if evidence.difference.value > 0 else -1


def _say_gain(gain: int) -> str:
    return {1: "adapts better", -1: "adapts worse", 0: "adaptation: no difference shown"}[gain]


def _say_loss(loss: int, *, kept: bool) -> str:
    if loss:
        return "forgets more" if loss > 0 else "forgets less"
    if kept:
        return "forgetting stays within the margin"
    return "forgetting: more than the margin is not ruled out"
