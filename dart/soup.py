"""The mean of what several seeds trained, measured like a run.

Weights can be averaged where the runs began at one place and stayed in one basin. Adapters whose
first weights are random begin at another place for every seed, and their mean may be worth nothing:
the measurement says which it is.

Source: uniform soup, Wortsman et al. 2022, arXiv 2203.05482.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dart.errors import UserError
from dart.measuring import Measurements, summarize_domains
from dart.metrics import compare
from dart.models.checkpoint import save_adapter
from dart.models.state_files import read_state
from dart.protocol import load_network
from dart.recipe import Recipe
from dart.training.freeze import count_trainable, set_trainable


def average_states(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each tensor, taken in double precision.

    Raises:
        UserError: The states hold different tensors.
    """
    first, *others = states
    if any(
        {n: v.shape for n, v in s.items()} != {n: v.shape for n, v in first.items()} for s in others
    ):
        raise UserError("the runs trained different parameters; a soup needs the same ones")
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        for name, value in first.items()
    }


def check_alike(recipes: Sequence[Recipe]) -> None:
    """Refuse recipes that differ in more than their seed.

    Raises:
        UserError: They do, or there are fewer than two.
    """
    if len(recipes) < 2:
        raise UserError(f"a soup needs runs of at least 2 seeds, there are {len(recipes)}")
    contents = [recipe.model_dump(mode="json", exclude={"seed"}) for recipe in recipes]
    for content in contents[1:]:
        for name, value in content.items():
            if value != contents[0][name]:
                raise UserError(f"a soup needs runs of one recipe; these differ in '{name}'")


@torch.no_grad()
def make_soup(
    recipes: Sequence[Recipe], files: Sequence[Path], folder: Path, *, results: Path, device: str
) -> dict[str, Any]:
    """Average the adapters in ``files``, measure the mean, write it into ``folder``.

    Args:
        recipes: Of the runs.
        files: Their ``adapter.safetensors``, in the same order.
        folder: Gets ``adapter.safetensors``, ``per_image.parquet`` and ``result.json``.
        results: Root of all results; holds the measurements before adaptation.

    Returns:
        The content of ``result.json``.

    Raises:
        UserError: The recipes differ in more than the seed, or a file cannot be read.
    """
    check_alike(recipes)
    mean, recipe, where = average_states([read_state(file) for file in files]), recipes[0], device
    model = load_network(recipe, torch.device(where))
    set_trainable(model, recipe.training.trainable)
    model.adapters_enabled = False
    measurements = Measurements(model, recipe, results=results, device=torch.device(where))
    model.adapters_enabled = True
    own = model.state_dict()
    for name, value in mean.items():
        own[name].copy_(value)
    errors, _ = measurements.errors(model)
    domains = summarize_domains(errors, split="test")
    validation = summarize_domains(errors, split="val")
    metric = recipe.protocol.metric
    result = {
        "variant": recipe.variant,
        "hyperparameters": recipe.hyperparameters,
        "seeds": [one.seed for one in recipes],
        "keys": [one.key for one in recipes],
        "metric": metric,
        "trainable_parameters": count_trainable(model),
        "domains": domains,
        **compare(domains, metric),
        "validation": compare(validation, metric),
        "validation_domains": validation,
    }
    folder.mkdir(parents=True, exist_ok=True)
    recorded = {"recipe": recipe.model_dump_json(), "soup": result["keys"]}
    save_adapter(model, folder / "adapter.safetensors", metadata=recorded)
    errors.to_parquet(folder / "per_image.parquet", index=False)
    (folder / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False))
    return result
