"""Steps of training whose tensors stay where they are, so that CUDA can replay them as one graph.

A step is hundreds of small kernels, and a GPU that waits for each to be launched does little else.
Captured once, all of them, forward, loss, backward, clipping and optimiser, are launched as one.
For that nothing in a step may read a value on the host, and images, distances, maps of frozen
stages, camera embeddings and learning rates must be copied into tensors that never move.

What cannot be captured runs as it is and says why. On a CPU there are no graphs; the same step runs
from the same tensors, which is how it is tested.
"""

import itertools
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dart.cameras import Camera, CameraEmbedder
from dart.data.sample import Batch
from dart.models import DepthNet
from dart.models.together import forward_together
from dart.training.loop import Step, Trainer
from dart.tricks import is_on

PRACTICE = 3
"""Steps before the capture: libraries choose and allocate what they need in the first ones."""
TENSORS = ("image", "distance", "valid")
"""Of a batch."""
NO_GRAPH = "there is no graph on a CPU"
READS = {
    "aten::_local_scalar_dense": "reads a number on the host",
    "aten::equal": "compares tensors on the host",
    "aten::nonzero": "asks where a tensor is not zero",
    "aten::masked_select": "chooses by a mask",
    "aten::_unique2": "asks for distinct values",
    "aten::unique_dim": "asks for distinct values",
}
"""Operator -> why its outcome must be known before the next kernel can be launched."""

INDEXING = ("aten::index", "aten::index_put", "aten::index_put_")


class HostReads(TorchDispatchMode):
    """Notes what reads a value on the host while it is active.

    ``Tensor.tolist`` and ``Tensor.numpy`` of a tensor on a CPU pass unseen; on a GPU they copy.

    Args:
        device: Where the step runs: beside a GPU, what lies on the host may be read there.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.found: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operator and look at what it is."""
        result = func(*args, **(kwargs or {}))
        name = func.name().split(".")[0]
        what = READS.get(name)
        if name in INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1]):
            what = "chooses by a mask"
        elif name == "aten::_to_copy" and args[0].is_cuda and not result.is_cuda:
            what = "copies to the host"
        if what is not None and args[0].device.type == self.device.type:
            self.found.append(f"{what} ({name}, {_where()})")
        return result


def _where() -> str:
    """Return the innermost line of a model or of what it calls in its place, as file:line."""
    frames = [f for f in traceback.extract_stack() if "site-packages" not in f.filename]
    own = [f for f in frames if f.filename != __file__]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}"


class StaticViews:
    """What an embedder says of cameras, in tensors that stay where they are.

    Args:
        embedder: Whose answers they are.
    """

    def __init__(self, embedder: CameraEmbedder) -> None:
        self.embedder = embedder
        self.channels = embedder.channels
        self.held: dict[tuple[str, int, int], Tensor] = {}
        """(what, stride, number of cameras) -> the answer."""

    def embed(
        self, cameras: Sequence[Camera], stride: int, *, device: torch.device | str | None = None
    ) -> Float[Tensor, "#b e h w"]:
        """Return the embedding, as ``CameraEmbedder.embed``."""
        return self._hold("embed", cameras, stride, device)

    def rays(
        self, cameras: Sequence[Camera], stride: int, *, device: torch.device | str | None = None
    ) -> Float[Tensor, "#b 3 h w"]:
        """Return the unit rays, as ``CameraEmbedder.rays``."""
        return self._hold("rays", cameras, stride, device)

    def _hold(
        self, what: str, cameras: Sequence[Camera], stride: int, device: torch.device | str | None
    ) -> Tensor:
        key = (what, stride, len(cameras))
        if key not in self.held:
            view = getattr(self.embedder, what)(cameras, stride, device=device)
            # A row for each image, even where one camera took them all: the next batch may differ.
            self.held[key] = view.expand(len(cameras), -1, -1, -1).clone()
        return self.held[key]

    def show(self, cameras: Sequence[Camera]) -> None:
        """Put what is said of other cameras into the same tensors."""
        for (what, stride, count), tensor in self.held.items():
            view = getattr(self.embedder, what)(cameras[:count], stride, device=tensor.device)
            tensor.copy_(view)


