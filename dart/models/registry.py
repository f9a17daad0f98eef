"""Variants by name: a function under ``@register_variant`` is one, its name is the variant's."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from dart.checkpoint_header import hash_checkpoint, read_metadata, resolve_checkpoint
from dart.conditioning import Conditioning
from dart.errors import UserError
from dart.models.adapters import Stage
from dart.models.depth_net import DepthNet, build_encoder, isolated_seed, list_stages
from dart.models.network_config import NetworkConfig
from dart.models.state_files import load_pretrained_state
from dart.variants import (
    ENTRY_POINT_GROUP,
    VariantInfo,
    check_declaration,
    check_hyperparameters,
    read_function,
    scan_variants,
    unknown_variant,
)

Build = Callable[..., nn.Module | None]
Scalar = int | float | bool | str
_Function = TypeVar("_Function", bound=Build)

_VARIANTS: dict[str, tuple[VariantInfo, Build]] = {}
_LOADED: set[str] = set()


def register_variant(
    *,
    hypothesis: str,
    compare_to: str | None = None,
    starts_at_identity: bool = True,
    uses_camera: bool = True,
) -> Callable[[_Function], _Function]:
    """Register the decorated function as the variant of its name.

    The function takes a ``Stage`` and, by keyword, its hyperparameters (int, float, bool, str or
    ``Literal[...]``, each with a default); it returns the adapter of that stage, or None for
    none. The adapter maps features and camera embedding to the residual, or is a ``Tuner``. It may
    say ``sees_rays = True`` to be given unit rays (x, y, z) in the place of the embedding, or
    ``"too"`` to be given them behind it, and ``feeds_next_stage = False`` for a residual that the
    decoder alone gets.

    Args:
        hypothesis: What the variant should show, in one sentence.
        compare_to: The variant whose difference from this one tests the hypothesis.
        starts_at_identity: Whether the network is exactly the pretrained one before training.
        uses_camera: Whether the adapter looks at the camera at all.

    Raises:
        ValueError: The name is taken or reserved, or an argument could not stand in a study.
    """

    def register(build: _Function) -> _Function:
        name = build.__name__
        # The run-time shape checker wraps functions: the file is that of the wrapped one.
        source = inspect.unwrap(build)
        file = Path(inspect.getsourcefile(source) or "<unknown>")
        where = f"{file}:{source.__code__.co_firstlineno}"
        if name in _VARIANTS:
            raise UserError(
                f"{where}: variant '{name}' is already in {_VARIANTS[name][0].source_file}"
            )
        check_declaration(name, hypothesis, where=where)
        info = VariantInfo(
            name=name,
            hypothesis=hypothesis,
            compare_to=compare_to,
            hyperparameters=read_function(build, where=where),
            source_file=str(file),
            code="",
            starts_at_identity=starts_at_identity,
            uses_camera=uses_camera,
            module=build.__module__,
        )
        _VARIANTS[name] = (info, build)
        return build

    return register


def list_variants() -> list[str]:
    """Return the names of all variants, sorted."""
    _load_entry_points()
    return sorted(_VARIANTS)


def variant_info(name: str) -> VariantInfo:
    """Return what is known of a variant.

    Raises:
        UserError: There is no such variant.
    """
    info, _ = _find(name)
    scanned = scan_variants().get(name)
    return info if scanned is None else replace(info, code=scanned.code)


def create_model(
    variant: str,
    *,
    config: NetworkConfig | None = None,
    pretrained: str | Path | None = None,
    generator: torch.Generator | None = None,
    conditioning: Conditioning | None = None,
    **hyperparameters: Scalar,
) -> DepthNet:
    """Return the network with a variant's adapters.

    Args:
        variant: Name of a registered variant.
        config: The network; the checkpoint's own unless given.
        pretrained: Name or path of a checkpoint for encoder, decoder and scale head, which
            otherwise start at random.
        generator: Decides all first weights; one number is drawn from it. Each component has its
            own stream, so that two variants start from the same decoder. Seed 0 unless given.
        conditioning: What adapters are shown of the camera; the real one, in Fourier features of
            its angles, unless given. A variant that looks at no camera takes any.
        **hyperparameters: The variant's keyword-only arguments.

    Raises:
        UserError: The variant, a hyperparameter or the checkpoint is not what it should be.
    """
    info, _ = _find(variant)
    # Before the network is built, which takes a second.
    values = check_hyperparameters(info, hyperparameters)
    if pretrained is not None:
        pretrained = str(pretrained)
        config = _config_of(pretrained, config)
    config = NetworkConfig() if config is None else config
    seed = 0
    if generator is not None:
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    encoder = build_encoder(config, seed=seed)
    model = DepthNet(config, encoder=encoder, seed=seed, conditioning=conditioning)
    if pretrained is not None:
        load_pretrained_state(model, resolve_checkpoint(pretrained))
        model.pretrained = (pretrained, hash_checkpoint(pretrained))
    # After the weights are loaded: some adapters are built from the layers that they change.
    put_adapters(model, variant, seed=seed, **values)
    return model


def put_adapters(
    model: DepthNet, variant: str, *, seed: int = 0, **hyperparameters: Scalar
) -> None:
    """Give a network the adapters of a variant in the place of those that it has.

    Raises:
        UserError: As ``create_model``; the network keeps what it had.
    """
    info, build = _find(variant)
    values = check_hyperparameters(info, hyperparameters)
    adapters = [_build_adapter(build, stage, values, seed) for stage in list_stages(model)]
    if variant != "none" and all(adapter is None for adapter in adapters):
        raise UserError(
            f"variant '{variant}' gives no adapter at any stage of encoder "
            f"'{model.config.encoder}': there is nothing that it could change"
        )
    model.adapt(adapters)
    model.variant, model.hyperparameters = variant, values


def _build_adapter(
    build: Build, stage: Stage, values: dict[str, Scalar], seed: int
) -> nn.Module | None:
    with isolated_seed(seed, "adapters", stage.index):
        return build(stage, **values)


def _config_of(checkpoint: str, config: NetworkConfig | None) -> NetworkConfig:
    metadata = read_metadata(checkpoint)
    if metadata["kind"] != "pretrained":
        raise UserError(
            f"checkpoint '{checkpoint}' is of kind '{metadata['kind']}'; a network starts from "
            "kind 'pretrained'"
        )
    own = NetworkConfig.from_dict(metadata.get("config", {}), where=f"checkpoint '{checkpoint}'")
    if config is None:
        return own
    for name in ("encoder", "decoder_channels", "camera_dim", "scale_dim"):
        if getattr(config, name) != getattr(own, name):
            raise UserError(
                f"checkpoint '{checkpoint}' has {name}={getattr(own, name)!r}, "
                f"the network asked for has {getattr(config, name)!r}"
            )
    return config


def _find(name: str) -> tuple[VariantInfo, Build]:
    if name not in _VARIANTS:
        _load_entry_points()
    if name not in _VARIANTS:
        raise unknown_variant(name, _VARIANTS)
    return _VARIANTS[name]


def _load_entry_points() -> None:
    """Import what the entry points name, and every module in which the scan finds a variant."""
    modules = {entry.module for entry in entry_points(group=ENTRY_POINT_GROUP)}
    modules |= {info.module for info in scan_variants().values()}
    for module in sorted(modules - _LOADED):
        try:
            import_module(module)
        except ImportError as error:
            raise UserError(f"entry point of group '{ENTRY_POINT_GROUP}': {error}") from error
        _LOADED.add(module)
