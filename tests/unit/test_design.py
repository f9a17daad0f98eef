"""Fractional designs against published tables and against their own columns; other designs."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dart.errors import UserError
from dart.recipe import ZERO_SHOT
from dart.studies.choices import describe_design
from dart.studies.design import FractionalDesign, describe, fractional_design, minimum_aberration
from dart.studies.plan import Planner
from dart.studies.spec import load_spec
from tests.helpers.study_engine import own_registry, run_toy, write_study

# (factors, generators) -> words of length 3, 4, 5: Chen, Sun and Wu, International Statistical
# Review 61 (1993), table of two-level designs with minimum aberration.
PUBLISHED = {
    (4, 1): (0, 1, 0),
    (5, 1): (0, 0, 1),
    (5, 2): (2, 1, 0),
    (6, 2): (0, 3, 0),
    (6, 3): (4, 3, 0),
    (7, 2): (0, 1, 2),
    (7, 3): (0, 7, 0),
    (7, 4): (7, 7, 0),
    (8, 2): (0, 0, 2),
    (8, 3): (0, 3, 4),
    (8, 4): (0, 14, 0),
    (9, 3): (0, 1, 4),
    (9, 4): (0, 6, 8),
    (9, 5): (4, 14, 8),
    (10, 3): (0, 0, 3),
    (10, 4): (0, 2, 8),
    (10, 5): (0, 10, 16),
    (10, 6): (8, 18, 16),
    (11, 5): (0, 4, 14),
    (11, 6): (0, 25, 0),
    (15, 11): (35, 105, 168),
}


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    with own_registry():
        yield


@pytest.mark.parametrize(("factors", "generators"), PUBLISHED)
def test_generators_reach_the_published_aberration(factors: int, generators: int) -> None:
    design = minimum_aberration(factors, factors - generators)
    lengths = [word.bit_count() for word in design.words]
    counts = tuple(lengths.count(length) for length in (3, 4, 5))
    assert counts == PUBLISHED[factors, generators]
    assert len(set(design.words)) == 2**generators - 1
    assert design.resolution == min(lengths)


def _signs(design: FractionalDesign) -> np.ndarray:
    return 1 - 2 * np.array(list(design.levels()))


@pytest.mark.parametrize(("factors", "base"), [(4, 3), (5, 3), (6, 4), (7, 4), (8, 4), (5, 4)])
def test_aliases_are_the_columns_that_are_equal(factors: int, base: int) -> None:
    design = minimum_aberration(factors, base)
    signs = _signs(design)
    assert len(np.unique(signs, axis=0)) == design.runs == 2**base
    assert (signs[0] == 1).all()  # the first values of all factors are one of the runs
    assert (signs.sum(axis=0) == 0).all()
    assert np.array_equal(signs.T @ signs, design.runs * np.eye(factors))
    effects = {
        sum(1 << f for f in chosen): signs[:, list(chosen)].prod(axis=1)
        for size in (1, 2)
        for chosen in itertools.combinations(range(factors), size)
    }
    equal = {
        frozenset(other for other, column in effects.items() if (column == effects[one]).all())
        for one in effects
    }
    assert {frozenset(group) for group in design.aliases()} == {g for g in equal if len(g) > 1}


def test_a_design_is_the_smallest_of_its_resolution() -> None:
    runs = {
        (factors, resolution): fractional_design(factors, resolution=resolution).runs
        for factors in (3, 5, 7, 8, 11)
        for resolution in (3, 4, 5)
    }
    assert runs == {
        (3, 3): 4,
        (3, 4): 8,
        (3, 5): 8,
        (5, 3): 8,
        (5, 4): 16,
        (5, 5): 16,
        (7, 3): 8,
        (7, 4): 16,
        (7, 5): 64,
        (8, 3): 16,
        (8, 4): 16,
        (8, 5): 64,
        (11, 3): 16,
        (11, 4): 32,
        (11, 5): 128,
    }


def test_a_design_tells_its_resolution_generators_and_aliases() -> None:
    lines = describe(minimum_aberration(4, 3), ["a", "b", "c", "d"])
    assert lines == [
        "2^(4-1): 8 runs, resolution IV",
        "generator d = a:b:c",
        "alias a:b = c:d",
        "alias a:c = b:d",
        "alias a:d = b:c",
    ]
    assert describe(fractional_design(2), ["a", "b"])[0].startswith("all 4 combinations")


def test_too_few_runs_and_too_many_factors_are_refused() -> None:
    with pytest.raises(UserError, match="4 runs cannot hold 9 factors apart; at least 16 can"):
        fractional_design(9, runs=4)
    with pytest.raises(UserError, match="at most 16"):
        fractional_design(17)


FOUR = "variants: {tuned: {rank: [4, 8], gate: [0, 1], wide: [false, true], mix: [mean, gated]}}\n"


def _cells(folder: Path, text: str) -> list[tuple[Any, ...]]:
    cells = Planner(load_spec(write_study(folder, text))).enumerate()
    assert len({cell.key for cell in cells}) == len(cells)
    return [
        (c.recipe.variant, *c.recipe.hyperparameters.values(), c.recipe.training.learning_rate)
        for c in cells
    ]


def test_a_fractional_study_runs_its_fraction_and_tells_the_aliases(tmp_path: Path) -> None:
    text = FOUR + "design: fractional\nfraction: {runs: 8}\nbudget: {seeds: [0, 1]}"
    cells = _cells(tmp_path, text)
    assert len(cells) == 1 + 8 * 2
    runs = cells[1::2]
    assert runs[0][1:5] == (4, 0.0, False, "mean")
    # The defining relation: an even number of factors is at its second value.
    for _, rank, gate, wide, mix, _ in runs:
        assert (rank == 8) ^ (gate == 1.0) ^ wide ^ (mix == "gated") == 0
    study = load_spec(write_study(tmp_path, text))
    assert describe_design(study)["tuned"][0] == "2^(4-1): 8 runs, resolution IV"


def test_a_grid_runs_its_settings_and_a_variant_without_one_as_it_is(tmp_path: Path) -> None:
    text = """\
