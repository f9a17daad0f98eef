"""What decides a run's outcome, written down: the recipe, whose hash is the run's key.

Nothing here imports torch, so that a plan is made at once. Everything that could change a
number is part of a recipe: hyperparameters with their defaults filled in, the code of the
variant, the fingerprints of the data, the pretrained weights and the meaning of our own code.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import PurePath
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from dart.conditioning import CameraControl, EmbeddingKind
from dart.domains import DOMAINS

SEMANTICS = 1
"""Raised by hand whenever a change of ``dart`` would change the outcome of a recipe."""

ZERO_SHOT = "zero_shot"
"""The row of every study that is the pretrained network, untouched."""

Group = Literal[
    "everything",
    "adapters",
    "decoder",
    "scale_head",
    "encoder",
    "stage0",
    "stage1",
    "stage2",
    "stage3",
    "reassemble",
    "fuse",
    "output",
    "stem",
    "norms",
]
"""Parts of the network, from the whole to the finest: where several name a parameter, the last
decides its rate and when it begins to train."""
PARENT: Mapping[Group, Group] = MappingProxyType(
    {
        "adapters": "everything",
        "decoder": "everything",
        "scale_head": "everything",
        "encoder": "everything",
        "stage0": "encoder",
        "stage1": "encoder",
        "stage2": "encoder",
        "stage3": "encoder",
        "norms": "encoder",
        "stem": "stage0",
        "reassemble": "decoder",
        "fuse": "decoder",
        "output": "decoder",
    }
)
"""Group -> the one that holds it; ``norms`` cuts across the stages and the stem."""
Lens = Literal[
    "own",
    "narrow",
    "pinhole",
    "equidistant",
    "equisolid",
    "stereographic",
    "orthographic",
    "kannala_brandt",
]
MetricName = Literal[
    "abs_rel", "sq_rel", "rmse", "rmse_log", "si_log", "log10", "delta1", "delta2", "delta3"
]


def within(group: Group) -> tuple[Group, ...]:
    """Return a group and those that hold it, the finest first."""
    return (group, *within(PARENT[group])) if group in PARENT else (group,)


def overlap(one: Group, other: Group) -> bool:
    """Say whether two groups may have a parameter in common."""
    if one in within(other) or other in within(one):
        return True
    return "norms" in (one, other) and "encoder" in within(one) and "encoder" in within(other)


def _read_mapping(value: Any) -> Any:
    """Read ``encoder=0.5+stage3=0.25``: a factor's value is a text, never a mapping."""
    if not isinstance(value, str):
        return value
    if value in ("", "none"):
        return {}
    pairs = [part.strip().split("=") for part in value.split("+")]
    try:
        return {name.strip(): float(number) for name, number in pairs}
    except ValueError:
        raise ValueError(f"expected GROUP=NUMBER, joined by +, not {value!r}") from None


class Frozen(BaseModel):
    """A pydantic model that cannot change and refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


def is_domain_file(name: str) -> bool:
    """Say whether a name is that of a domain's file (``dart.data.domain_file``)."""
    return name.endswith((".yaml", ".yml"))


def domain_label(name: str) -> str:
    """Return what results call a domain: a file's name without folder and ending."""
    return PurePath(name).stem if is_domain_file(name) else name


