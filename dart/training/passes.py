"""Passes of a network without gradients, replayed on a GPU as one graph for each shape of batch.

Measuring asks one network for many batches of few shapes, and a single image asks for little
arithmetic in hundreds of kernels. What training moves are the values of weights, not where they
lie, so that a graph holds for a whole run.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dart.cameras import Camera
from dart.models import DepthNet
from dart.training.captured import NO_GRAPH, HostReads, StaticViews
from dart.tricks import is_on

PRACTICE = 2
"""Passes before the capture."""
MOST_SHAPES = 8
"""Shapes that are kept; further ones run as they are."""

Ask = Callable[[Tensor, Sequence[Camera]], Tensor]


@functools.cache
def _pool() -> object:
    """Return where graphs allocate: one place for all, of which no two run at once."""
    return torch.cuda.graph_pool_handle()


class Replayed:
    """A function of one tensor, of one shape and without gradients, replayed on CUDA.

    Hooks of modules are not called in a replay.

    Args:
        function: What it is; weights that it reads must stay where they are.
        name: What a refusal calls it.

    Attributes:
        reason: Why it is not captured; empty while it may be, or is.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], *, name: str = "it") -> None:
        self.function = function
        self.name = name
        self.reason = ""
        self.graph: torch.cuda.CUDAGraph | None = None
        self._taken = 0
        self._entering: Tensor | None = None
        self._answer: Tensor | None = None

    # Not inference_mode: there a composite operator would hide what it reads from HostReads.
    @torch.inference_mode(False)
    @torch.no_grad()
    def __call__(self, entering: Tensor) -> Tensor:
        """Return the function's value, which the next call of any of these overwrites."""
        if self._entering is None:
            self._entering = entering.clone()
            self.reason = "" if entering.is_cuda else NO_GRAPH
        else:
            self._entering.copy_(entering, non_blocking=True)
        if self.graph is None and not self.reason and self._taken >= PRACTICE:
            self._capture()
        self._taken += 1
        if self.graph is not None and self._answer is not None:
            self.graph.replay()
            return self._answer
        # What the first pass makes to be kept is not part of a capture.
        reads = HostReads(entering.device)
        with reads if self._taken == PRACTICE else nullcontext():
            answer = self.function(self._entering)
        if reads.found:
            self.reason = f"{self.name}: a pass {reads.found[0]}"
        return answer

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=_pool()):  # pyright: ignore[reportArgumentType]
                assert self._entering is not None
                self._answer = self.function(self._entering)
        except RuntimeError as error:
            torch.cuda.synchronize()
            self.reason = f"CUDA refuses to capture it: {str(error).splitlines()[0]}"
            return
        self.graph = graph


@dataclass
class _Held:
    """What passes of one shape need."""

    replayed: Replayed
    views: tuple[StaticViews, StaticViews]
    """For scale head and adapters."""
    parts: tuple[nn.Module, ...]
    """Whose weights a graph reads: held, so that their memory is not given away."""


class Passes:
    """Asks a network for distances, from tensors that stay where they are.

    Args:
        model: The network, in eval mode whenever it is asked.
    """

    def __init__(self, model: DepthNet) -> None:
        self.model = model
        self._held: dict[tuple[object, ...], _Held] = {}

    @property
    def reason(self) -> str:
        """Why passes are not captured; empty while all may be, or are."""
        return next((h.replayed.reason for h in self._held.values() if h.replayed.reason), "")

    def __call__(
        self, image: Float[Tensor, "b 3 h w"], cameras: Sequence[Camera]
    ) -> Float[Tensor, "b h w"]:
        """Return metres along the rays, which the next call overwrites."""
        model = self.model
        height, width = image.shape[2:]
        image, cameras = model.pad(image, cameras)
        parts = (model.encoder, model.adapters, model.decoder, model.scale_head)
        key = (tuple(image.shape), model.adapters_enabled, *map(id, parts))
        if key not in self._held and len(self._held) >= MOST_SHAPES:
            return model(image, cameras).distance.float()[:, :height, :width]
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = self._hold(cameras, parts)
        else:
            for view in {id(view): view for view in held.views}.values():
                view.show(cameras)
        return held.replayed(image)[:, :height, :width]

    def _hold(self, cameras: Sequence[Camera], parts: tuple[nn.Module, ...]) -> _Held:
        model = self.model
        first = StaticViews(model.embedder)
        same = model.adapter_embedder is model.embedder
        views = (first, first if same else StaticViews(model.adapter_embedder))

        def distance(image: Tensor) -> Tensor:
            with _shown(model, views):  # of these cameras only the size is looked at
                return model(image, cameras).distance.float()

        return _Held(Replayed(distance, name=model.variant), views, parts)


@contextmanager
def _shown(model: DepthNet, views: tuple[StaticViews, StaticViews]) -> Iterator[None]:
    own = (model.embedder, model.adapter_embedder)
    try:
        model.embedder, model.adapter_embedder = views  # pyright: ignore[reportAttributeAccessIssue]
        yield
    finally:
        model.embedder, model.adapter_embedder = own


def ask(model: DepthNet) -> Ask:
    """Return what gives a network's distances: replayed on CUDA, unless switched off."""
    if next(model.encoder.parameters()).is_cuda and is_on("capture"):
        return Passes(model)
    return lambda image, cameras: model(image, cameras).distance.float()
