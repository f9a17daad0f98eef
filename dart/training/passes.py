"""Passes of a network without gradients, replayed on a GPU as one graph for each shape of batch.

Measuring asks one network for many batches of few shapes, and a single image asks for little
arithmetic in hundreds of kernels. What training moves are the values of weights, not where they
lie, so that a graph holds for a whole run.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dart.cameras import Camera
from dart.models import DepthNet
from dart.training.captured import NO_GRAPH, SWITCH, HostReads, StaticViews

PRACTICE = 2
"""Passes before the capture."""
MOST_SHAPES = 8
"""Shapes that are kept; further ones run as they are."""


@dataclass
class _Held:
    """What passes of one shape read and write."""

    image: Float[Tensor, "b 3 h w"]
    cameras: Sequence[Camera]
    views: tuple[StaticViews, StaticViews]
    """For scale head and adapters."""
    parts: tuple[nn.Module, ...]
    """Whose weights a graph reads: held, so that their memory is not given away."""
    taken: int = 0
    graph: torch.cuda.CUDAGraph | None = None
    distance: Tensor = field(default_factory=lambda: torch.empty(0))


class Passes:
    """Asks a network for distances, from tensors that stay where they are.

    Hooks of modules are not called in a replay.

    Args:
        model: The network, in eval mode whenever it is asked.

    Attributes:
        reason: Why passes are not captured; empty while they may be, or are.
    """

    def __init__(self, model: DepthNet) -> None:
        self.model = model
        on_cuda = next(model.encoder.parameters()).is_cuda
        self.reason = "" if on_cuda else NO_GRAPH
        self._held: dict[tuple[object, ...], _Held] = {}
        self._pool: object = None

    # Not inference_mode: there a composite operator would hide what it reads from HostReads.
    @torch.inference_mode(False)
    @torch.no_grad()
    def __call__(
        self, image: Float[Tensor, "b 3 h w"], cameras: Sequence[Camera]
    ) -> Float[Tensor, "b h w"]:
        """Return metres along the rays, which the next call overwrites."""
        model = self.model
        parts = (model.encoder, model.adapters, model.decoder, model.scale_head)
        key = (tuple(image.shape), model.adapters_enabled, *map(id, parts))
        if key not in self._held and len(self._held) >= MOST_SHAPES:
            return model(image, cameras).distance.float()
        held = self._held.get(key)
        if held is None:
            held = _Held(image.clone(), list(cameras), self._make_views(), parts)
            self._held[key] = held
        else:
            held.image.copy_(image, non_blocking=True)
            held.cameras = cameras
            shown = model.pad(image, cameras)[1]
            for view in {id(view): view for view in held.views}.values():
                view.show(shown)
        return self._run(held)

    def _make_views(self) -> tuple[StaticViews, StaticViews]:
        first = StaticViews(self.model.embedder)
        same = self.model.adapter_embedder is self.model.embedder
        return first, first if same else StaticViews(self.model.adapter_embedder)

    def _run(self, held: _Held) -> Tensor:
        if held.graph is None and not self.reason and held.taken >= PRACTICE:
            self._capture(held)
        held.taken += 1
        if held.graph is not None:
            held.graph.replay()
            return held.distance
        # In the first pass the views of the cameras are made, which is not part of a capture.
        reads = HostReads()
        with reads if held.taken == PRACTICE else nullcontext():
            distance = self._pass(held)
        if reads.found:
            self.reason = f"{self.model.variant}: a pass {reads.found[0]}"
        return distance

    def _capture(self, held: _Held) -> None:
        graph = torch.cuda.CUDAGraph()
        # No two graphs run at once and answers are read before the next: one pool does for all.
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        torch.cuda.synchronize()
        try:
            with torch.cuda.graph(graph, pool=self._pool):  # pyright: ignore[reportArgumentType]
                held.distance = self._pass(held)
        except RuntimeError as error:
            torch.cuda.synchronize()
            self.reason = f"CUDA refuses to capture it: {str(error).splitlines()[0]}"
            return
        held.graph = graph

    def _pass(self, held: _Held) -> Tensor:
        with _shown(self.model, held.views):
            return self.model(held.image, held.cameras).distance.float()


@contextmanager
def _shown(model: DepthNet, views: tuple[StaticViews, StaticViews]) -> Iterator[None]:
    own = (model.embedder, model.adapter_embedder)
    try:
        model.embedder, model.adapter_embedder = views  # pyright: ignore[reportAttributeAccessIssue]
        yield
    finally:
        model.embedder, model.adapter_embedder = own


Ask = Callable[[Tensor, Sequence[Camera]], Tensor]


def ask(model: DepthNet) -> Ask:
    """Return what gives a network's distances: replayed on CUDA, unless switched off."""
    if next(model.encoder.parameters()).is_cuda and os.environ.get(SWITCH) != "off":
        return Passes(model)
    return lambda image, cameras: model(image, cameras).distance.float()
