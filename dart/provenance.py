"""Which code, versions and machine made a number.

None of it is part of a run's key: another commit or machine is no other experiment. It says what
to look at when a number does not come out again.
"""

import functools
import hashlib
import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dart.tricks import switched_off

PACKAGES = ("torch", "timm", "numpy", "pandas", "opencv-python-headless", "mlflow", "optuna")
ROOT = Path(__file__).parent.parent
LOCK = "requirements.lock"
LARGEST_PATCH = 5_000_000
"""Bytes of a patch that is kept; of a larger one only the hash."""


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
    ).stdout


@functools.cache
def read_changes(folder: Path) -> str | None:
    """Return what differs from the last commit as a patch, new Python and YAML files included.

    Read once a process: code that is edited later is not the code that runs. None without git.
    """
    try:
        patch = _git(folder, "diff", "HEAD", "--binary")
        listed = _git(folder, "ls-files", "--others", "--exclude-standard", "--full-name", "-z")
        top = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
    except (OSError, subprocess.CalledProcessError):
        return None
    for name in sorted(filter(None, listed.split("\0"))):
        if Path(name).suffix in (".py", ".yaml", ".yml"):
            with suppress(OSError):
                text = (top / name).read_text(errors="replace")
                patch += f"new file {name}\n{text}\n"
    return patch


@functools.cache
def _git_state(folder: Path) -> tuple[tuple[str, str | bool], ...]:
    try:
        sha = _git(folder, "rev-parse", "HEAD").strip()
        dirty = bool(_git(folder, "status", "--porcelain").strip())
    except (OSError, subprocess.CalledProcessError):
        return ()
    state: dict[str, str | bool] = {"git_sha": sha, "dirty": dirty}
    if patch := read_changes(folder):
        state["changes_sha256"] = _hash(patch)
    return tuple(state.items())


def git_state(folder: Path) -> dict[str, str | bool]:
    """Return ``git_sha``, ``dirty`` and the hash of the changes around ``folder``.

    Empty without git.
    """
    return dict(_git_state(folder))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def save_changes(results: Path, folder: Path = ROOT) -> Path | None:
    """Keep the changes since the last commit as ``changes/HASH.patch``, once for all runs.

    None where there are none.
    """
    patch = read_changes(folder)
    if not patch or len(patch) > LARGEST_PATCH:
        return None
    path = results / "changes" / f"{_hash(patch)[:16]}.patch"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(patch)
        partial.replace(path)
    return path


def package_versions() -> dict[str, str]:
    """Return the versions of the libraries that can change a number; absent ones are left out."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


@functools.cache
def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def describe_hardware() -> dict[str, Any]:
    """Return processor, cores, memory, and the accelerator if torch is at work on one."""
    hardware: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
    }
    with suppress(OSError, ValueError):
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        hardware["memory_gib"] = round(pages / 2**30, 1)
    torch = sys.modules.get("torch")
    if torch is not None:
        hardware["instructions"] = torch.backends.cpu.get_cpu_capability()
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        hardware["accelerator"] = torch.cuda.get_device_name()
        hardware["cuda"] = torch.version.cuda
        hardware["cudnn"] = torch.backends.cudnn.version()
    return hardware


def describe_determinism() -> dict[str, Any]:
    """Return the switches of torch that decide whether two runs agree to the last bit."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""),
    }


def describe_environment(*, device: str, threads: int) -> dict[str, object]:
    """Return what a result records of the code and machine that made it."""
    environment: dict[str, object] = {**git_state(ROOT)}
    with suppress(OSError):
        environment["lock_sha256"] = hashlib.sha256((ROOT / LOCK).read_bytes()).hexdigest()
    return environment | {
        "versions": package_versions(),
        "platform": platform.platform(terse=True),
        "hardware": describe_hardware(),
        "determinism": describe_determinism(),
        "device": device,
        "threads": threads,
        "switched_off": switched_off(),
    }
