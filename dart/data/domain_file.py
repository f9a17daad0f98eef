"""Domains that users bring: a YAML file that says where the data lies and how it is split.

Its name can stand wherever a built-in domain's can. Torch-free, so that a plan can name a domain
and its data at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from dart.data.identity import hash_files
from dart.data.sets import FORMATS
from dart.data.sets.paths import resolve_inside
from dart.data.sets.table import read_table
from dart.domains import DomainSpec
from dart.domains import check_domain as check_built_in
from dart.domains import fingerprint as fingerprint_built_in
from dart.errors import UserError, did_you_mean
from dart.recipe import Frozen, canonical_hash, domain_label, is_domain_file

SplitName = Literal["train", "val", "test"]


class SplitRule(Frozen):
    """Which frames a split has: of one of the format's splits, some scenes or a share of them."""

    of: str | None = None
    """One of the format's splits; every frame of the data set unless given."""
    scenes: tuple[str, ...] | None = Field(default=None, strict=False, min_length=1)
    """Names of scenes."""
    fraction: float | None = Field(default=None, gt=0, le=1, strict=False)
    """Share of the scenes that no list names, drawn by their names' hash."""

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.scenes is not None and self.fraction is not None:
            raise ValueError("give 'scenes' or 'fraction', not both")
        return self


class DomainFileSpec(Frozen):
    """What a domain file may say; paths are relative to the file."""

    format: str
    """How the data lies on disk: one of the formats of ``dart.data.sets``."""
    path: str = Field(min_length=1)
    """The data set's folder, or the file that holds or lists it."""
    splits: dict[SplitName, SplitRule] = Field(min_length=1)
    """Split -> a split of the format, a list of scenes, a share of scenes, or a whole rule."""
    size: tuple[int, int] | None = Field(default=None, strict=False)
    """Height and width in pixels that frames are resized and padded to."""
    camera: str | None = None
    """Calibration file of a lens that every frame is warped into."""
    options: dict[str, Any] = Field(default={})
    """What the format takes besides."""
    cache_mib: float = Field(default=1024, ge=0, strict=False)
    """Memory for decoded frames in MiB; 0 reads every frame anew."""
    identity: Literal["contents", "stamps"] = "contents"
    """What tells that data changed: the files' contents, or only their sizes and times."""

    @field_validator("splits", mode="before")
    @classmethod
    def _short_forms(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        return {name: _rule(value) for name, value in content.items()}

    @field_validator("size")
    @classmethod
    def _large_enough(cls, size: tuple[int, int] | None) -> tuple[int, int] | None:
        if size is not None and min(size) < 32:
            raise ValueError("both sides must be at least 32 pixels")
        return size

    @model_validator(mode="after")
    def _has_size(self) -> Self:
        if self.size is None and self.camera is None:
            raise ValueError("'size: [height, width]' is missing; only a 'camera' can stand for it")
        return self


def _rule(value: Any) -> Any:
    if isinstance(value, str):
        return {"of": value}
    if isinstance(value, list):
        return {"scenes": value}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"fraction": value}
    return value


@dataclass(frozen=True)
class FileDomain:
    """A checked domain file."""

    name: str
    """The file's name without its ending: what results call the domain."""
    file: Path
    spec: DomainFileSpec

    @property
    def path(self) -> Path:
        """Where the data lies."""
        return self.file.parent / self.spec.path

    @property
    def camera(self) -> Path | None:
        """The calibration file of the lens that frames are warped into."""
        return None if self.spec.camera is None else self.file.parent / self.spec.camera

    def rule(self, split: str) -> SplitRule:
        """Return what a split consists of.

        Raises:
            UserError: the file has no such split.
        """
        rules = {str(name): rule for name, rule in self.spec.splits.items()}
        if split not in rules:
            raise UserError(f"{self.file}: splits: there is no '{split}', only {', '.join(rules)}")
        return rules[split]


