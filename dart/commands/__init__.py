"""The work behind each command of ``dart``, one module a group.

Only names lie here: torch is heavy, so a command's module is imported when the command runs.
"""

from argparse import Namespace
from collections.abc import Callable, Mapping
from importlib import import_module

COMMANDS: Mapping[str, str] = {
    "train": "training:train",
    "status": "study_tools:status",
    "retry": "study_tools:retry",
    "doctor": "study_tools:doctor",
    "sync": "study_tools:sync",
    "replay": "study_export:replay",
    "export": "study_export:export",
    "soup": "soup:soup",
    "pretrain": "training:pretrain_source",
    "evaluate": "evaluating:evaluate",
    "data": "data_check:data",
    "predict": "reading:predict_image",
    "variants": "reading:variants",
    "render": "rendering:render",
    "compare": "comparing:compare",
    "report": "reporting:report",
    "ui": "ui:ui",
    "camera": "camera:camera",
    "probe": "probe:probe",
}
"""Command -> module of this package and function; it takes the options, returns the exit status."""


def find_command(name: str) -> Callable[[Namespace], int]:
    """Return the function of a command, importing its module."""
    module, _, function = COMMANDS[name].partition(":")
    return getattr(import_module(f"dart.commands.{module}"), function)
