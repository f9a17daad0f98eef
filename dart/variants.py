"""What variants exist and what they take, read without importing any of them.

A study is planned in a fraction of a second, so names and hyperparameters are read from the
source text: the packages named by the entry-point group ``dart.variants`` are parsed, never run.
``dart.models.registry`` holds the same descriptions beside the functions themselves.
"""

import ast
import hashlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from dart.errors import UserError, did_you_mean

ENTRY_POINT_GROUP = "dart.variants"
RESERVED_NAMES = ("zero_shot",)
"""Rows of every study that no variant may be called."""

COUNTS = ("rank", "heads", "groups", "channels")
"""Hyperparameters that count things though their names do not begin with ``num_``."""
MOST = 1_000_000

_TYPES: Mapping[str, type] = {"int": int, "float": float, "bool": bool, "str": str}


@dataclass(frozen=True)
class Hyperparameter:
    """One keyword-only argument of a variant."""

    name: str
    type: str
    """``int``, ``float``, ``bool`` or ``str``."""
    default: int | float | bool | str
    choices: tuple[Any, ...] = ()
    """The values allowed; empty where every value of the type is."""

    def check(self, value: object) -> int | float | bool | str:
        """Return ``value`` in this hyperparameter's type.

        Raises:
            UserError: The value has another type, is not finite, or is not among the choices.
        """
        if self.choices:
            if not any(value == choice and type(value) is type(choice) for choice in self.choices):
                allowed = [str(choice) for choice in self.choices]
                raise UserError(
                    f"must be one of {', '.join(map(repr, self.choices))}, got {value!r}"
                    f"{did_you_mean(str(value), allowed)}"
                )
            return value  # pyright: ignore[reportReturnType]
        if self.type == "float" and type(value) is int:
            value = float(value)
        if type(value) is not _TYPES[self.type]:
            raise UserError(f"must be {self.type}, got {value!r} ({type(value).__name__})")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"must be finite, got {value!r}")
        if self.is_count and not 1 <= value <= MOST:  # pyright: ignore[reportOperatorIssue]
            raise UserError(f"counts something and must be from 1 to {MOST}, got {value!r}")
        return value  # pyright: ignore[reportReturnType]

    @property
    def is_count(self) -> bool:
        """Say whether it is a number of things, as its name tells: ``num_*``, ``*_dim``, ..."""
        name = self.name
        return self.type == "int" and (
            name.startswith("num_") or name.endswith("_dim") or name in COUNTS
        )


@dataclass(frozen=True)
class VariantInfo:
    """What a study needs to know about a variant."""

    name: str
    hypothesis: str
    """One sentence."""
    compare_to: str | None
    """The variant whose difference from this one tests the hypothesis."""
    hyperparameters: dict[str, Hyperparameter]
    source_file: str
    code: str
    """Identity of the source: it changes with the code, not with comments or docstrings."""
    starts_at_identity: bool = True
    uses_camera: bool = True
    module: str = ""
    """Importing this registers the variant."""


def check_hyperparameters(
    info: VariantInfo, values: Mapping[str, object], *, where: str = ""
) -> dict[str, int | float | bool | str]:
    """Return all hyperparameters of a variant, defaults filled in, in the order declared.

    Args:
        info: The variant.
        values: Those that were set.
        where: The place that set them, as ``studies/x.yaml: variants.daa``; begins the message.

    Raises:
        UserError: A name is unknown or a value has the wrong type.
    """
    prefix = f"{where}: " if where else ""
    known = info.hyperparameters
    for name in values:
        if name not in known:
            has = f"it has: {', '.join(known)}" if known else "it has none"
            raise UserError(
                f"{prefix}variant '{info.name}' has no hyperparameter '{name}'; "
                f"{has}{did_you_mean(str(name), known)}"
            )
    full = {}
    for name, hyperparameter in known.items():
        try:
            full[name] = hyperparameter.check(values.get(name, hyperparameter.default))
        except UserError as error:
            raise UserError(
                f"{prefix}variant '{info.name}': hyperparameter '{name}' {error}"
            ) from None
    return full


def unknown_variant(name: str, known: Mapping[str, object] | list[str]) -> UserError:
    """Return the error for a variant that does not exist."""
    names = sorted(known)
    return UserError(
        f"no variant '{name}'; there are: {', '.join(names) or 'none'}{did_you_mean(name, names)}"
    )


def variant_modules() -> dict[str, Path]:
    """Return the source file of each module that may hold variants, by module name.

    Raises:
        UserError: An entry point names a module that is not installed.
    """
    modules: dict[str, Path] = {}
    # An editable install in its own folder is listed twice: as .dist-info and as .egg-info.
    for value in sorted({entry.module for entry in entry_points(group=ENTRY_POINT_GROUP)}):
        modules.update(_files_of(value))
    return modules


def scan_variants() -> dict[str, VariantInfo]:
    """Return every variant by name, found without importing the modules that hold them.

    Looks for functions at the top of a module under ``@register_variant(...)``.

    Raises:
        UserError: A module cannot be parsed, or declares a variant that no study could use.
    """
    modules = variant_modules()
    trees = {module: _parse(path) for module, path in modules.items()}
    codes = {module: _code(path) for module, path in modules.items()}
    found: dict[str, VariantInfo] = {}
    for module, path in modules.items():
        code = _hash([codes[name] for name in sorted(_reachable(module, trees))])
        for function, decorator in _decorated(trees[module]):
            line = f"{path}:{function.lineno}"
            if function.name in found:
                other = found[function.name].source_file
                raise UserError(f"{line}: variant '{function.name}' is already in {other}")
            declared = _read_decorator(decorator, line)
            check_declaration(function.name, declared["hypothesis"], where=line)
            found[function.name] = VariantInfo(
                name=function.name,
                **declared,
                hyperparameters=_read_signature(function, path),
                source_file=str(path),
                code=code,
                module=module,
            )
    for info in found.values():
        if info.compare_to is not None and info.compare_to not in found:
            raise UserError(
                f"{info.source_file}: variant '{info.name}': compare_to: "
                f"{unknown_variant(info.compare_to, found)}"
            )
    return found


