"""Small layers beside the layers of a stage: they see the same map, and their answer is added.

A stage runs under forward hooks that stand only while it runs, so that nothing stays on the
encoder, which other networks may share.

Axis letters: ``b`` batch, ``c`` channels (``d`` after a change of them), ``h w`` cells.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dart.errors import UserError
from dart.models.adapters import Stage, Tuner

Hook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]


@contextmanager
def hooked(layers: nn.Module, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Let each hook replace the output of the module of its name while inside."""
    handles = []
    try:
        for name, hook in hooks.items():
            handles.append(layers.get_submodule(name).register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


class Beside(Tuner):
    """Adds to what some modules of a stage give what a layer of its own makes of their input.

    Args:
        additions: The layers by the name of the module that each stands beside.
    """

    def __init__(self, additions: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.names = list(additions)
        self.additions = nn.ModuleList(additions.values())

    def forward(
        self,
        layers: nn.Module,
        features: Float[Tensor, "b c h w"],
        camera: Float[Tensor, "#b e h2 w2"],  # noqa: ARG002
    ) -> Float[Tensor, "b d rows w2"]:
        """Return the map of the stage, all additions included."""
        hooks = {
            name: _add(addition) for name, addition in zip(self.names, self.additions, strict=True)
        }
        with hooked(layers, hooks):
            return layers(features)


def _add(addition: nn.Module) -> Hook:
    def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + addition(inputs[0])

    return hook


class OnLastAxis(nn.Module):
    """Runs a 1x1 network on tokens, whose channels are their last axis."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Float[Tensor, "b *n c"]) -> Float[Tensor, "b *n d"]:
        """Return the tokens, each through the network."""
        answer = self.network(tokens.flatten(1, -2).mT.unsqueeze(-1))
        return answer.squeeze(-1).mT.unflatten(1, tokens.shape[1:-1])


def zero_start(conv: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution whose weight and bias were set to zero, in place."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def list_blocks(stage: Stage) -> list[str]:
    """Return the names of a stage's residual blocks: the children of a module called ``blocks``.

    Raises:
        UserError: There is no such module, or its blocks see tokens in a row and not a map.
    """
    found = {
        f"{name}.{child}": block
        for name, module in stage.layers.named_modules()
        if name.rpartition(".")[2] == "blocks"
        for child, block in module.named_children()
    }
    if not all(any(isinstance(m, nn.Conv2d) for m in b.modules()) for b in found.values()):
        found = {}
    if not found:
        raise UserError(
            f"stage {stage.index} of this encoder has no blocks for an adapter to stand beside: "
            "no module of it is called 'blocks' and made of convolutions"
        )
    return list(found)


def list_mlps(stage: Stage) -> dict[str, nn.Module]:
    """Return a stage's feed-forward parts by name: modules with layers ``fc1`` and ``fc2``.

    Raises:
        UserError: There is none.
    """
    found = {
        name: module
        for name, module in stage.layers.named_modules()
        if hasattr(module, "fc1") and hasattr(module, "fc2")
    }
    if not found:
        raise UserError(
            f"stage {stage.index} of this encoder has no feed-forward part for an adapter to "
            "stand beside: no module of it has layers 'fc1' and 'fc2'"
        )
    return found
