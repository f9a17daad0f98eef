"""A mistake in a study is refused with one line: what, where, and what is allowed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dart.errors import UserError
from dart.studies.spec import Range, Values, load_spec
from tests.helpers.study_engine import own_registry, write_checkpoint, write_study

FULL = """\
question: Does it help?
baseline: tuned
variants:
  plain:
  tuned: {rank: [4, 8], gate: {low: -2, high: 2.0}, wide: true}
protocol:
  pretrained: CHECKPOINT
  source: [rooms_pinhole]
  target: rooms_fisheye
  held_out: [rooms_stereographic]
  metric: delta1
training: {trainable: [adapters], steps: 40, batch_size: 2, learning_rate: 1e-3}
search:
  learning_rate: {low: 1e-4, high: 1.0e-2, log: true}
objectives: [target, forgetting]
constraints: {forgetting_relative: 0.05}
budget: {trials: 8, seeds: [0, 1, 2]}
"""


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    with own_registry():
        yield


def _message(folder: Path, text: str) -> str:
    path = write_study(folder, text)
    with pytest.raises(UserError) as caught:
        load_spec(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def test_everything_that_a_study_may_say_is_read(tmp_path: Path) -> None:
    study = load_spec(write_study(tmp_path, FULL))
    spec = study.spec
    assert study.name == "toy"
    assert list(study.variants) == ["plain", "tuned"]
    assert spec.variants["plain"] == {}
    assert spec.variants["tuned"]["rank"] == Values(values=(4, 8))
    assert spec.variants["tuned"]["gate"] == Range(low=-2, high=2.0)
    assert spec.variants["tuned"]["wide"] == Values(values=(True,))
    assert spec.training.learning_rate == 1e-3
    assert spec.search["learning_rate"] == Range(low=1e-4, high=1e-2, log=True)
    assert spec.budget.seeds == (0, 1, 2)
    assert spec.design == "search"


def test_the_least_study_has_defaults(tmp_path: Path) -> None:
    spec = load_spec(write_study(tmp_path, "variants: {plain: {}, tuned: {rank: [4, 8]}}")).spec
    assert spec.baseline == "plain"
    assert spec.design == "factorial"
    assert spec.budget.seeds == (0,)


# Replacement of one line of FULL -> what the message must hold; the number is the line's.
MISTAKES = {
    "unknown key": ("question:", "questoin:", ":1: questoin: unknown key", "mean 'question'?"),
    "unknown key inside": ("steps: 40", "step: 40", ":12: training.step:", "mean 'steps'?"),
    "wrong type": ("steps: 40", "steps: many", ":12: training.steps: ", "integer, not 'many'"),
    "steps of zero": ("steps: 40", "steps: 0", ":12: training.steps: ", "greater than or equal"),
    "unknown variant": ("  plain:", "  plian:", ":4: variants.plian: ", "mean 'plain'?"),
    "reserved variant": ("  plain:", "  zero_shot:", ":4: variants.zero_shot: ", "already"),
    "unknown hyperparameter": ("rank:", "rnak:", ":5: variants.tuned.rnak: ", "mean 'rank'?"),
    "hyperparameter's type": ("[4, 8]", "[4, big]", ":5: variants.tuned.rank", "must be int"),
    "hyperparameter's shape": ("[4, 8]", "[[4], 8]", "variants.tuned.rank", "not [4]"),
    "hyperparameter twice": ("[4, 8]", "[4, 4]", "variants.tuned.rank", "stands twice"),
    "no value": ("[4, 8]", "[]", "variants.tuned.rank", "empty"),
    "range's key": ("high: 2.0", "hihg: 2.0", ":5: variants.tuned.gate.hihg:", "mean 'high'?"),
    "range's other key": ("high: 2.0", "high: 2, logs: true", "gate.logs: ", "low, high, log;"),
    "misspelt variants": ("variants:", "varaints:", ":3: varaints: ", "mean 'variants'?"),
    "range upside down": ("high: 2.0", "high: -3", "variants.tuned.gate", "low must be below"),
    "range's end": ("high: 2.0", "high: x", "variants.tuned.gate.high", "number, not 'x'"),
    "range of text": ("wide: true", "mix: {low: 1, high: 2}", "variants.tuned.mix", "mean"),
    "range of bool": ("wide: true", "wide: {low: 1, high: 2}", "variants.tuned.wide", "bool"),
    "log of a negative": ("high: 2.0}", "high: 2.0, log: true}", "tuned.gate", "above 0"),
    "unknown baseline": ("baseline: tuned", "baseline: tunde", ":2: baseline:", "mean 'tuned'?"),
    "unknown domain": ("rooms_fisheye", "rooms_fishey", ":9: protocol.target", "'rooms_fisheye'"),
    "unknown source": ("[rooms_pinhole]", "[rooms]", ":8: protocol.source[0]", "allowed are"),
    "domain twice": ("[rooms_pinhole]", "[rooms_fisheye]", ":6: protocol: ", "named twice"),
    "source is a text": ("[rooms_pinhole]", "rooms_pinhole", ":8: protocol.source: ", "be a list"),
    "unknown metric": ("metric: delta1", "metric: absrel", ":11: protocol.metric: ", "'abs_rel'"),
    "missing checkpoint": ("CHECKPOINT", "rooms_smal", ":7: protocol.pretrained: ", "not exist"),
    "unknown group": ("[adapters]", "[adapter]", ":12: training.trainable[0]", "'adapters'?"),
    "unknown search": ("  learning_rate:", "  lr:", ":14: search.lr: ", "they are: trainable"),
    "search out of bounds": ("low: 1e-4", "low: 0", "search.learning_rate", "log is true"),
    "search below bounds": (
        "{low: 1e-4, high: 1.0e-2, log: true}",
        "{low: -1, high: 1}",
        ":14: search.learning_rate: ",
        "greater than 0",
    ),
    "unknown objective": ("[target, ", "[tarket, ", ":15: objectives[0]", "mean 'target'?"),
    "objective twice": ("[target, forgetting]", "[target, target]", "", "stands twice"),
    "unknown constraint": ("forgetting_relative", "forgeting", ":16: constraints", "forgetting"),
    "no seed": ("[0, 1, 2]", "[]", ":17: budget.seeds: ", "at least 1"),
    "seed twice": ("[0, 1, 2]", "[1, 1]", ":17: budget", "1 stands twice"),
    "negative seed": ("[0, 1, 2]", "[-1]", ":17: budget.seeds[0]: ", "greater than or equal to 0"),
    "no trial": ("trials: 8", "trials: 0", ":17: budget.trials: ", "greater than or equal to 1"),
    "not a number": ("1e-3}", ".nan}", ":12: training.learning_rate: ", "not a finite number"),
    "range without search": ("question:", "design: ofat\nquestion:", "tuned.gate: ", "search"),
    "unknown design": ("question:", "design: gird\nquestion:", ":1: design: ", "mean 'grid'?"),
    "key twice": ("budget:", "baseline: plain\nbudget:", ":17: ", "'baseline' stands twice"),
    "key that is no text": ("question:", "1: 2\nquestion:", ":1: ", "not text"),
    "bad syntax": ("[0, 1, 2]}", "[0, 1, 2", ":18: not valid YAML: ", "expected"),
    "python object": ("Does it help?", "!!python/name:os.system", ":1: not valid YAML", "tag"),
    "alias of itself": ("{trials: 8", "&a {trials: *a", ":17: ", "contains itself"),
    "no steps at all": ("steps: 40", "steps: 99999999999999999999", ":12: training.steps", "less"),
    "a rate of true": ("1e-3}", "true}", ":12: training.learning_rate: ", "number, not True"),
    "a rate of text": ("1e-3}", "'0.1'}", ":12: training.learning_rate: ", "number"),
    "group twice": ("[adapters]", "[adapters, adapters]", ":12: training", "'adapters' stands"),
    "a negative rank": ("[4, 8]", "[4, -8]", ":5: variants.tuned.rank", "from 1 to", "-8"),
    "a rank of nothing": ("[4, 8]", "{low: 0, high: 8}", ":5: variants.tuned.rank", "from 1 to"),
    "a day that is none": ("Does it help?", "2026-02-31", ":1: question: ", "day is out of range"),
    "nested too deeply": ("Does it help?", "[" * 3000, ":1: ", "nested too deeply"),
    "variant is a list": ("  plain:", "  plain: [1]", ":4: variants.plain: ", "a mapping"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_its_place(mistake: str, tmp_path: Path) -> None:
    old, new, *parts = MISTAKES[mistake]
    assert old in FULL
    message = _message(tmp_path, FULL.replace(old, new))
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("- 1\n", "mapping"),
        ("just a text", "mapping"),
        ("question: no variants", "'variants' is missing"),
        ("variants: {}", "variants"),
        ("variants:", "variants"),
        ("\x00", "unprintable"),
    ],
)
def test_a_file_that_is_no_study_is_refused(text: str, part: str, tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_spec(path)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_aliases_that_multiply_are_stopped(tmp_path: Path) -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    path = tmp_path / "toy.yaml"
    path.write_text("a0: &a0 [1]\n" + "\n".join(levels))
    with pytest.raises(UserError, match="more than 10000 values"):
        load_spec(path)


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    write_study(tmp_path, "variants: {plain: {}}")
    with pytest.raises(UserError, match=r"no such study file; .* holds: toy\.yaml"):
        load_spec(tmp_path / "tyo.yaml")


def test_a_folder_and_a_binary_file_are_no_studies(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        load_spec(tmp_path)
    path = tmp_path / "toy.yaml"
    path.write_bytes(b"\xff\xfe\x80")
    with pytest.raises(UserError, match="UTF-8"):
        load_spec(path)


def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a b.yaml"
    path.write_text("variants: {plain: {}}")
    with pytest.raises(UserError, match="the file's name names the study"):
        load_spec(path)


def test_a_truncated_checkpoint_and_an_adapter_are_refused(tmp_path: Path) -> None:
    path = write_study(tmp_path, "variants: {plain: {}}")
    checkpoint = tmp_path / "net.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"toy\.yaml:2: protocol\.pretrained: .* truncated"):
        load_spec(path)
    write_checkpoint(checkpoint, kind="adapter")
    with pytest.raises(UserError, match="is of kind 'adapter'; allowed: 'pretrained'"):
        load_spec(path)


_leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["plain", "tuned", "rank", "rooms_fisheye", "adapters", "search"]),
)
_value = st.recursive(
    _leaf,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["plain", "tuned", "rank", "low", "high", "log", "seeds", "steps", ""]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)
_study = st.dictionaries(
    st.sampled_from([line.split(":")[0] for line in FULL.splitlines() if line[0].isalpha()]),
    _value,
    max_size=4,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(change=_study)
def test_whatever_a_study_holds_it_is_read_or_refused_in_one_line(
    change: dict[str, object], tmp_path: Path
) -> None:
    path = write_study(tmp_path, FULL)
    content = yaml.safe_load(path.read_text()) | change
    path.write_text(yaml.safe_dump(content))
    message = str(path)
    try:
        load_spec(path)
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert message.startswith(str(path))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(alphabet=st.sampled_from("avr:{}[]-&*!|>'\"#,.\n 1e%@`?\\\t"), max_size=40))
def test_whatever_the_text_is_it_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_spec(path)
    assert "\n" not in str(caught.value)