class StaticStep:
    """The steps of trainings that are taken together, from tensors that stay where they are.

    Args:
        trainers: Of one group (``dart.training.together.share_encoder``).
        batched: As ``forward_together`` takes it.

    Attributes:
        reason: Why the steps are not captured; empty while they may be, or are.
    """

    def __init__(self, trainers: Sequence[Trainer], *, batched: bool = False) -> None:
        self.trainers = list(trainers)
        self.batched = batched
        self.nets = [net for t in self.trainers if isinstance(net := t.model, DepthNet)]
        self.reason = "" if trainers[0].device.type == "cuda" else NO_GRAPH
        self.graph: torch.cuda.CUDAGraph | None = None
        self.taken = 0
        self.batches: list[Batch] = []
        self.known: list[Tensor] = []
        self.told: Float[Tensor, "n 2"] | None = None
        self.views: list[list[StaticViews]] = []
        self.ahead: list[Batch] | None = None
        for trainer in self.trainers:
            for group in trainer.optimizer.param_groups:
                # A number would be frozen into the graph.
                on_cuda = trainer.device.type == "cuda"  # whose kernel takes it in single precision
                kind = torch.float32 if on_cuda else torch.float64
                group["lr"] = torch.tensor(float(group["lr"]), device=trainer.device, dtype=kind)
                group["capturable"] = on_cuda
        for net in self.nets:
            views = {id(e): StaticViews(e) for e in (net.embedder, net.adapter_embedder)}
            self.views.append([views[id(net.embedder)], views[id(net.adapter_embedder)]])

    def take(self) -> list[Step | Exception]:
        """Do the next step of every training; one that diverges harms no other."""
        self._fill(self.ahead or [trainer.draw() for trainer in self.trainers])
        for trainer in self.trainers:
            trainer.set_rates()
        told = self._run()
        self.taken += 1
        # While a GPU works on this step, the next one's images are fetched.
        self.ahead = self._look_ahead()
        return [
            trainer.attempt_record(numbers)
            for trainer, numbers in zip(self.trainers, told.tolist(), strict=True)
        ]

    def _look_ahead(self) -> list[Batch] | None:
        steps = [len(trainer.history) + 1 for trainer in self.trainers]
        if any(step >= t.spec.steps for step, t in zip(steps, self.trainers, strict=True)):
            return None
        try:
            return [trainer.draw(step) for trainer, step in zip(self.trainers, steps, strict=True)]
        except Exception:  # this step is taken already; the next one will meet it again
            return None

    def _fill(self, batches: Sequence[Batch]) -> None:
        """Copy images, truth, maps and camera views to where the step reads them."""
        fewest = min(net.num_constant_stages for net in self.nets)
        with self.trainers[0].autocast():
            know = [t.know(batch)[:fewest] for t, batch in zip(self.trainers, batches, strict=True)]
        known = [torch.cat(parts) for parts in zip(*know, strict=True)]
        shapes = [batch.image.shape for batch in batches]
        if self.batches and shapes != [held.image.shape for held in self.batches]:
            self.graph, self.batches, self.reason = None, [], "batches differ in shape"
        if not self.batches:
            self.taken = 0
            self.batches = [_copy(batch) for batch in batches]
            self.known = [value.clone() for value in known]
            for view in itertools.chain(*self.views):
                view.held.clear()
            return
        for held, batch in zip(self.batches, batches, strict=True):
            for name in TENSORS:
                getattr(held, name).copy_(getattr(batch, name), non_blocking=True)
        for held, value in zip(self.known, known, strict=True):
            held.copy_(value, non_blocking=True)
        self._show(batches)

    def _show(self, batches: Sequence[Batch]) -> None:
        """Put what is said of the batches' cameras where the networks read it."""
        for net, batch, views in zip(self.nets, batches, self.views, strict=True):
            cameras = net.pad(batch.image, batch.cameras)[1]
            for view in {id(view): view for view in views}.values():
                view.show(cameras)

    def _run(self) -> Float[Tensor, "n 2"]:
        if self.graph is not None:
            self.graph.replay()
            assert self.told is not None
            return self.told
        if self.reason or self.taken < PRACTICE:
            return self._practise()
        self._capture()
        return self._run()

    def _practise(self) -> Float[Tensor, "n 2"]:
        """Take a step as it is, and find out whether it could be captured."""
        reads = HostReads(self.trainers[0].device)
        # In the first step the views of the cameras are made, which is not part of a capture.
        watch = reads if 0 < self.taken < PRACTICE else nullcontext()
        with self._beside(), self._static(), watch:
            told = self._body()
        if reads.found:
            names = ", ".join(sorted({net.variant for net in self.nets}))
            self.reason = f"{names}: a step {reads.found[0]}"
        late = [t for t in self.trainers if any(b > len(t.history) for b in t.begins.values())]
        if late and not self.reason:
            self.reason = "parts of the network begin to train later"
        return told

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with self._static(), torch.cuda.graph(graph):
                self.told = self._body()
        except RuntimeError as error:
            # Capturing runs nothing: weights and optimiser are as they were.
            torch.cuda.synchronize()
            self.reason = f"CUDA refuses to capture it: {str(error).splitlines()[0]}"
            return
        self.graph = graph

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """Run on another stream than the default one, as a capture will."""
        if self.trainers[0].device.type != "cuda":
            yield
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream().wait_stream(stream)

    @contextmanager
    def _static(self) -> Iterator[None]:
        """Let every network read its cameras from the tensors that stay where they are."""
        own = [(net.embedder, net.adapter_embedder) for net in self.nets]
        try:
            for net, views in zip(self.nets, self.views, strict=True):
                net.embedder, net.adapter_embedder = views  # pyright: ignore[reportAttributeAccessIssue]
            yield
        finally:
            for net, (one, other) in zip(self.nets, own, strict=True):
                net.embedder, net.adapter_embedder = one, other

    def _body(self) -> Float[Tensor, "n 2"]:
        """Do one step from the static tensors; return each training's loss and gradient norm."""
        return run_body(self.trainers, self.batches, lambda: self.known, batched=self.batched)


