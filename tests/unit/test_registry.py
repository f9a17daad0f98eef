# ruff: noqa: ARG001, ARG002  a variant need not use what it is given
"""Registering variants and creating networks by name."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points

import pytest
import torch
from torch import nn

from dart.errors import UserError
from dart.models import create_model, list_variants, register_variant, registry, variant_info
from dart.variants import ENTRY_POINT_GROUP


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def _forget_what_a_test_registers() -> Iterator[None]:
    list_variants()
    before = dict(registry._VARIANTS)
    yield
    registry._VARIANTS.clear()
    registry._VARIANTS.update(before)


class Scale(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))

    def forward(self, features, camera):
        return features * self.weight.mean()


def test_our_variants_come_through_the_entry_point() -> None:
    assert "experiments" in {e.module for e in entry_points(group=ENTRY_POINT_GROUP)}
    assert {"none", "daa"} <= set(list_variants())


def test_a_registered_variant_can_be_created() -> None:
    @register_variant(hypothesis="It works.")
    def early_only(stage, *, size: int = 3):
        """Only the first stage has an adapter."""
        return Scale(size) if stage.index == 0 else None

    model = create_model("early_only", size=5)
    assert [p.numel() for p in model.adapters.parameters()] == [5]
    assert (model.variant, model.hyperparameters) == ("early_only", {"size": 5})
    assert variant_info("early_only").hyperparameters["size"].default == 3
    assert "early_only" in list_variants()


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match=r"test_registry\.py:\d+: variant 'daa' is already in"):

        @register_variant(hypothesis="It works.")
        def daa(stage):
            return None


@pytest.mark.parametrize(
    ("name", "hypothesis", "message"),
    [
        ("zero_shot", "It works.", "'zero_shot' is reserved"),
        ("mine", "It works", "must be one sentence"),
        ("mine", "It works. It does.", "must be one sentence"),
    ],
)
def test_a_declaration_is_checked(name: str, hypothesis: str, message: str) -> None:
    def build(stage):
        return None

    build.__name__ = name
    with pytest.raises(UserError, match=message):
        register_variant(hypothesis=hypothesis)(build)


def test_hyperparameters_need_a_type_and_a_default() -> None:
    with pytest.raises(UserError, match="hyperparameter 'size' needs a default"):

        @register_variant(hypothesis="It works.")
        def first(stage, *, size: int):
            return None

    with pytest.raises(UserError, match="hyperparameter 'size' has type list; allowed: int"):

        @register_variant(hypothesis="It works.")
        def second(stage, *, size: list = []):  # noqa: B006
            return None


def test_unknown_variant_and_hyperparameter() -> None:
    with pytest.raises(UserError, match=r"no variant 'daa_gatd'; there are: .*mean 'daa_gated'"):
        create_model("daa_gatd")
    with pytest.raises(UserError, match="no variant 'daa_gatd'"):
        variant_info("daa_gatd")
    with pytest.raises(UserError, match=r"has no hyperparameter 'num_query'; .*'num_queries'"):
        create_model("daa", num_query=3)
    with pytest.raises(UserError, match=r"heads=5 does not divide the 48 channels of stage 0"):
        create_model("daa_multi_head", heads=5)


def test_a_package_that_does_not_import(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "their_broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("theirs", "their_broken", ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda **_: [entry])
    with pytest.raises(UserError, match="No module named 'a_module_that_is_not_there'"):
        list_variants()


def test_creation_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    create_model("daa", generator=seeded(0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_heads_are_paired_across_variants_and_differ_across_seeds() -> None:
    plain, adapted, other = (
        create_model("none", generator=seeded(0)).state_dict(),
        create_model("daa", generator=seeded(0), num_queries=16).state_dict(),
        create_model("none", generator=seeded(1)).state_dict(),
    )
    for key, value in plain.items():
        assert torch.equal(value, adapted[key])
    for part in ("encoder", "decoder", "scale_head"):
        keys = [key for key in plain if key.startswith(part)]
        assert any(not torch.equal(plain[key], other[key]) for key in keys)


def test_an_adapter_starts_the_same_whatever_stands_at_other_stages() -> None:
    @register_variant(hypothesis="It works.")
    def all_stages(stage):
        return Scale(stage.channels)

    @register_variant(hypothesis="It works.")
    def last_stage(stage):
        return Scale(stage.channels) if stage.index == 3 else None

    models = [create_model(name, generator=seeded(0)) for name in ("all_stages", "last_stage")]
    first, second = (model.adapters[3].get_parameter("weight") for model in models)
    assert torch.equal(first, second)
