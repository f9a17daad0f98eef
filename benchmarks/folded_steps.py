"""Training steps of several runs: one after the other in a plain loop, fast, and folded.

Every way trains the same runs (seeds of one variant on ``rooms_fisheye``) on the same batches. As
a script or a study would, it has a process of its own and takes several steps of a run in a row;
the processes take turns, so that the ratios hold whatever else the machine does:

- ``plain``: a plain eager loop over the network as it is built, in torch's default layout and with
  the encoder's scan step by step, as the public code runs without its CUDA kernel; one run after
  the other;
- ``own scan``: the same with our scan, what ratios are against on a GPU, where the public code has
  a scan of its own;
- ``channels-last``: the same with our scan on images whose channels lie together;
- ``dart float32``, ``dart bfloat16``: what a study's run does, one run after the other;
- ``folded float32``, ``folded bfloat16``: all runs take their steps together (``--fold``);
- ``N workers float32``, ``N workers bfloat16`` (with ``--workers N``): the runs in as many
  processes of one thread each, folded in each of them (``--workers N --fold M``).

Ours keep the maps of frozen first stages. All training pictures are shown to them before the clock
starts, as they are after the first epochs of a study's first run; what a new picture costs is told
apart. The losses of each way are compared with the plain loop's, step by step; memory is the peak
of a way's processes. Last comes how long the arithmetic of a plain step takes at the speed of a
product of large matrices.

Run: ``python -m benchmarks.folded_steps [--device cuda] [--variant daa] [--runs 8] [--rounds 12]``
"""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dart.cameras import CameraEmbedder
from dart.data.dataset import Sample, open_domain
from dart.data.sample import collate
from dart.data.transforms import flip
from dart.models import DepthNet, create_model
from dart.models.folding import fold
from dart.recipe import TrainingSpec
from dart.seeds import derive_generator
from dart.training.batches import Augmentation, Batches
from dart.training.freeze import set_trainable
from dart.training.loop import Trainer, create_optimizer
from dart.training.loss import si_log
from dart.training.schedule import learning_rate_factor
from dart.training.together import share_encoder, take_steps
from dart.tricks import SWITCH

Losses = list[float]
PLAIN = {"plain": "scan,channels_last", "own scan": "channels_last", "channels-last": ""}
"""Way -> tricks that are off while it takes a step, beside those that no plain loop has."""
WAYS = (*PLAIN, "dart float32", "dart bfloat16", "folded float32", "folded bfloat16")
WARM_UP = 3
"""Steps that are not timed."""


def build(variant: str, seed: int, *, plain: bool, device: torch.device) -> DepthNet:
    """Return the network of one run, prepared as a way does it."""
    model = create_model(
        variant, pretrained="rooms_small", generator=derive_generator(seed, "init")
    )
    if not plain:
        model.encoder = fold(model.encoder)
    set_trainable(model, TrainingSpec().trainable)
    layout = torch.contiguous_format if plain else torch.channels_last
    return model.to(device=device, memory_format=layout)  # pyright: ignore[reportCallIssue]


@contextmanager
def without(tricks: str) -> Iterator[None]:
    """Turn tricks off for a while."""
    before = os.environ.get(SWITCH, "")
    os.environ[SWITCH] = tricks
    try:
        yield
    finally:
        os.environ[SWITCH] = before


class PlainLoop:
    """What a script of one's own does."""

    def __init__(
        self,
        model: DepthNet,
        data: Sequence[Sample],
        spec: TrainingSpec,
        seed: int,
        *,
        off: str = "channels_last",
    ) -> None:
        self.model, self.spec, self.off = model, spec, off
        self.batches = Batches(data, spec.batch_size, Augmentation(spec.flip, spec.colour), seed)
        self.optimizer = create_optimizer(model, spec)
        self.step = 0

    def take_step(self, device: torch.device) -> float:
        """Do the next step and return its loss."""
        self.model.embedder = CameraEmbedder(self.model.config.camera_dim)
        factor = learning_rate_factor(
            self.step, self.spec.steps, schedule=self.spec.schedule, warm_up=self.spec.warm_up
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        batch = self.batches.draw(self.step).to(device)
        self.optimizer.zero_grad()
        with without(self.off):
            prediction = self.model(batch.image, batch.cameras)
        loss = si_log(prediction.distance, batch.distance, batch.valid)
        loss.backward()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        nn.utils.clip_grad_norm_(trained, self.spec.gradient_clip)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())