def read_domain_file(path: str | Path) -> FileDomain:
    """Return the domain of a YAML file, checked as far as that is possible without its data.

    Raises:
        UserError: the file cannot be read, is incomplete or wrong, or its data is not there.
    """
    path = Path(path)
    try:
        spec = DomainFileSpec.model_validate(_read(path))
    except ValidationError as error:
        raise UserError(f"{path}: {_describe(error)}") from None
    if spec.format not in FORMATS:
        raise UserError(
            f"{path}: format: unknown format '{spec.format}', allowed are {', '.join(FORMATS)}"
            f"{did_you_mean(spec.format, FORMATS)}"
        )
    domain = FileDomain(domain_label(str(path)), path, spec)
    for name, place in (("path", domain.path), ("camera", domain.camera)):
        if place is not None and not place.exists():
            raise UserError(f"{path}: {name}: there is no {place}")
    return domain


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such domain file") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable YAML file ({reason})") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: a domain file is a mapping with format, path, size and splits")
    return content


def _describe(error: ValidationError) -> str:
    """Return one line for the first mistake, an unknown key before others."""
    mistakes = error.errors(include_url=False)
    unknown = [mistake for mistake in mistakes if mistake["type"] == "extra_forbidden"]
    first = (unknown or mistakes)[0]
    parts = [str(part) for part in first["loc"] if part != "[key]"]
    place = ".".join(parts)
    reason = " ".join(first["msg"].removeprefix("Value error, ").split())
    if first["type"] == "missing":
        return f"'{place}' is missing"
    if first["type"] == "extra_forbidden":
        fields = list((SplitRule if len(parts) > 1 else DomainFileSpec).model_fields)
        hint = did_you_mean(parts[-1], fields)
        return f"unknown key '{place}', allowed are {', '.join(fields)}{hint}"
    shown = "" if first["type"] == "value_error" else f", not {first['input']!r}"[:80]
    return f"{place}: {reason}{shown}" if place else reason


def find_domain(name: str, *, where: str = "domain") -> DomainSpec | FileDomain:
    """Return a built-in domain, or the domain of a file.

    Raises:
        UserError: there is no such domain, or its file is wrong.
    """
    if not is_domain_file(name):
        return check_built_in(name, where=where)
    try:
        return read_domain_file(name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def fingerprint(name: str, split: str) -> str:
    """Return a text that changes whenever a split's frames do.

    For a domain file: what it says (not where the data lies), the split, and the names and
    contents of the data set's files; a manifest's are those that it names.

    Raises:
        UserError: the data is not there or cannot be read.
    """
    if not is_domain_file(name):
        return fingerprint_built_in(name, split)
    domain = read_domain_file(name)
    domain.rule(split)
    told = domain.spec.model_dump(mode="json", exclude={"path", "camera", "cache_mib", "identity"})
    if domain.camera is not None:
        told["camera"] = sha256(domain.camera.read_bytes()).hexdigest()
    skip = domain.spec.options.get("on_missing") == "skip"
    files = hash_files(
        domain.path if domain.path.is_dir() else domain.path.parent,
        sorted(set(_files(domain))),
        method=domain.spec.identity,
        skip_missing=skip,
    )
    return canonical_hash({"domain": told, "split": split, "files": files})


def _files(domain: FileDomain) -> Iterator[str]:
    """Yield the data set's files, relative to its folder."""
    path = domain.path
    if domain.spec.format == "manifest":
        yield path.name
        table = read_table(path, defaults=domain.spec.options.get("defaults"))
        for row, place in zip(table.rows, table.places, strict=True):
            for name in row.files():
                resolve_inside(path.parent, name, where=place)
                yield name
    elif path.is_dir():
        for file in path.rglob("*"):
            relative = file.relative_to(path)
            if file.is_file() and not any(part.startswith(".") for part in relative.parts):
                yield relative.as_posix()
    else:  # one container, with its lists of splits beside it
        yield from (file.name for file in path.parent.glob(f"*{path.suffix}") if file.is_file())
