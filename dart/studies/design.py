"""Two-level fractional factorial designs: few runs, and what they cannot tell apart.

A factor is a bit of a mask, a *word* a set of factors whose product is constant over the runs. The
words of the defining relation say everything: the shortest one's length is the resolution, and two
effects are aliased where the product of their factors is such a word.

Source: Box and Hunter, Technometrics 3 (1961); aberration: Fries and Hunter, Technometrics 22
(1980). Generators are found by enumeration, or by a beam search where there are too many.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from dart.errors import UserError

MAX_FACTORS = 16
ENUMERATED = 3_000
"""Sets of generators up to which all are compared."""
BEAM = 12
"""Sets of generators that are kept at every step where they cannot all be compared."""


@dataclass(frozen=True)
class FractionalDesign:
    """A fraction of all combinations of factors with two levels."""

    factors: int
    generators: tuple[int, ...]
    """For each added factor the mask of the base factors whose product sets it."""

    @property
    def base(self) -> int:
        """How many factors vary freely; the others follow from them."""
        return self.factors - len(self.generators)

    @property
    def runs(self) -> int:
        """How many combinations are run."""
        return 2**self.base

    @cached_property
    def words(self) -> tuple[int, ...]:
        """The defining relation, without the empty word, shortest first."""
        return tuple(sorted(_span(self.base, self.generators), key=lambda w: (w.bit_count(), w)))

    @property
    def resolution(self) -> int | None:
        """The shortest word's length; None where every combination is run.

        At 3 single factors are confused with pairs, at 4 pairs with pairs, at 5 with triples.
        """
        return self.words[0].bit_count() if self.words else None

    def levels(self) -> Iterator[tuple[int, ...]]:
        """Yield every run as the level, 0 or 1, of every factor; all 0 comes first."""
        for values in itertools.product((0, 1), repeat=self.base):
            # The last base factor changes fastest, as in a full factorial design.
            added = (self._follow(values, generator) for generator in self.generators)
            yield (*values, *added)

    def _follow(self, values: Sequence[int], generator: int) -> int:
        chosen = [value for bit, value in enumerate(values) if generator >> bit & 1]
        # Signs, not levels, are multiplied; turned so that the run of all 0 belongs to the design.
        return sum(chosen) % 2

    def aliases(self) -> list[list[int]]:
        """Return the groups of single factors and pairs that the runs cannot tell apart."""
        bits = [1 << bit for bit in range(self.factors)]
        effects = bits + [one | other for one, other in itertools.combinations(bits, 2)]
        words = set(self.words)
        groups: dict[int, list[int]] = {}
        for effect in effects:
            first = next((known for known in groups if known ^ effect in words), effect)
            groups.setdefault(first, []).append(effect)
        return [group for group in groups.values() if len(group) > 1]


def _span(base: int, generators: Sequence[int]) -> list[int]:
    words = [0]
    for index, generator in enumerate(generators):
        word = generator | 1 << (base + index)
        words += [known ^ word for known in words]
    return words[1:]


def _pattern(words: Sequence[int], factors: int) -> tuple[int, ...]:
    """Return how many words have length 3, 4, ...; the smaller, the less is confused."""
    counts = [0] * (factors + 1)
    for word in words:
        counts[word.bit_count()] += 1
    return tuple(counts[1:])


@lru_cache(maxsize=256)
def minimum_aberration(factors: int, base: int) -> FractionalDesign:
    """Return the design of 2^base runs that confuses the least.

    Args:
        factors: Of two levels each, at most ``MAX_FACTORS``.
        base: At most ``factors``.

    Raises:
        UserError: So few runs cannot hold so many factors apart.
    """
    added = factors - base
    candidates = [mask for mask in range(1, 2**base) if mask.bit_count() >= 2]
    if added > len(candidates):
        fewest = math.ceil(math.log2(factors + 1))
        raise UserError(
            f"{2**base} runs cannot hold {factors} factors apart; at least {2**fewest} can"
        )
    candidates.sort(key=lambda mask: (-mask.bit_count(), mask))
    if math.comb(len(candidates), added) <= ENUMERATED:
        sets = itertools.combinations(candidates, added)
        best = min(sets, key=lambda chosen: (_pattern(_span(base, chosen), factors), chosen))
    else:
        best = _beam(candidates, factors, base)
    return FractionalDesign(factors, tuple(best))


def _beam(candidates: Sequence[int], factors: int, base: int) -> tuple[int, ...]:
    """Add one generator after the other, keeping the sets that confuse the least so far."""
    kept: list[tuple[tuple[int, ...], list[int]]] = [((), [0])]
    for index in range(factors - base):
        grown: dict[tuple[int, ...], tuple[tuple[int, ...], list[int]]] = {}
        for chosen, words in kept:
            for mask in candidates:
                if mask in chosen:
                    continue
                word = mask | 1 << (base + index)
                longer = words + [known ^ word for known in words]
                # Sets of equal pattern are nearly always the same design with factors renamed.
                grown.setdefault(_pattern(longer[1:], factors), ((*chosen, mask), longer))
        kept = [grown[pattern] for pattern in sorted(grown)[:BEAM]]
    return kept[0][0]


def fractional_design(
    factors: int, *, runs: int | None = None, resolution: int | None = None
) -> FractionalDesign:
    """Return the design of as many runs, or the smallest of at least this resolution.

    Every combination is run where that takes no more runs.

    Raises:
        UserError: There are too many factors, or too few runs for them.
    """
    if factors > MAX_FACTORS:
        raise UserError(f"{factors} factors; a fractional design takes at most {MAX_FACTORS}")
    if runs is not None:
        return minimum_aberration(factors, min(factors, runs.bit_length() - 1))
    wanted = resolution or 4
    for base in range(math.ceil(math.log2(factors + 1)), factors):
        design = minimum_aberration(factors, base)
        if design.resolution is None or design.resolution >= wanted:
            return design
    return FractionalDesign(factors, ())


def describe(design: FractionalDesign, names: Sequence[str]) -> list[str]:
    """Return the design for people: its resolution, generators and aliases, one a line."""

    def word(mask: int) -> str:
        return ":".join(name for bit, name in enumerate(names) if mask >> bit & 1)

    if not design.generators:
        return [f"all {design.runs} combinations of {design.factors} factors; nothing is aliased"]
    size = f"2^({design.factors}-{len(design.generators)})"
    lines = [f"{size}: {design.runs} runs, resolution {_roman(design.resolution or 0)}"]
    for index, generator in enumerate(design.generators):
        lines.append(f"generator {names[design.base + index]} = {word(generator)}")
    lines += [f"alias {' = '.join(map(word, group))}" for group in design.aliases()]
    return lines


def _roman(number: int) -> str:
    tens, ones = divmod(number, 10)
    return "X" * tens + ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")[ones]