class ProtocolSpec(Frozen):
    """What all variants of a study share: network, domains and metric."""

    pretrained: str = "rooms_small"
    """Name of a shipped checkpoint, or the path of a local one."""
    source: tuple[str, ...] = Field(default=("rooms_pinhole",), min_length=1, strict=False)
    """Domains to retain; forgetting is measured here."""
    target: str = "rooms_fisheye"
    """The domain to adapt to."""
    held_out: tuple[str, ...] = Field(default=("rooms_stereographic",), strict=False)
    """Domains never trained on."""
    metric: MetricName = "abs_rel"
    """The metric of the final table; every metric is recorded."""
    files: dict[str, str] = {}
    """Domain -> its file, where it has one; filled in from names that end in ``.yaml``."""

    @model_validator(mode="before")
    @classmethod
    def _name_files(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        files = dict(content.get("files", {}))

        def label(name: Any) -> Any:
            if not isinstance(name, str) or not is_domain_file(name):
                return name
            short = domain_label(name)
            if short in DOMAINS:
                raise ValueError(f"{name}: '{short}' is a built-in domain; rename the file")
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", short):
                raise ValueError(f"{name}: name a domain file with letters, digits, _ . and -")
            if files.setdefault(short, name) != name:
                raise ValueError(f"{name}: '{short}' is the name of {files[short]} already")
            return short

        named = {
            role: content[role] for role in ("source", "target", "held_out") if role in content
        }
        for role, names in named.items():
            listed = isinstance(names, list | tuple)
            named[role] = tuple(label(name) for name in names) if listed else label(names)
        return {**content, **named, "files": files}

    def locate(self, domain: str) -> str:
        """Return the file of a domain, or its name if it is built in."""
        return self.files.get(domain, domain)

    @model_validator(mode="after")
    def _domains_differ(self) -> Self:
        names = [*self.source, self.target, *self.held_out]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"domain {twice[0]!r} is named twice; source, target and held_out differ"
            )
        return self

    @property
    def roles(self) -> dict[str, str]:
        """Domain -> ``source``, ``target`` or ``held_out``."""
        roles = dict.fromkeys(self.source, "source")
        roles[self.target] = "target"
        return roles | dict.fromkeys(self.held_out, "held_out")