def create_way(
    way: str, variant: str, seeds: Sequence[int], spec: TrainingSpec, device: torch.device
) -> Callable[[int], list[Losses]]:
    """Return what takes so many steps of every run and gives the losses of each."""
    data = open_domain("rooms_fisheye", "train")
    nets = [build(variant, seed, plain=way in PLAIN, device=device) for seed in seeds]
    if way in PLAIN:
        loops = [
            PlainLoop(net, data, spec, seed, off=PLAIN[way])
            for seed, net in zip(seeds, nets, strict=True)
        ]
        return lambda count: [[loop.take_step(device) for _ in range(count)] for loop in loops]
    kind, precision = way.split()
    own = spec.model_copy(update={"precision": precision})
    trainers = [Trainer(net, data, own, s, device) for s, net in zip(seeds, nets, strict=True)]
    if kind == "dart":
        meet(trainers[0], data)
        return lambda count: [[one.take_step().loss for _ in range(count)] for one in trainers]
    groups = share_encoder(trainers)
    meet(trainers[0], data)

    def take(count: int) -> list[Losses]:
        for _ in range(count):
            for group in groups:
                take_steps(group)
        return [[step.loss for step in trainer.history[-count:]] for trainer in trainers]

    return take


def meet(trainer: Trainer, data: Sequence[Sample]) -> None:
    """Let a process keep what it keeps of every picture, and print what that takes."""
    kept = {} if trainer.prefix is None else trainer.prefix.kept
    known, begun = len(kept), time.perf_counter()
    with trainer.autocast():
        for sample in data:
            trainer.know(collate([sample, flip(sample)]).to(trainer.device))
    fresh = len(kept) - known
    if fresh:
        each = 1000 * (time.perf_counter() - begun) / fresh
        print(f"{fresh} pictures met for the first time: {each:.1f} ms each", file=sys.stderr)


def serve(pipe: Connection, threads: int, *arguments: Any) -> None:
    """Take as many steps of a way as asked for; asked for none, send the peak of memory.

    Args:
        pipe: Says when the way is ready, and then whatever is asked for.
        threads: Threads of this process.
        arguments: Those of ``create_way``.
    """
    torch.set_num_threads(threads)
    take = create_way(*arguments)
    pipe.send("ready")
    with suppress(EOFError):  # nobody asks any more
        while True:
            count = pipe.recv()
            pipe.send(take(count) if count else measure_memory())