def read_function(build: Callable[..., Any], *, where: str) -> dict[str, Hyperparameter]:
    """Return the hyperparameters of a variant's function, as ``scan_variants`` reads its text.

    Raises:
        UserError: An argument has no usable type or default.
    """
    found = {}
    for parameter in inspect.signature(build).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        annotation = parameter.annotation
        choices = get_args(annotation) if get_origin(annotation) is Literal else ()
        kind = type(choices[0]).__name__ if choices else getattr(annotation, "__name__", "?")
        default = None if parameter.default is parameter.empty else parameter.default
        found[parameter.name] = _hyperparameter(parameter.name, kind, default, choices, where)
    return found


def code_of_file(path: Path) -> str:
    """Return the identity of one source file: sha256 of its code without docstrings."""
    return _hash([_code(path)])


def check_declaration(name: str, hypothesis: str, *, where: str) -> None:
    """Raise a UserError unless a variant of this name and hypothesis may be registered."""
    if name in RESERVED_NAMES:
        raise UserError(f"{where}: '{name}' is reserved and cannot name a variant")
    sentence = hypothesis.strip()
    if not sentence.endswith(".") or "\n" in sentence or ". " in sentence:
        raise UserError(f"{where}: the hypothesis of '{name}' must be one sentence with its stop")


def _files_of(module: str) -> dict[str, Path]:
    """Return a module's file, or a package's and those of its direct modules."""
    top, *rest = module.split(".")
    # find_spec("a.b") would import a, so only the first part is looked up.
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        raise UserError(f"entry point of group '{ENTRY_POINT_GROUP}': no module '{module}'")
    path = Path(spec.origin)
    if rest:
        base = path.parent.joinpath(*rest)
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    if not path.is_file():
        raise UserError(f"entry point of group '{ENTRY_POINT_GROUP}': no module '{module}'")
    files = {module: path}
    if path.name == "__init__.py":
        for child in sorted(path.parent.iterdir()):
            inside = child / "__init__.py" if child.is_dir() else child
            if inside.suffix == ".py" and inside != path and inside.is_file():
                files[f"{module}.{child.stem}"] = inside
    return files


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: {error.msg}") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def _decorated(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, ast.Call]]:
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and _called(decorator) == "register_variant":
                yield node, decorator


def _called(call: ast.Call) -> str:
    target = call.func
    return target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")


def _read_decorator(call: ast.Call, line: str) -> dict[str, Any]:
    given = {keyword.arg: _literal(keyword.value, line) for keyword in call.keywords}
    hypothesis = given.get("hypothesis")
    if not isinstance(hypothesis, str):
        raise UserError(f"{line}: register_variant needs hypothesis='...' written out")
    if not isinstance(given.get("compare_to"), str | None):
        raise UserError(f"{line}: compare_to must be a variant's name or None")
    return {
        "hypothesis": hypothesis,
        "compare_to": given.get("compare_to"),
        "starts_at_identity": given.get("starts_at_identity", True),
        "uses_camera": given.get("uses_camera", True),
    }


def _read_signature(function: ast.FunctionDef, path: Path) -> dict[str, Hyperparameter]:
    found = {}
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        line = f"{path}:{argument.lineno}"
        annotation, choices = argument.annotation, ()
        if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith(
            "Literal"
        ):
            value = _literal(annotation.slice, line)
            choices = value if isinstance(value, tuple) else (value,)
        kind = type(choices[0]).__name__ if choices else ast.unparse(annotation or ast.Name("?"))
        value = None if default is None else _literal(default, line)
        found[argument.arg] = _hyperparameter(argument.arg, kind, value, choices, line)
    return found


def _hyperparameter(
    name: str, kind: str, default: Any, choices: tuple[Any, ...], where: str
) -> Hyperparameter:
    if kind not in _TYPES:
        allowed = f"{', '.join(_TYPES)} or Literal[...]"
        raise UserError(f"{where}: hyperparameter '{name}' has type {kind}; allowed: {allowed}")
    if default is None:
        raise UserError(f"{where}: hyperparameter '{name}' needs a default")
    checked = Hyperparameter(name, kind, default, choices)
    try:
        return Hyperparameter(name, kind, checked.check(default), choices)
    except UserError as error:
        raise UserError(f"{where}: the default of hyperparameter '{name}' {error}") from None


def _literal(node: ast.expr, line: str) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise UserError(f"{line}: '{ast.unparse(node)}' must be a literal") from None


def _reachable(module: str, trees: Mapping[str, ast.Module]) -> set[str]:
    """Return a module and those of ``trees`` that it imports, directly or not."""
    reached, waiting = set(), [module]
    while waiting:
        current = waiting.pop()
        reached.add(current)
        waiting += [name for name in _imports(trees[current], trees) if name not in reached]
    return reached


def _imports(tree: ast.Module, known: Mapping[str, ast.Module]) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names & known.keys()


def _hash(codes: list[str]) -> str:
    return hashlib.sha256("\n".join(codes).encode()).hexdigest()


def _code(path: Path) -> str:
    """Return a module's code in one spelling, without comments and docstrings."""
    tree = _parse(path)
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, holders) and node.body and _is_text(node.body[0]):
            node.body[:] = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
