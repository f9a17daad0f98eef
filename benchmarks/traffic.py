"""What the operators of a piece of work read and write, and how many of them there are."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MAKES_ROOM = ("aten::empty", "aten::new_empty", "aten::_unsafe_view", "aten::_reshape_alias")
"""How the names of operators begin that touch no numbers, beside views."""


class Traffic(TorchDispatchMode):
    """Counts operators and the bytes of the tensors that go in and come out, while it is active.

    Views are not counted. A tensor changed in place is read and written. What an operator keeps for
    itself, and what a cache saves, is not seen: it is what kernels must move if each reads its
    inputs from memory once.

    Attributes:
        bytes: Read and written so far.
        operators: Run so far; on a GPU each launches a kernel or a few.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.operators = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operator and count it."""
        result = func(*args, **(kwargs or {}))
        if not _touches_nothing(func):
            self.operators += 1
            leaves = tree_leaves((args, kwargs, result))
            self.bytes += sum(_count(leaf) for leaf in leaves if isinstance(leaf, Tensor))
        return result


def _touches_nothing(func: torch._ops.OpOverload) -> bool:
    aliases = [made.alias_info for made in func._schema.returns]
    is_view = any(alias is not None and not alias.is_write for alias in aliases)
    return is_view or func.name().startswith(MAKES_ROOM)


def _count(tensor: Tensor) -> int:
    """Return the bytes of a tensor's memory: an axis that is expanded is stored once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    numbers = 1
    for length, stride in sizes:
        numbers *= length if stride else min(length, 1)
    return numbers * tensor.element_size()