def measure_memory() -> float:
    """Return the peak memory of this process [MiB]: the accelerator's where it has one."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    # Not ru_maxrss: that begins with what the parent had.
    [told] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(told) / 2**10


class Way:
    """One or more processes that share the runs evenly and take their steps at the same time."""

    def __init__(
        self,
        way: str,
        variant: str,
        runs: int,
        spec: TrainingSpec,
        device: torch.device,
        *,
        workers: int = 1,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        threads = torch.get_num_threads() if workers == 1 else 1
        self.pipes: list[Connection] = []
        for seeds in torch.arange(runs).tensor_split(workers):
            own, other = context.Pipe()
            arguments = (other, threads, way, variant, seeds.tolist(), spec, device)
            context.Process(target=serve, args=arguments, daemon=True).start()
            other.close()
            self.pipes.append(own)
        for pipe in self.pipes:
            pipe.recv()

    def take(self, count: int) -> list[Losses]:
        """Take so many steps of every run and return the losses of each."""
        return [losses for answer in self._ask(count) for losses in answer]

    def measure_memory(self) -> float:
        """Return the peak memory of all processes [MiB]."""
        return sum(self._ask(0))

    def _ask(self, count: int) -> list[Any]:
        for pipe in self.pipes:
            pipe.send(count)
        return [pipe.recv() for pipe in self.pipes]


def count_operations(variant: str, spec: TrainingSpec, device: torch.device) -> int:
    """Return the floating-point operations of a step of the plain loop."""
    data = open_domain("rooms_fisheye", "train")
    loop = PlainLoop(build(variant, 0, plain=True, device=device), data, spec, 0)
    counter = FlopCounterMode(display=False)
    with counter:
        loop.take_step(device)
    return counter.get_total_flops()


def measure_ceiling(precision: torch.dtype, device: torch.device, size: int = 2048) -> float:
    """Return the operations a second of a product of two large matrices."""
    one = torch.rand(size, size).to(device, precision)
    seconds = []
    for _ in range(8):
        begun = time.perf_counter()
        torch.mm(one, one)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / min(seconds)


def tell_ceilings(variant: str, spec: TrainingSpec, device: torch.device) -> dict[str, float]:
    """Print how long the arithmetic of a plain step takes at the speed of a large product."""
    operations, report = count_operations(variant, spec, device), {}
    for precision in (torch.float32, torch.bfloat16):
        ceiling, name = measure_ceiling(precision, device), str(precision).removeprefix("torch.")
        least = 1000 * operations / ceiling
        print(
            f"{operations / 1e9:.1f} GFLOP a step take {least:.1f} ms at the {ceiling / 1e9:.0f} "
            f"GFLOP/s of a large product in {name}"
        )
        report[f"least ms {name}"] = round(least, 2)
    return report


def take_turns(
    ways: Mapping[str, Way], rounds: int, stretch: int
) -> tuple[dict[str, list[float]], dict[str, list[list[Losses]]]]:
    """Let every way take some steps, one after the other.

    Returns:
        Seconds a step of a run, and the losses of each run: a number or a list for every turn.
    """
    losses = {name: [way.take(WARM_UP)] for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            taken = way.take(stretch)
            seconds[name].append((time.perf_counter() - begun) / stretch / len(taken))
            losses[name].append(taken)
    return seconds, losses


def compare(losses: Sequence[list[Losses]], others: Sequence[list[Losses]]) -> float:
    """Return how far losses differ from others, as a share of them, at most."""
    apart = [
        torch.tensor(own) / torch.tensor(other) - 1
        for own, other in zip(losses, others, strict=True)
    ]
    return float(torch.cat([each.abs().flatten() for each in apart]).max())


def main() -> None:
    """Print milliseconds of a step of a run, images a second and ratios, then one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variant", default="daa_query_softmax")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8, help="images a step of one run")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each way")
    parser.add_argument("--stretch", type=int, default=4, help="steps of a run in a turn")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread (CPU)")
    options = parser.parse_args()
    device, runs = torch.device(options.device), options.runs
    steps = WARM_UP + options.rounds * options.stretch
    spec = TrainingSpec(steps=steps, batch_size=options.batch)
    ways = {way: Way(way, options.variant, runs, spec, device) for way in WAYS}
    if options.workers > 1:
        for precision in ("float32", "bfloat16"):
            ways[f"{options.workers} workers {precision}"] = Way(
                f"folded {precision}", options.variant, runs, spec, device, workers=options.workers
            )
    seconds, losses = take_turns(ways, options.rounds, options.stretch)
    report: dict[str, Any] = {
        "device": str(device),
        "variant": options.variant,
        "runs": runs,
        "batch": spec.batch_size,
    }
    against = "plain" if device.type == "cpu" else "own scan"
    plain, times = statistics.median(seconds[against]), f"x {against}"
    print(
        f"{'way':18s} {'ms/step':>8s} {'images/s':>9s} {times:>10s} {'loss differs by':>16s}    MiB"
    )
    for name, way in ways.items():
        median, worst = statistics.median(seconds[name]), compare(losses[name], losses["plain"])
        rate, peak = spec.batch_size / median, way.measure_memory()
        print(
            f"{name:18s} {1000 * median:8.1f} {rate:9.1f} {plain / median:10.2f} {worst:16.1e}"
            f" {peak:6.0f}"
        )
        report[name] = {"ms": round(1000 * median, 2), "loss": worst, "MiB": round(peak)}
    report |= tell_ceilings(options.variant, spec, device)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
