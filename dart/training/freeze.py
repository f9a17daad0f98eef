"""What trains and what does not, and the proof that the rest stayed as it was.

Frozen means two things: no gradient *and* eval mode. TinyViM has 123 batch normalisations whose
running statistics drift in train mode even without gradients; the drift would be counted as
forgetting.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import get_args

from torch import nn

from dart.errors import UserError
from dart.recipe import Group

PARTS = ("encoder", "adapters", "decoder", "scale_head")
_MAY_BE_EMPTY = ("adapters", "everything")
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def _modules_of(model: nn.Module, group: Group) -> Iterator[nn.Module]:
    """Yield the modules that make up a group, as far as this network has them."""
    if group == "everything":
        yield from (model.get_submodule(part) for part in PARTS)
    elif group in PARTS:
        yield model.get_submodule(group)
    elif group == "norms":
        yield from (m for m in model.get_submodule("encoder").modules() if isinstance(m, _NORMS))
    elif group in ("reassemble", "fuse", "output"):
        names = ("narrow", "deepen", "last") if group == "output" else (group,)
        decoder = model.get_submodule("decoder")
        yield from (getattr(decoder, name) for name in names if hasattr(decoder, name))
    else:
        encoder = model.get_submodule("encoder")
        if hasattr(encoder, "stage_layers"):
            index = 0 if group == "stem" else int(group.removeprefix("stage"))
            layers = encoder.stage_layers(index)  # pyright: ignore[reportCallIssue]
            yield from (
                layers.children()
                if group != "stem"
                else (child for name, child in layers.named_children() if name == "stem")
            )


def group_parameters(model: nn.Module, group: Group, *, where: str = "trainable") -> frozenset[str]:
    """Return the names of a group's parameters in this network.

    Raises:
        UserError: There are none; of ``adapters`` there may be none, as with the variant ``none``.
    """
    members = {id(p) for module in _modules_of(model, group) for p in module.parameters()}
    names = frozenset(name for name, p in model.named_parameters() if id(p) in members)
    if not names and group not in _MAY_BE_EMPTY:
        raise UserError(f"{where}: group '{group}' matches no parameter of this network")
    return names


def finest_group(
    model: nn.Module, groups: Sequence[Group], *, where: str = "trainable"
) -> dict[str, Group]:
    """Return parameter -> the finest of ``groups`` that holds it; the others are left out.

    Raises:
        UserError: A group matches nothing.
    """
    found: dict[str, Group] = {}
    for group in sorted(groups, key=get_args(Group).index):  # from the whole to the finest
        for name in group_parameters(model, group, where=where):
            found[name] = group
    return found


def set_trainable(model: nn.Module, groups: Sequence[Group]) -> None:
    """Let the named groups of ``model`` train, together; freeze the others.

    Batch normalisation keeps its statistics everywhere, also in a part that trains: with batches
    of a few images of one camera they would forget the source by themselves.

    Raises:
        UserError: A group matches nothing.
    """
    trained = finest_group(model, groups)
    model.eval()
    for part in PARTS:
        module = model.get_submodule(part)
        for name, parameter in module.named_parameters(prefix=part):
            parameter.requires_grad_(name in trained)
        module.train(any(p.requires_grad for p in module.parameters()))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def count_trainable(model: nn.Module) -> int:
    """Return the number of parameters that require a gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def frozen_hash(model: nn.Module) -> str:
    """Return a sha256 over every parameter without gradient and every buffer, names included."""
    digest = hashlib.sha256()
    frozen = [item for item in model.named_parameters() if not item[1].requires_grad]
    for name, tensor in sorted([*frozen, *model.named_buffers()], key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
