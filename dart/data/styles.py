"""The styles of scenes by name: a scene is a seed and a style."""

from collections.abc import Mapping
from types import MappingProxyType

import torch

from dart.data.rooms import build_room
from dart.data.scene import Scene, Style
from dart.data.streets import build_street
from dart.data.warehouse import build_warehouse

STYLES: Mapping[str, Style] = MappingProxyType(
    {"rooms": build_room, "streets": build_street, "warehouse": build_warehouse}
)


def build_scene(style: str, seed: int) -> Scene:
    """Return the scene of a style and a seed; the same two give the same scene."""
    return STYLES[style](torch.Generator().manual_seed(seed))