def _copy(batch: Batch) -> Batch:
    return replace(batch, **{name: getattr(batch, name).clone() for name in TENSORS})


def run_body(
    trainers: Sequence[Trainer],
    batches: Sequence[Batch],
    know: Callable[[], Sequence[Tensor]],
    *,
    batched: bool = False,
) -> Float[Tensor, "n 2"]:
    """Forward, loss, backward, clipping and optimiser of trainings that share an encoder.

    Args:
        know: Returns the maps of first stages that need not be computed, of all images.
        batched: As ``forward_together`` takes it.

    Returns:
        Each training's loss and gradient norm; a training whose numbers are not finite has not
        moved.
    """
    first = trainers[0]
    for trainer in trainers:
        trainer.optimizer.zero_grad()
    nets = [net for trainer in trainers if isinstance(net := trainer.model, DepthNet)]
    with first.autocast():
        known = know()
        if len(nets) == 1:
            batch = batches[0]
            predictions = [nets[0](batch.image, batch.cameras, known=known)]
        else:
            images = torch.cat([batch.image for batch in batches])
            cameras = [camera for batch in batches for camera in batch.cameras]
            predictions = forward_together(nets, images, cameras, known=known, batched=batched)
    losses = [
        trainer.loss(batch, prediction)
        for trainer, batch, prediction in zip(trainers, batches, predictions, strict=True)
    ]
    torch.stack(losses).sum().backward()
    return torch.stack([_move(t, loss) for t, loss in zip(trainers, losses, strict=True)])


def _move(trainer: Trainer, loss: Float[Tensor, ""]) -> Float[Tensor, " 2"]:
    """Move a training; one that cannot is told so by its next record, as others may have moved."""
    try:
        return trainer.move(loss)
    except Exception as error:
        if loss.is_cuda and torch.cuda.is_current_stream_capturing():  # where nothing moves
            raise
        trainer.failure = error
        return torch.full((2,), math.nan, dtype=torch.float64, device=loss.device)


def is_wanted(trainers: Sequence[Trainer]) -> bool:
    """Say whether steps are to be taken from static tensors: on CUDA, unless switched off."""
    networks = all(isinstance(trainer.model, DepthNet) for trainer in trainers)
    on_cuda = all(trainer.device.type == "cuda" for trainer in trainers)
    return networks and on_cuda and is_on("capture")


def is_batched(trainers: Sequence[Trainer]) -> bool:
    """Say whether modules of one architecture are called at once: where launches cost most."""
    return trainers[0].device.type == "cuda" and is_on("batched")
