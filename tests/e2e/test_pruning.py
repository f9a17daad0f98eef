"""Real training that is looked at on its way: the same numbers, and an end where it is told to."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dart.errors import Pruned
from dart.protocol import run_recipe
from dart.recipe import ProtocolSpec, TrainingSpec
from dart.studies.plan import create_recipe


class Look:
    """Keeps what it is shown, and ends the run after ``last`` steps."""

    steps = (1, 2)

    def __init__(self, last: int) -> None:
        self.last = last
        self.shown: dict[int, set[str]] = {}

    def __call__(self, step: int, points: Sequence[tuple[int, str, str, str, float]]) -> None:
        self.shown[step] = {role for _, _, role, _, _ in points}
        if step == self.last:
            raise Pruned(step)


def test_rungs_change_no_number_and_may_end_a_run(tmp_path: Path) -> None:
    training = TrainingSpec(steps=3, batch_size=1)
    protocol = ProtocolSpec(held_out=())
    recipe = create_recipe("daa_zero_init", {"num_queries": 8}, protocol, training, 0)
    weights = []
    for name, look in (("plain", None), ("looked", Look(9))):
        folder = tmp_path / name
        folder.mkdir()
        run_recipe(recipe, folder, results=tmp_path, rungs=look)
        weights.append(load_file(folder / "adapter.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert look is not None
    assert look.shown == {1: {"source", "target"}, 2: {"source", "target"}}
    ended = tmp_path / "ended"
    ended.mkdir()
    with pytest.raises(Pruned, match="after 1 steps"):
        run_recipe(recipe, ended, results=tmp_path, rungs=Look(1))
    assert not (ended / "result.json").exists()
