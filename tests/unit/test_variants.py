"""Reading variants from source text: against small packages written for the purpose."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from dart import variants
from dart.errors import UserError
from dart.variants import (
    Hyperparameter,
    VariantInfo,
    check_hyperparameters,
    read_function,
    scan_variants,
)

GOOD = '''
"""Module."""
from typing import Literal
from dart.models import register_variant

@register_variant(hypothesis="It works.")
def first(stage, *, num_queries: int = 8, gate_logit: float = 0, on: bool = True):
    """Doc."""
    return None

@register_variant(hypothesis="It works better.", compare_to="first", starts_at_identity=False)
def second(stage, *, gate: Literal["scalar", "head"] = "head"):
    return None

def helper(stage, *, width: int = 3):
    return None
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "their_variants"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('must not be imported')\n")
    (folder / "ideas.py").write_text(GOOD)
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("theirs", "their_variants", variants.ENTRY_POINT_GROUP)
    monkeypatch.setattr(variants, "entry_points", lambda **_: [entry, entry])
    return folder


@pytest.fixture
def info() -> VariantInfo:
    hyperparameters = {
        "num_queries": Hyperparameter("num_queries", "int", 64),
        "gate_logit": Hyperparameter("gate_logit", "float", 0.0),
        "gate": Hyperparameter("gate", "str", "head", ("scalar", "head")),
    }
    return VariantInfo("daa_gated", "It works.", None, hyperparameters, "x.py", "")


@pytest.mark.usefixtures("package")
def test_scan_reads_what_is_declared() -> None:
    found = scan_variants()
    assert sorted(found) == ["first", "second"]
    assert found["first"].hyperparameters == {
        "num_queries": Hyperparameter("num_queries", "int", 8),
        "gate_logit": Hyperparameter("gate_logit", "float", 0.0),
        "on": Hyperparameter("on", "bool", True),
    }
    assert isinstance(found["first"].hyperparameters["gate_logit"].default, float)
    assert found["second"].hyperparameters["gate"].choices == ("scalar", "head")
    assert found["second"].compare_to == "first"
    assert not found["second"].starts_at_identity
    assert found["second"].module == "their_variants.ideas"


def test_code_changes_with_code_only(package: Path) -> None:
    file = package / "ideas.py"
    before = scan_variants()["first"].code
    file.write_text(GOOD.replace('"""Doc."""', '"""Other."""  # comment'))
    assert scan_variants()["first"].code == before
    file.write_text(GOOD.replace("num_queries: int = 8", "num_queries: int = 9"))
    assert scan_variants()["first"].code != before


def test_code_follows_imports_within_the_package(package: Path) -> None:
    (package / "shared.py").write_text("WIDTH = 1\n")
    (package / "ideas.py").write_text("from their_variants.shared import WIDTH\n" + GOOD)
    before = scan_variants()["first"].code
    (package / "shared.py").write_text("WIDTH = 2\n")
    assert scan_variants()["first"].code != before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def helper(", "def helper((", "ideas.py:15"),
        ("on: bool = True", "on: list = True", "ideas.py:7: hyperparameter 'on' has type list"),
        ("on: bool = True", "on: bool", "ideas.py:7: hyperparameter 'on' needs a default"),
        ("on: bool = True", "on: bool = 1", "default of hyperparameter 'on' must be bool"),
        ("num_queries: int = 8", "num_queries: int = 4 + N", "'4 + N' must be a literal"),
        ('= "head"', '= "heads"', "must be one of 'scalar', 'head', got 'heads'; did you mean"),
        ('compare_to="first"', 'compare_to="frist"', "did you mean 'first'"),
        ('compare_to="first"', "compare_to=3", "compare_to must be a variant's name"),
        ("def second", "def first", "variant 'first' is already in"),
        ("def second", "def zero_shot", "'zero_shot' is reserved"),
        ("It works better.", "It works. Better.", "must be one sentence"),
        ('hypothesis="It works."', "", "needs hypothesis"),
    ],
)
def test_scan_names_file_and_line(package: Path, old: str, new: str, message: str) -> None:
    (package / "ideas.py").write_text(GOOD.replace(old, new))
    with pytest.raises(UserError) as caught:
        scan_variants()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("gone", "no_such_package.inner", variants.ENTRY_POINT_GROUP)
    monkeypatch.setattr(variants, "entry_points", lambda **_: [entry])
    with pytest.raises(UserError, match=r"no module 'no_such_package\.inner'"):
        scan_variants()


def test_our_own_variants_are_found_without_torch() -> None:
    program = (
        "import sys; from dart.variants import scan_variants; print(sorted(scan_variants()));"
        "assert not {'torch', 'mlflow', 'timm', 'experiments'} & set(sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "'daa'" in answer.stdout


def test_defaults_are_filled_in_order(info: VariantInfo) -> None:
    full = check_hyperparameters(info, {"gate": "scalar", "gate_logit": 1})
    assert list(full.items()) == [("num_queries", 64), ("gate_logit", 1.0), ("gate", "scalar")]
    assert isinstance(full["gate_logit"], float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"num_query": 3},
            "variant 'daa_gated' has no hyperparameter 'num_query'; "
            "it has: num_queries, gate_logit, gate; did you mean 'num_queries'?",
        ),
        (
            {"num_queries": True},
            "variant 'daa_gated': hyperparameter 'num_queries' must be int, got True (bool)",
        ),
        (
            {"num_queries": 4.0},
            "variant 'daa_gated': hyperparameter 'num_queries' must be int, got 4.0 (float)",
        ),
        (
            {"gate_logit": float("nan")},
            "variant 'daa_gated': hyperparameter 'gate_logit' must be finite, got nan",
        ),
        (
            {"gate": "heads"},
            "variant 'daa_gated': hyperparameter 'gate' must be one of 'scalar', 'head', "
            "got 'heads'; did you mean 'head'?",
        ),
    ],
)
def test_wrong_hyperparameters(info: VariantInfo, values: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_hyperparameters(info, values)
    assert str(caught.value) == message
    with pytest.raises(UserError, match=r"^here: "):
        check_hyperparameters(info, values, where="here")


def test_variant_without_hyperparameters() -> None:
    bare = VariantInfo("none", "It works.", None, {}, "x.py", "")
    assert check_hyperparameters(bare, {}) == {}
    with pytest.raises(UserError, match=r"it has none$"):
        check_hyperparameters(bare, {"rank": 3})


def test_function_and_text_agree(package: Path) -> None:
    space: dict = {}
    source = (package / "ideas.py").read_text().replace("from dart.models import", "#")
    exec(source.replace("@register", "#"), space)
    found = scan_variants()
    for name in found:
        assert read_function(space[name], where=name) == found[name].hyperparameters