design: grid
variants: {plain: {}, tuned: {wide: true}}
settings:
  - {variant: tuned, rank: 4}
  - {variant: tuned, rank: 16, learning_rate: 0.01}
"""
    assert _cells(tmp_path, text)[1:] == [
        ("plain", 1e-3),
        ("tuned", 4, 0.0, True, "mean", 1e-3),
        ("tuned", 16, 0.0, True, "mean", 0.01),
    ]
    everywhere = text.split("settings")[0] + "settings: [{learning_rate: 0.1}, {steps: 7}]"
    assert [cell[-1] for cell in _cells(tmp_path, everywhere)] == [1e-3, 0.1, 1e-3, 0.1, 1e-3]


def test_trainable_groups_and_steps_are_factors(tmp_path: Path) -> None:
    text = """\
variants: {plain: {}}
factors: {trainable: [adapters, adapters+decoder], steps: [10, 20]}
"""
    cells = Planner(load_spec(write_study(tmp_path, text))).enumerate()[1:]
    assert [(c.recipe.training.trainable, c.recipe.training.steps) for c in cells] == [
        (("adapters",), 10),
        (("adapters",), 20),
        (("adapters", "decoder"), 10),
        (("adapters", "decoder"), 20),
    ]
    assert cells[3].to_dict()["training"] == {"trainable": "adapters+decoder", "steps": 20}


def test_lists_and_mappings_of_training_are_factors(tmp_path: Path) -> None:
    text = """\
