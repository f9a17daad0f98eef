"""Data sets as users have them on disk: each format is one file, read lazily and checked.

Only names lie here, so that asking which formats there are imports no reader.
"""

import inspect
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dart.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from dart.data.sets.base import DepthDataset

FORMATS: Mapping[str, str] = {
    "manifest": "manifest:Manifest",
    "real_triples": "real_triples:RealTriples",
    "homes": "homes:Homes",
    "nyuv2_labelled": "nyuv2:NyuLabelled",
    "nyuv2_bts": "nyuv2:NyuBts",
    "kitti_eigen": "kitti:KittiEigen",
    "kitti360_fisheye": "kitti360:Kitti360Fisheye",
    "scannetpp_dslr": "scannetpp:ScanNetPPDslr",
    "woodscape": "woodscape:WoodScape",
    "synwoodscape": "woodscape:SynWoodScape",
    "ibims1": "ibims1:Ibims1",
    "diode": "diode:Diode",
    "vkitti2": "vkitti2:VirtualKitti2",
    "hypersim": "hypersim:Hypersim",
    "tum_rgbd": "tum_rgbd:TumRgbd",
    "icl_nuim": "tum_rgbd:IclNuim",
    "matterport_erp": "matterport:MatterportErp",
}
"""Format -> module of this package and class."""


def find_format(name: str, *, where: str = "format") -> "type[DepthDataset]":
    """Return the class that reads a format.

    Raises:
        UserError: no format has that name; the text lists those there are.
    """
    if name not in FORMATS:
        raise UserError(
            f"{where}: unknown format '{name}', allowed are {', '.join(FORMATS)}"
            f"{did_you_mean(name, FORMATS)}"
        )
    module, _, kind = FORMATS[name].partition(":")
    return getattr(import_module(f"dart.data.sets.{module}"), kind)


def open_dataset(
    path: str | Path,
    format: str,  # noqa: A002
    *,
    split: str | None = None,
    **options: Any,
) -> "DepthDataset":
    """Return a data set on disk; nothing but its listing is read yet.

    Args:
        path: The set's folder, or the one file that holds or lists it.
        format: One of ``FORMATS``.
        split: One of the format's splits; every frame unless given.
        options: ``evaluation``, ``on_missing`` and what the format itself takes.

    Raises:
        UserError: an unknown format, split or option, or files that are missing.
    """
    kind = find_format(format)
    # A format's own options stand in its constructor, what all formats take in the base's.
    signatures = [
        inspect.signature(vars(each)["__init__"])
        for each in kind.__mro__[:-1]
        if "__init__" in vars(each)
    ]
    allowed = list(
        dict.fromkeys(
            name
            for signature in signatures
            for name, parameter in signature.parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "split"
        )
    )
    for name in options:
        if name not in allowed:
            raise UserError(
                f"{path}: format {format} has no option '{name}', allowed are "
                f"{', '.join(allowed)}{did_you_mean(name, allowed)}"
            )
    missing = options.get("on_missing", "error")
    if missing not in ("error", "skip"):
        raise UserError(f"{path}: on_missing is {missing!r}, allowed are 'error' and 'skip'")
    return kind(Path(path), split=split, **options)
