"""The weights under which the reference numbers of TinyViM were computed: each from its own key."""

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

import dart.models.tinyvim  # noqa: F401 (registers the models)

DATA = Path(__file__).parents[1] / "golden" / "data"


def reference_keys(kind: str) -> dict[str, tuple[int, ...]]:
    """Shape per key of the ``cls`` or the ``fork`` model, in the order of the file."""
    shapes = {}
    for line in (DATA / "tinyvim_s_keys.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        key, shape, _, _, where = line.split("\t")
        if where in ("both", kind):
            shapes[key] = tuple(int(side) for side in shape.strip("()").split(",") if side.strip())
    return shapes


def create_tinyvim(name: str, **options: Any) -> Any:
    return timm.create_model(name, **options)


def reference_weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    if key.endswith("num_batches_tracked"):
        return np.array(7)
    random = np.random.RandomState(zlib.crc32(key.encode()))
    uniform = {"running_var": (0.6, 1.6), "layer_scale": (0.2, 0.6), "dt_projs_bias": (-6.8, -2.3)}
    uniform |= {"weight": (0.5, 1.2)} if len(shape) == 1 else {}
    for end, (low, high) in uniform.items():
        if key.endswith(end):
            return random.uniform(low, high, shape)
    return _from_normal(key, random.standard_normal(shape))


def _from_normal(key: str, normal: np.ndarray) -> np.ndarray:
    if key.endswith("A_logs"):
        return np.log(np.arange(1, normal.shape[1] + 1)) + 0.2 * normal
    if key.endswith("Ds"):
        return 1 + 0.3 * normal
    if key.endswith(("x_proj_weight", "dt_projs_weight")):
        return normal * normal.shape[-1] ** -0.5
    return 0.2 * normal if normal.ndim == 1 else normal * math.prod(normal.shape[1:]) ** -0.5


def reference_state(model: Any) -> dict[str, Tensor]:
    return {
        key: torch.from_numpy(np.asarray(reference_weight(key, tuple(value.shape)))).to(value.dtype)
        for key, value in model.state_dict().items()
    }


def relative_l2(value: Tensor, reference: Tensor | np.ndarray) -> float:
    expected = torch.as_tensor(reference, dtype=torch.float64)
    return float((value.detach().double() - expected).norm() / expected.norm())
