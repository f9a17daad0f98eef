"""Modules of one architecture called at once: their weights are stacked, not gone through in turn.

A GPU waits for each launch, and a fold of 16 runs launches every kernel of 16 adapters and
decoders. Stacked, convolutions become grouped ones and products batched ones. The stacks are made
within autograd at every call: the modules' own parameters stay the leaves and get gradients of
their own, which are views of the stacks' gradients.

Source: horizontal fusion of training jobs (HFTA, Wang et al. 2021, arXiv 2102.02344), by
``torch.func`` in the place of fused modules.
"""

import re
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

Act = Callable[..., Any]
"""Does something with modules and what they are given; returns a tensor or a tuple of tensors."""
NO_RULE = "There is a performance drop"
"""How torch begins to say that it goes through an operator's calls in turn."""
LOWER = {
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "addbmm"),
    *("einsum", "scaled_dot_product_attention", "multi_head_attention_forward", "prelu"),
}
"""Functions whose tensors autocast brings to the lower precision."""
LOWER_ON_CUDA = {"mv", "addmv"}
"""Those that it brings there on a GPU only."""
FULL = {
    "cpu": {"grid_sample", "cdist", "prod"},
    "cuda": {"softmax", "softmin", "log_softmax", "rms_norm", "group_norm", "cdist"},
}
"""Device -> functions whose tensors it brings to float32."""

_tried: dict[int, str] = {}
"""Hash of what was to be called at once -> why it cannot be; empty where it can."""


def refusals() -> list[str]:
    """Return what is called one after the other, and why: ``name (why)``."""
    return [*dict.fromkeys(refusal for refusal in _tried.values() if refusal)]


def call_alike(
    act: Act,
    members: Sequence[Sequence[nn.Module]],
    inputs: Sequence[Sequence[Any]],
    names: Sequence[str],
) -> list[Any]:
    """Return ``act(*modules, *inputs)`` of each member; those of one architecture at once.

    What cannot be called so is called one after the other, and is found among ``refusals``.

    Args:
        act: Is pure but for the modules' weights.
        members: The modules of each member.
        inputs: Of each member; tensors that are not of one length have one row for all images.
        names: What a refusal calls each member.
    """
    groups: dict[Hashable, list[int]] = {}
    agreed = [_agree(own) for own in inputs]
    for place, (modules, own) in enumerate(zip(members, agreed, strict=True)):
        kind = (act, *map(architecture, modules), *map(_describe, own))
        groups.setdefault(kind, []).append(place)
    answers: list[Any] = [None] * len(members)
    for kind, places in groups.items():
        name = ", ".join(sorted({names[place] for place in places}))
        given = [[rows[place] for place in places] for rows in (members, agreed)]
        # The hash alone is kept: what a kind holds may be large.
        for place, answer in zip(places, _try(hash(kind), name, act, *given), strict=True):
            answers[place] = answer
    return answers


def _try(
    kind: int,
    name: str,
    act: Act,
    members: Sequence[Sequence[nn.Module]],
    inputs: Sequence[Sequence[Any]],
) -> list[Any]:
    """Call members at once if that is possible, which the first call of a kind finds out."""
    if len(members) > 1 and kind not in _tried:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=NO_RULE)
                answers = _call_first(act, members, inputs)
        except (torch.OutOfMemoryError, MemoryError):
            raise  # says nothing of the modules
        except Exception as error:
            _tried[kind] = f"{name} ({_explain(error)})"
        else:
            _tried[kind] = ""
            return answers
    if len(members) == 1 or _tried[kind]:
        return [act(*own, *given) for own, given in zip(members, inputs, strict=True)]
    return call_batched(act, members, inputs)


def _call_first(
    act: Act, members: Sequence[Sequence[nn.Module]], inputs: Sequence[Sequence[Any]]
) -> list[Any]:
    """Do what ``call_batched`` does, for modules that keep nothing of a call."""
    own = [part for module in members[0] for part in module.modules()]
    held = [dict(vars(part)) for part in own]
    before = [*map(_plain, own)]
    answers = call_batched(act, members, inputs)
    if before != [*map(_plain, own)]:
        for part, values in zip(own, held, strict=True):
            vars(part).clear()
            vars(part).update(values)
        raise RuntimeError("it changes what it holds")
    return answers


def _explain(error: Exception) -> str:
    told = str(error).strip() or type(error).__name__
    rule = re.search(r"batching rule for ([\w:]+)", told) if told.startswith(NO_RULE) else None
    return f"torch cannot batch {rule[1]}" if rule else told.splitlines()[0]


