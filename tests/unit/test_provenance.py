"""What a record says of code and machine, against repositories made for the purpose."""

import hashlib
import subprocess
from pathlib import Path

import pytest
import torch

from dart.provenance import (
    describe_determinism,
    describe_environment,
    git_state,
    read_changes,
    save_changes,
)


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    _git(folder, "init", "-q")
    (folder / "a.py").write_text("x = 1\n")
    _git(folder, "add", "a.py")
    _git(folder, "commit", "-qm", "First")
    return folder


def test_a_clean_tree_is_its_commit(repository: Path, tmp_path: Path) -> None:
    assert git_state(repository) == {
        "git_sha": _git(repository, "rev-parse", "HEAD"),
        "dirty": False,
    }
    assert save_changes(tmp_path, repository) is None


def test_a_changed_tree_is_kept_as_a_patch_that_gives_it_back(
    repository: Path, tmp_path: Path
) -> None:
    (repository / "a.py").write_text("x = 2\n")
    (repository / "new.py").write_text("y = 3\n")
    (repository / "data.bin").write_bytes(b"\0" * 9)
    state = git_state(repository)
    path = save_changes(tmp_path, repository)
    assert path is not None
    text = path.read_text()
    assert state["dirty"] is True
    assert state["changes_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert path.stem == str(state["changes_sha256"])[:16]
    assert "new file new.py\ny = 3\n" in text
    assert "data.bin" not in text
    _git(repository, "checkout", "a.py")
    diff = text[: text.index("new file new.py")]
    subprocess.run(["git", "-C", str(repository), "apply"], input=diff, text=True, check=True)
    assert (repository / "a.py").read_text() == "x = 2\n"


def test_without_git_nothing_is_said(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {}
    assert read_changes(tmp_path) is None


def test_the_environment_names_machine_and_switches() -> None:
    environment = describe_environment(device="cpu", threads=3)
    assert environment["threads"] == 3
    hardware = environment["hardware"]
    assert isinstance(hardware, dict)
    assert hardware["cores"] >= 1
    assert hardware["memory_gib"] > 0
    used = f"CPU capability usage: {hardware['instructions']}\n"
    assert used in torch.__config__.show()
    before = describe_determinism()["deterministic_algorithms"]
    try:
        torch.use_deterministic_algorithms(not before)
        assert describe_determinism()["deterministic_algorithms"] is not before
    finally:
        torch.use_deterministic_algorithms(before)
