"""What explains a run's two numbers: errors by viewing angle, on the way, and what moved.

All of it is written beside a run's result and none of it changes the result: nothing is drawn from
a generator and nothing is left in train mode.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor, nn

from dart.angles import RING_DEGREES
from dart.cameras import Camera


def polar_degrees(camera: Camera) -> Float[ndarray, "h w"]:
    """Return the angle in degrees between each pixel's ray and the optical axis."""
    rays = camera.rays().double()
    sine = torch.linalg.vector_norm(rays[..., :2], dim=-1)
    return np.degrees(torch.atan2(sine, rays[..., 2]).numpy())


def measure_rings(
    predicted: Float[ndarray, "h w"],
    true: Float[ndarray, "h w"],
    valid: Bool[ndarray, "h w"],
    polar: Float[ndarray, "h w"],
) -> pd.DataFrame:
    """Return every metric over the valid pixels of each ring of polar angle.

    The metrics are those of ``dart.metrics``, computed for all rings at once.

    Args:
        predicted: Distance in metres.
        true: Distance in metres.
        valid: Which pixels count.
        polar: Degrees from the optical axis.

    Returns:
        One row a ring with valid pixels and metric: ``ring`` (its inner edge in degrees),
        ``pixels``, ``metric``, ``value``.
    """
    rings = (polar[valid] // RING_DEGREES).astype(np.int64)
    p, d = predicted[valid].astype(np.float64), true[valid].astype(np.float64)
    counts = np.bincount(rings)
    used = np.flatnonzero(counts)

    def mean(values: Float[ndarray, " n"]) -> Float[ndarray, " r"]:
        return np.bincount(rings, values)[used] / counts[used]

    log = np.log(p / d)
    ratio = np.maximum(p / d, d / p)
    values = {
        "abs_rel": mean(np.abs(p - d) / d),
        "sq_rel": mean((p - d) ** 2 / d),
        "rmse": np.sqrt(mean((p - d) ** 2)),
        "rmse_log": np.sqrt(mean(log**2)),
        "si_log": 100 * np.sqrt((mean(log**2) - mean(log) ** 2).clip(min=0)),
        "log10": mean(np.abs(log)) / math.log(10),
        **{f"delta{k}": mean((ratio < 1.25**k).astype(np.float64)) for k in (1, 2, 3)},
    }
    return pd.DataFrame(
        {
            "ring": np.tile(used * RING_DEGREES, len(values)),
            "pixels": np.tile(counts[used], len(values)),
            "metric": np.repeat(list(values), len(used)),
            "value": np.concatenate(list(values.values())),
        }
    )


def copy_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter that trains, by name."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def measure_updates(before: Mapping[str, Tensor], model: nn.Module) -> pd.DataFrame:
    """Return how far each trained parameter moved: what shows that an adapter is inert.

    Args:
        before: From ``copy_parameters``, before training.
        model: The trained one.

    Returns:
        One row a parameter: ``part`` (``adapters.0``, ``decoder``, ...), ``parameter``, ``count``,
        ``initial`` and ``update`` (root mean squares over its entries, of the first values and of
        the change) and ``relative`` (their ratio; not a number where it began at zero).
    """
    rows = []
    after = dict(model.named_parameters())
    for name, first in before.items():
        change = (after[name].detach() - first).double()
        part, rest = _split_name(name)
        initial, update = _root_mean_square(first.double()), _root_mean_square(change)
        relative = update / initial if initial > 0 else math.nan
        rows.append((part, rest, first.numel(), initial, update, relative))
    columns = ["part", "parameter", "count", "initial", "update", "relative"]
    return pd.DataFrame(rows, columns=columns)


def _split_name(name: str) -> tuple[str, str]:
    """Split a parameter's name into its part of the network and the rest."""
    first, _, rest = name.partition(".")
    if first != "adapters":
        return first, rest
    index, _, rest = rest.partition(".")
    return f"{first}.{index}", rest


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def choose_steps(steps: int, *, points: int = 5) -> frozenset[int]:
    """Return after how many steps a curve is measured: evenly, the last step included."""
    return frozenset(round(steps * (i + 1) / points) for i in range(points)) - {0}


def spread(count: int, *, most: int) -> Sequence[int]:
    """Return at most ``most`` positions, evenly over ``range(count)``."""
    kept = min(count, most)
    return [i * count // kept for i in range(kept)]


@contextmanager
def watch_adapters(model: nn.Module) -> Iterator[dict[str, Float[ndarray, "h w"]]]:
    """Fill a mapping with what each adapter does over one image that the network then sees.

    ``stageI/residual`` is the norm of the residual over that of the features, token by token.
    Where an adapter merges attentions in a ``mix``, ``stageI/attention`` is the share of a token's
    attention that its foremost query has (mean over heads): one over the number of queries where
    the adapter cannot tell them apart. Where the mix weighs tokens, ``stageI/gate`` is the trust in
    the camera's attention (mean over heads).
    """
    maps: dict[str, Float[ndarray, "h w"]] = {}
    hooks = []
    for index, adapter in enumerate(getattr(model, "adapters", ())):
        stage, seen = f"stage{index}", {}
        mix = getattr(adapter, "mix", None)
        if isinstance(mix, nn.Module):
            hooks.append(mix.register_forward_hook(_keep(seen, "attention", _foremost)))
            weigh = getattr(mix, "weigh", None)
            if isinstance(weigh, nn.Module):
                hooks.append(weigh.register_forward_hook(_keep(seen, "gate", _trust)))
        hooks.append(adapter.register_forward_hook(_record(maps, stage, seen)))
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def _record(
    maps: dict[str, Float[ndarray, "h w"]], stage: str, seen: dict[str, Tensor]
) -> Callable[..., None]:
    def hook(_adapter: nn.Module, inputs: tuple[Any, ...], residual: Tensor) -> None:
        features = inputs[0]
        if not isinstance(features, Tensor):  # a tuner: nothing is added to the stage's map
            return
        norms = [torch.linalg.vector_norm(x[0].float(), dim=0) for x in (residual, features)]
        size = norms[1].shape
        maps[f"{stage}/residual"] = (norms[0] / norms[1].clamp_min(1e-12)).cpu().numpy()
        for name, values in seen.items():
            if values.numel() == size.numel():
                maps[f"{stage}/{name}"] = values.reshape(size).float().cpu().numpy()

    return hook


def _keep(seen: dict[str, Tensor], name: str, reduce: Any) -> Any:
    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[name] = reduce(output)

    return hook


def _foremost(attention: Float[Tensor, "b k q n"]) -> Float[Tensor, " n"]:
    total = attention[0].sum(dim=-2).clamp_min(1e-12)
    return (attention[0].amax(dim=-2) / total).mean(dim=0)


def _trust(logits: Float[Tensor, "b n k"]) -> Float[Tensor, " n"]:
    return logits[0].sigmoid().mean(dim=-1)