variants: {plain: {}}
training: {trainable: [adapters, encoder]}
factors: {unfreeze: [none, encoder=0.5], virtual_lenses: [none, own+pinhole]}
"""
    cells = Planner(load_spec(write_study(tmp_path, text))).enumerate()[1:]
    found = [(c.recipe.training.unfreeze, c.recipe.training.virtual_lenses) for c in cells]
    assert found == [
        ({}, ()),
        ({}, ("own", "pinhole")),
        ({"encoder": 0.5}, ()),
        ({"encoder": 0.5}, ("own", "pinhole")),
    ]
    assert len({c.recipe.key for c in cells}) == 4


def test_a_protocol_that_varies_has_its_own_untouched_network(tmp_path: Path) -> None:
    text = "protocol: {pretrained: CHECKPOINT, held_out: []}\nvariants: {plain: {}}\n"
    path = write_study(tmp_path, text)
    alone = Planner(load_spec(path)).enumerate()
    text += "factors: {target: [rooms_fisheye, rooms_stereographic]}\n"
    cells = Planner(load_spec(write_study(tmp_path, text))).enumerate()
    assert [(c.recipe.variant, c.recipe.protocol.target, c.trial) for c in cells] == [
        (ZERO_SHOT, "rooms_fisheye", 0),
        (ZERO_SHOT, "rooms_stereographic", 0),
        ("plain", "rooms_fisheye", 0),
        ("plain", "rooms_stereographic", 1),
    ]
    assert [cells[0].key, cells[2].key] == [cell.key for cell in alone]
    assert run_toy(write_study(tmp_path, text), tmp_path).failed == []


MISTAKES = {
    "design: fractional\nvariants: {tuned: {rank: [1, 2, 3]}}": ("variants.tuned.rank", "two"),
    "design: fractional\nfraction: {runs: 6}\nvariants: {plain: {}}": ("fraction", "power of two"),
    "design: fractional\nfraction: {runs: 4, resolution: 3}\nvariants: {plain: {}}": ("not both",),
    "design: fractional\nfraction: {runs: 2}\n" + FOUR: ("fraction", "at least 8 can"),
    "design: factorial\nfraction: {runs: 2}\n" + FOUR: (":2: fraction", "'design: fractional'"),
    "design: ofat\njoint: true\nvariants: {plain: {}}": (":2: joint", "'design: search'"),
    "design: grid\nvariants: {plain: {}}": (":1: design", "needs 'settings'"),
    "design: grid\nvariants: {plain: {}}\nsettings: [{steps: 3}, {steps: 3}]": ("[1]", "already"),
    "design: grid\nvariants: {plain: {}}\nsettings: [{stesp: 3}]": ("settings[0]", "stesp"),
    "design: grid\nvariants: {plain: {}}\nsettings: [{steps: x}]": ("settings[0]", "not 'x'"),
    "design: grid\nvariants: {plain: {}}\nsettings: [{steps: [1]}]": ("settings[0]", "must be"),
    "design: grid\nvariants: {plain: {}}\nsettings: [{variant: plian}]": ("mean 'plain'?",),
    "design: grid\nvariants: {tuned: {rank: [1, 2]}}\nsettings: [{}]": ("tuned.rank", "settings"),
    "variants: {plain: {}}\nfactors: {steps: [1, 2]}\nsearch: {steps: [3]}": ("search.steps",),
    "variants: {plain: {}}\nfactors: {taget: [a]}": (":2: factors.taget", "mean 'target'?"),
    "variants: {plain: {}}\nfactors: {interpolate: [0.5]}": (":2: factors", "that may vary"),
    "variants: {plain: {}}\nfactors: {target: [rooms_pinhole]}": ("named twice",),
    "variants: {plain: {}}\nfactors: {target: [romms]}": (":2: factors", "romms"),
    "variants: {plain: {}}\nfactors: {trainable: [adapters+x]}": ("factors.trainable", "'encoder'"),
    "variants: {plain: {}}\nfactors: {pretrained: [nowhere]}": (":2: factors", "nowhere"),
    "design: search\nvariants: {plain: {}}\nfactors: {target: [rooms_fisheye]}": ("one protocol",),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_design_that_cannot_be_is_one_line(text: str, tmp_path: Path) -> None:
    path = write_study(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_spec(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    for part in MISTAKES[text]:
        assert part in message, message
