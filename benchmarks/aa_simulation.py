"""How often a study claims a difference where there is none: simulated studies of equal variants.

    python benchmarks/aa_simulation.py --studies 1000

Every study has a baseline and eight variants that are the same, and each run its own chance. Prints
the share of studies with any claim, and the same where one variant truly is better: the power.
"""

import argparse
from collections import Counter

import numpy as np

from dart.analysis.pairs import Errors, Pairs
from dart.analysis.records import StudyRecord
from dart.analysis.verdicts import Comparer, Comparison
from dart.comparison import ComparisonSpec

VARIANTS = 8
CLAIMS = ("better", "worse", "trade-off")
SPREAD = {"seed": 0.01, "image": 0.05, "rest": 0.02}
"""Standard deviations of an error: of a training, of an image, of one on the other."""
DOMAINS = {"wide": ("target", 48, 0.40, 0.20), "plain": ("source", 64, 0.10, 0.15)}
"""Domain -> role, images, mean error before and after."""


def simulate_study(
    chance: np.random.Generator, *, seeds: int, gain: float = 0.0, loss: float = 0.0
) -> Comparison:
    """Return the comparison of one simulated study.

    Args:
        chance: Where the errors come from.
        seeds: Trainings of each variant.
        gain: How much less the first variant errs on the target than all others.
        loss: How much more it errs on the source.
    """
    names = ("baseline", *(f"variant_{i}" for i in range(VARIANTS)))
    domains = {}
    for domain, (role, images, before, after) in DOMAINS.items():
        shape = (len(names), seeds, images)
        hardness = SPREAD["image"] * chance.standard_normal(images)
        trained = SPREAD["seed"] * chance.standard_normal((*shape[:2], 1))
        errors = after + hardness + trained + SPREAD["rest"] * chance.standard_normal(shape)
        errors[1] += -gain if role == "target" else loss
        start = np.broadcast_to(before + hardness, shape)
        domains[domain] = Errors(role, start, errors, images, images)
    pairs = Pairs(names, {}, tuple(range(seeds)), domains, {}, {}, names, ())
    record = StudyRecord(
        study="simulated",
        metric="abs_rel",
        cells=[],
        comparison=ComparisonSpec(margin=0.01, rope=0.01),
    )
    return Comparer(record, pairs, metric="abs_rel", baseline="baseline", replicates=2).run()


def count_claims(
    studies: int, *, seeds: int, seed: int = 0, gain: float = 0.0, loss: float = 0.0
) -> tuple[float, Counter[str]]:
    """Return the share of studies with any claim, and how often the first variant got each word."""
    chance = np.random.default_rng(seed)
    with_claim, words = 0, Counter()
    for _ in range(studies):
        found = simulate_study(chance, seeds=seeds, gain=gain, loss=loss)
        verdicts = [row.verdict for row in found.verdicts if row.variant != "baseline"]
        with_claim += any(verdict in CLAIMS for verdict in verdicts)
        words[verdicts[0]] += 1
    return with_claim / studies, words


def main() -> None:
    """Print a line for each number of seeds and each planted effect."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--studies", type=int, default=1000)
    options = parser.parse_args()
    for seeds in (3, 5, 10):
        share, words = count_claims(options.studies, seeds=seeds)
        print(f"{seeds:2} seeds, no effect: any claim in {share:.3f} of studies; {dict(words)}")
    for gain, loss in ((0.03, 0.0), (0.03, 0.03), (-0.03, 0.0)):
        for seeds in (5, 10):
            _, words = count_claims(options.studies // 5, seeds=seeds, gain=gain, loss=loss)
            print(f"{seeds:2} seeds, gain {gain:+.2f}, loss {loss:+.2f}: {dict(words)}")


if __name__ == "__main__":
    main()
