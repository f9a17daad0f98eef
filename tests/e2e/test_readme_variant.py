"""What the README shows: its variant, its line and its camera work as they stand there."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dart.cameras import load_camera

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(language: str, after: str) -> str:
    found = re.search(rf"{after}.*?```{language}\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no {language} block after {after!r}"
    return found[1]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the project with the README's file and line added, and nothing else."""
    for name in ("dart", "experiments", "studies"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run_study.py", tmp_path)
    path = re.search(r"`(experiments/\w+\.py)`", README)
    assert path
    (tmp_path / path[1]).write_text(_block("python", re.escape(path[0])))
    study = tmp_path / "studies" / "quickstart.yaml"
    text, line = study.read_text(), _block("yaml", "The line, under `variants:`")
    with_line = re.sub(r"(?m)^(variants:.*\n)", rf"\g<1>{line}", text)
    assert len(with_line.splitlines()) == len(text.splitlines()) + 1
    study.write_text(with_line)
    return tmp_path


def _run(project: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_file_and_one_line_are_a_new_variant(project: Path) -> None:
    plan = json.loads(_run(project, "run_study.py", "studies/quickstart.yaml", "--plan", "--json"))
    ours = [run for run in plan["runs"] if run["variant"] == "camera_bias"]
    theirs = [run for run in plan["runs"] if run["variant"] == "daa"]
    assert [run["seed"] for run in ours] == [run["seed"] for run in theirs]
    assert ours[0]["hyperparameters"] == {"first_stage": 0}


def test_the_new_variant_builds_and_starts_at_the_pretrained_network(project: Path) -> None:
    program = (
        "import torch; from dart.models import create_model\n"
        "net = create_model('camera_bias', generator=torch.Generator().manual_seed(0)).eval()\n"
        "image = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(1))\n"
        "with torch.no_grad():\n"
        "    on = net(image, None).distance\n"
        "    net.adapters_enabled = False\n"
        "    print(torch.equal(on, net(image, None).distance))\n"
    )
    assert _run(project, "-c", program).strip() == "True"


def test_the_file_is_in_the_projects_style() -> None:
    path = "experiments/camera_bias.py"
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", path, "-"],
            input=_block("python", "`experiments/camera_bias.py`"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_camera_file_loads(tmp_path: Path) -> None:
    path = tmp_path / "camera.json"
    path.write_text(_block("json", "a small JSON or YAML file of our own"))
    camera = load_camera(path)
    assert (camera.model, camera.size) == ("kannala_brandt", (480, 640))