class TrainingSpec(Frozen):
    """How every variant of a study is trained: the same budget for all (docs/training.md)."""

    trainable: tuple[Group, ...] = Field(
        default=("adapters", "decoder", "scale_head"), min_length=1, strict=False
    )
    """Parameter groups that train; the others keep gradients off and stay in eval mode."""
    unfreeze: Annotated[
        dict[Group, Annotated[FiniteFloat, Field(ge=0, lt=1)]],
        Field(strict=False),
        BeforeValidator(_read_mapping),
    ] = {}
    """Group -> share of the steps after which it begins to train; from the start where absent."""
    steps: int = Field(default=400, ge=1, le=100_000_000)
    """Optimiser steps."""
    batch_size: int = Field(default=8, ge=1, le=65_536)
    """Images a step."""
    learning_rate: FiniteFloat = Field(default=1e-3, gt=0)
    """Peak learning rate of AdamW."""
    learning_rate_factors: Annotated[
        dict[Group, Annotated[FiniteFloat, Field(ge=0)]],
        Field(strict=False),
        BeforeValidator(_read_mapping),
    ] = {}
    """Factors on the learning rate for single groups; 1 where absent, the finest group decides."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate goes on after the warm-up: down to 0, or not."""
    warm_up: FiniteFloat = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly."""
    weight_decay: FiniteFloat = Field(default=0.0, ge=0)
    """AdamW's decoupled decay, on matrices only."""
    adam_eps: FiniteFloat = Field(default=1e-8, gt=0)
    """AdamW's epsilon; the seed's DAA has gradients below 1e-8 (docs/decisions.md)."""
    gradient_clip: FiniteFloat = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient."""
    loss: Literal["si_log", "log_l1", "rel_l1"] = "si_log"
    """Training loss: two on log distance, or the relative error itself (dart/training/loss.py)."""
    l2_sp: FiniteFloat = Field(default=0.0, ge=0)
    """Weight of the pull of all that trains towards where it began."""
    ewc: FiniteFloat = Field(default=0.0, ge=0)
    """Weight of the same pull in the metric of the Fisher information on source images."""
    mas: FiniteFloat = Field(default=0.0, ge=0)
    """Weight of the same pull by how much the answer on source images depends on a parameter."""
    lwf: FiniteFloat = Field(default=0.0, ge=0)
    """Weight of staying with what the pretrained network says about the target images."""
    fisher_images: int = Field(default=64, ge=1, le=65_536)
    """Source training images that ``ewc`` and ``mas`` look at, each, all there are if fewer."""
    replay: FiniteFloat = Field(default=0.0, ge=0, lt=1)
    """Share of source training images in every batch."""
    ema: FiniteFloat = Field(default=0.0, ge=0, lt=1)
    """Decay of the moving average of the weights, which is then measured and saved; 0: none."""
    stop_on_forgetting: FiniteFloat = Field(default=0.0, ge=0)
    """Relative forgetting on source validation images that ends training; 0: never."""
    interpolate: tuple[Annotated[FiniteFloat, Field(ge=0, le=1)], ...] = Field(
        default=(), strict=False
    )
    """Shares of the way from the weights before to those after, measured after training."""
    flip: bool = True
    """Mirror half of the training images, together with their cameras."""
    virtual_lenses: tuple[Lens, ...] = Field(default=(), strict=False)
    """Lenses, one of which is drawn for each target image; ``own`` keeps the picture, ``narrow``
    shows a part of it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's passes in training; weights, scan, distances and loss stay in float32.

    On a CPU without bfloat16 products take rounded numbers and run in float32, at its speed."""
    colour: FiniteFloat = Field(default=0.0, ge=0, le=1)
    """Strength of the random change of brightness, contrast and colour; 0 turns it off."""

    camera: CameraControl = "real"
    """What adapters are shown of the camera; the scale head always sees the real one."""
    embedding: EmbeddingKind = "fourier"
    """How adapters are shown it (dart/cameras/kinds.py); the scale head keeps ``fourier``."""

    @model_validator(mode="after")
    def _no_repeats(self) -> Self:
        for name in ("trainable", "virtual_lenses", "interpolate"):
            listed = getattr(self, name)
            twice = [value for value in listed if listed.count(value) > 1]
            if twice:
                raise ValueError(f"{name}: {twice[0]!r} stands twice")
        return self

    @model_validator(mode="after")
    def _unfrozen_trains(self) -> Self:
        for name in self.unfreeze:
            if not any(overlap(name, group) for group in self.trainable):
                raise ValueError(
                    f"unfreeze: '{name}' does not train; trainable: {', '.join(self.trainable)}"
                )
        return self

    @model_validator(mode="after")
    def _replay_is_whole(self) -> Self:
        if self.replay and self.replayed_images in (0, self.batch_size):
            raise ValueError(
                f"replay: {self.replay:g} of {self.batch_size} images is "
                f"{self.replayed_images}; a batch needs images of source and target"
            )
        return self

    @property
    def replayed_images(self) -> int:
        """Images of the source in a batch."""
        return math.floor(self.replay * self.batch_size + 0.5)

    @property
    def reads_source(self) -> bool:
        """Whether training looks at the source's training split."""
        return self.replay > 0 or self.ewc > 0 or self.mas > 0

    @property
    def trains_encoder(self) -> bool:
        """Whether any parameter of the encoder itself trains."""
        return any(overlap("encoder", group) for group in self.trainable)


class Recipe(Frozen):
    """One run, whole: the same recipe gives the same run."""

    variant: str
    hyperparameters: dict[str, bool | int | float | str] = {}
    """Every hyperparameter of the variant, defaults filled in."""
    variant_code: str = ""
    """Hash of the source of the variant's module, comments and docstrings left out."""
    protocol: ProtocolSpec = ProtocolSpec()
    training: TrainingSpec = TrainingSpec()
    seed: int = Field(default=0, ge=0)
    pretrained_sha256: str
    """Of the checkpoint's file."""
    data: dict[str, str]
    """Fingerprint of every split that the run reads: ``domain/split`` -> hash."""
    semantics: int = SEMANTICS

    @property
    def key(self) -> str:
        """The run's identity: sha256 of the recipe, without what only changes the final table."""
        content = self.model_dump(mode="json")
        content["protocol"].pop("metric")
        content["protocol"].pop("pretrained")  # the hash of its bytes stands for it
        content["protocol"].pop("files")  # and the fingerprints in ``data`` for these
        return canonical_hash(content)


def canonical_hash(content: Mapping[str, object]) -> str:
    """Return the sha256 of ``content`` as JSON with sorted keys.

    Raises:
        ValueError: For NaN and infinity, which JSON cannot hold.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
