"""Which code, versions and machine made a number."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "timm", "numpy", "pandas", "opencv-python-headless", "mlflow", "optuna")


def git_state(folder: Path) -> dict[str, str | bool]:
    """Return ``git_sha`` and ``dirty`` of the work tree around ``folder``; empty without one."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"git_sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def package_versions() -> dict[str, str]:
    """Return the versions of the libraries that can change a number; absent ones are left out."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def describe_environment(*, device: str, threads: int) -> dict[str, object]:
    """Return what a result records of the code and machine that made it."""
    return {
        **git_state(Path(__file__).parent),
        "versions": package_versions(),
        "platform": platform.platform(terse=True),
        "processor": platform.machine(),
        "device": device,
        "threads": threads,
    }
