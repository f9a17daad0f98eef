"""The precision in which a network's passes run, whether the processor has it or not."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from dart.models.batched import LOWER
from dart.tricks import is_on


class Widened(TorchFunctionMode):
    """Computes in float32 what autocast would compute in bfloat16, from and to rounded numbers.

    A processor with bfloat16 multiplies rounded numbers, adds up in float32 and rounds the sum. So
    does this; only the order of the additions differs. A function of several products, such as
    ``nn.MultiheadAttention``, rounds less in between.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") not in LOWER or not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        args = tree_map_only(Tensor, _round, tuple(args))
        named = {name: tree_map_only(Tensor, _round, value) for name, value in kwargs.items()}
        with torch.autocast("cpu", enabled=False):
            return tree_map_only(Tensor, _narrow, func(*args, **named))


def _round(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 whose numbers are bfloat16's; what autocast leaves, unchanged."""
    return _narrow(tensor).float() if _is_cast(tensor) else tensor


def _narrow(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16) if _is_cast(tensor) else tensor


def _is_cast(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float64


@cache
def has_bfloat16() -> bool:
    """Say whether this processor itself multiplies in bfloat16.

    Where it does not, oneDNN imitates it (AVX-512), or torch goes through its products in loops.
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Let a network run in the precision of a spec: ``float32`` or ``bfloat16``."""
    if precision == "float32":
        yield
        return
    with torch.autocast(device.type, torch.bfloat16):
        if device.type == "cpu" and not has_bfloat16() and is_on("widened"):
            with Widened():
                yield
        else:
            yield