def call_batched(
    act: Act, members: Sequence[Sequence[nn.Module]], inputs: Sequence[Sequence[Any]]
) -> list[Any]:
    """Return ``act(*modules, *inputs)`` of each member, whose architectures must be the same.

    Args:
        act: As in ``call_alike``.
        members: The modules of each member.
        inputs: Of each member; what is not a tensor must be the same for all.

    Raises:
        RuntimeError: A module does what cannot be done for several at once: reads a value, draws
            a number, writes into a buffer.
    """
    weights = [_stack_weights(column) for column in zip(*members, strict=True)]
    tensors = [place for place, value in enumerate(inputs[0]) if isinstance(value, Tensor)]
    # Beside the channels, where a grouped convolution wants them.
    stacks = [stack([own[place] for own in inputs], dim=1) for place in tensors]

    def act_of_one(weights: Sequence[dict[str, Tensor]], given: Sequence[Tensor]) -> Any:
        stand_ins = [
            _stand_in(module, own) for module, own in zip(members[0], weights, strict=True)
        ]
        values = dict(enumerate(inputs[0])) | dict(zip(tensors, given, strict=True))
        return act(*stand_ins, *values.values())

    with _with_rules():
        answers = vmap(act_of_one, in_dims=(0, 1))(weights, stacks)
    if any(tensor._version for of in weights for tensor in of.values()):
        raise RuntimeError("it writes into its weights or buffers")
    if isinstance(answers, Tensor):
        return list(answers.unbind())
    return list(zip(*(answer.unbind() for answer in answers), strict=True))


def stack(tensors: Sequence[Tensor], *, dim: int = 0) -> Tensor:
    """Return tensors of one shape beside one another, each in the layout that the first has."""
    first = tensors[0]
    order = sorted(range(first.ndim), key=lambda axis: -first.stride(axis))
    place = order.index(dim) if dim < first.ndim else first.ndim
    # Where the layouts were lost, each gradient would be copied into its parameter's.
    stacked = torch.stack([tensor.permute(order) for tensor in tensors], dim=place)
    axes = [axis + (axis >= dim) for axis in order]
    axes.insert(place, dim)
    return stacked.permute([axes.index(axis) for axis in range(first.ndim + 1)])


def architecture(module: nn.Module) -> Hashable:
    """Return what must be equal for one module's code to compute another's answer.

    That is all but the values of weights and buffers: classes, what else the modules hold, and
    the names and shapes of their tensors.
    """
    parts = [(name, type(part), _plain(part)) for name, part in module.named_modules()]
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return (*parts, *((name, _describe(tensor)) for name, tensor in tensors))


def _plain(module: nn.Module) -> Hashable:
    tensors = ("_parameters", "_buffers", "_modules")
    return _freeze({name: value for name, value in vars(module).items() if name not in tensors})


def _freeze(value: object) -> Hashable:
    """Return something that is equal for what does the same; what is unknown equals itself only."""
    if isinstance(value, Mapping):
        return tuple((name, _freeze(part)) for name, part in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_freeze, value))
    if isinstance(value, set):
        return frozenset(map(_freeze, value))
    if isinstance(value, partial):
        return (value.func, _freeze(value.args), _freeze(value.keywords))
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        defaults = (value.__defaults__ or (), value.__kwdefaults__ or {})
        # The code of a copied file is equal, what its names mean there may differ.
        return (value.__code__, id(value.__globals__), _freeze(cells), _freeze(defaults))
    return (type(value), value if isinstance(value, Hashable) else id(value))


def _describe(value: Any) -> Hashable:
    return (value.shape, value.dtype, value.device) if isinstance(value, Tensor) else value


def _agree(inputs: Sequence[Any]) -> list[Any]:
    """Give tensors that have one row for all images a row for each."""
    rows = max(len(value) for value in inputs if isinstance(value, Tensor))
    return [
        value.expand(rows, *value.shape[1:]) if isinstance(value, Tensor) else value
        for value in inputs
    ]


def _stack_weights(modules: Sequence[nn.Module]) -> dict[str, Tensor]:
    own = [dict(module.named_parameters()) | dict(module.named_buffers()) for module in modules]
    return {name: stack([tensors[name] for tensors in own]) for name in own[0]}


def _stand_in(module: nn.Module, weights: dict[str, Tensor]) -> Callable[..., Any]:
    def call(*inputs: Any) -> Any:
        before = list(weights.values())
        answer = functional_call(module, weights, inputs)
        if any(one is not other for one, other in zip(before, weights.values(), strict=True)):
            raise RuntimeError("it puts other tensors in the place of its buffers")
        return answer

    return call


class Casts(TorchFunctionMode):
    """Casts what autocast would, which does not know what vmap makes of these functions.

    Those that vmap leaves as they are, autocast finds by itself.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch with the tensors that autocast would give it."""
        kwargs = kwargs or {}
        dtype = _precision(func, [*args, *kwargs.values()])
        if dtype is None:
            return func(*args, **kwargs)
        cast = {name: _cast(value, dtype) for name, value in kwargs.items()}
        return func(*(_cast(value, dtype) for value in args), **cast)


def _precision(func: Any, values: Sequence[Any]) -> torch.dtype | None:
    """Return what autocast brings a function's tensors to; None where it leaves them."""
    name = getattr(func, "__name__", "")
    kind = next((value.device.type for value in values if isinstance(value, Tensor)), "")
    if kind not in FULL or not torch.is_autocast_enabled(kind):
        return None
    if name in LOWER or (kind == "cuda" and name in LOWER_ON_CUDA):
        return torch.get_autocast_dtype(kind)
    return torch.float32 if name in FULL[kind] else None


def _cast(value: Any, dtype: torch.dtype) -> Any:
    is_cast = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if is_cast and value.dtype != torch.float64 else value


@contextmanager
def _with_rules() -> Iterator[None]:
    """Let attention run by operators that have a batching rule on every device."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), Casts():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
