"""Every study that ships can be planned, and has as many runs as the README says."""

import re
from pathlib import Path

import pytest

from dart.studies.plan import make_plan
from dart.studies.spec import load_spec

ROOT = Path(__file__).parents[2]
NEEDED = {"replay: 0.25": "ema: 0.25", "ewc: 100.0": "l2_sp: 100.0"}
"""Options that read source images, which are rendered first, and others that read none."""


def read_counts() -> dict[str, int]:
    counts = {}
    for line in (ROOT / "README.md").read_text().splitlines():
        names = re.findall(r"`(\w+\.yaml)`", line)
        if names and line.startswith("| `"):
            numbers = [int(number) for number in line.rstrip("| ").rsplit("|", 1)[1].split(",")]
            counts |= dict(zip(names, numbers, strict=True))
    return counts


def test_the_readme_lists_every_study() -> None:
    assert read_counts().keys() == {path.name for path in (ROOT / "studies").glob("*.yaml")}


@pytest.mark.parametrize("name", sorted(read_counts()))
def test_a_shipped_study_has_the_runs_that_the_readme_names(name: str, tmp_path: Path) -> None:
    text = (ROOT / "studies" / name).read_text()
    for before, after in NEEDED.items():
        text = text.replace(before, after)
    lines = [line for line in text.splitlines() if "- domains/" not in line]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    study = load_spec(tmp_path / name)
    plan = make_plan(study, tmp_path / "results")
    keys = {cell.recipe.key for cell in plan.cells}
    assert len(keys) == len(plan.cells)
    proposed = sum(plan.open_trials.values()) * len(study.spec.budget.seeds)
    assert len(keys) + proposed == read_counts()[name]
