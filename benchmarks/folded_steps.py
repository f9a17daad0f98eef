"""Training steps of several runs: one after the other in a plain loop, fast, and folded.

Every way trains the same runs (seeds of one variant on ``rooms_fisheye``) on the same batches, in
turn within one program, so that the ratios hold whatever else the machine does:

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
apart. The losses of each way are compared with the plain loop's, step by step. Last come the
memory that each way takes by itself, and how long the arithmetic of a plain step takes at the speed
of a product of large matrices.

Run: ``python benchmarks/folded_steps.py [--device cuda] [--variant daa] [--runs 8] [--rounds 12]``
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
from dart.training.loop import Step, Trainer, create_optimizer
from dart.training.loss import si_log
from dart.training.schedule import learning_rate_factor
from dart.training.together import share_encoder, take_steps
from dart.tricks import SWITCH

Losses = list[float]
PLAIN = {"plain": "scan,channels_last", "own scan": "channels_last", "channels-last": ""}
"""Way -> tricks that are off while it takes a step, beside those that no plain loop has."""
WAYS = (*PLAIN, "dart float32", "dart bfloat16", "folded float32", "folded bfloat16")
WEIGHED = 3
"""Steps after which memory grows no more."""


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
) -> Callable[[], Losses]:
    """Return what takes one step of every run and gives their losses."""
    data = open_domain("rooms_fisheye", "train")
    nets = [build(variant, seed, plain=way in PLAIN, device=device) for seed in seeds]
    if way in PLAIN:
        loops = [
            PlainLoop(net, data, spec, seed, off=PLAIN[way])
            for seed, net in zip(seeds, nets, strict=True)
        ]
        return lambda: [loop.take_step(device) for loop in loops]
    kind, precision = way.split()
    own = spec.model_copy(update={"precision": precision})
    trainers = [Trainer(net, data, own, s, device) for s, net in zip(seeds, nets, strict=True)]
    if kind == "dart":
        meet(trainers[0], data)
        return lambda: [trainer.take_step().loss for trainer in trainers]
    groups = share_encoder(trainers)
    meet(trainers[0], data)

    def step() -> Losses:
        taken = [step for group in groups for step in take_steps(group)]
        return [step.loss for step in taken if isinstance(step, Step)]

    return step


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


def serve(
    pipe: Connection, way: str, variant: str, seeds: Sequence[int], spec: TrainingSpec
) -> None:
    """Take a step of every run whenever asked to, in a process of one thread."""
    torch.set_num_threads(1)
    take = create_way(way, variant, seeds, spec, torch.device("cpu"))
    with suppress(EOFError):  # nobody asks any more
        while pipe.recv():
            pipe.send(take())


def weigh(
    pipe: Connection, way: str, variant: str, runs: int, spec: TrainingSpec, device: torch.device
) -> None:
    """Send the memory that a way takes at most, in a process that does nothing else [MiB]."""
    take = create_way(way, variant, range(runs), spec, device)
    for _ in range(WEIGHED):
        take()
    if device.type == "cpu":
        # Not ru_maxrss: that begins with what the parent had.
        [told] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        pipe.send(int(told) / 2**10)
    else:
        pipe.send(torch.cuda.max_memory_allocated(device) / 2**20)


def measure_memory(
    way: str, variant: str, runs: int, spec: TrainingSpec, device: torch.device
) -> float:
    """Return the peak memory of a way [MiB]: a process's whole on a CPU, else the accelerator's."""
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    process = context.Process(target=weigh, args=(other, way, variant, runs, spec, device))
    process.start()
    other.close()
    peak = own.recv()
    process.join()
    return peak


class Workers:
    """Processes that share the runs evenly and take their steps at the same time."""

    def __init__(
        self, count: int, precision: str, variant: str, runs: int, spec: TrainingSpec
    ) -> None:
        context, way = multiprocessing.get_context("spawn"), f"folded {precision}"
        self.pipes: list[Connection] = []
        for seeds in torch.arange(runs).tensor_split(count):
            own, other = context.Pipe()
            arguments = (other, way, variant, seeds.tolist(), spec)
            context.Process(target=serve, args=arguments, daemon=True).start()
            self.pipes.append(own)

    def __call__(self) -> Losses:
        """Take one step of every run."""
        for pipe in self.pipes:
            pipe.send(True)
        return [loss for pipe in self.pipes for loss in pipe.recv()]


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
    ways: Mapping[str, Callable[[], Losses]], warm_up: int, steps: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, list[Losses]]]:
    """Let every way take a step, one after the other; return seconds and losses of each."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    losses: dict[str, list[Losses]] = {way: [] for way in ways}
    for number in range(steps):
        for way, take in ways.items():
            begun = time.perf_counter()
            losses[way].append(take())
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= warm_up:
                seconds[way].append((time.perf_counter() - begun) / len(losses[way][-1]))
    return seconds, losses


def main() -> None:
    """Print milliseconds of a step of a run, images a second and ratios, then one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variant", default="daa_query_softmax")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8, help="images a step of one run")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread (CPU)")
    options = parser.parse_args()
    device = torch.device(options.device)
    warm_up, runs = 3, options.runs
    spec = TrainingSpec(steps=warm_up + options.rounds, batch_size=options.batch)
    ways = {way: create_way(way, options.variant, range(runs), spec, device) for way in WAYS}
    if options.workers > 1:
        for precision in ("float32", "bfloat16"):
            ways[f"{options.workers} workers {precision}"] = Workers(
                options.workers, precision, options.variant, runs, spec
            )
    seconds, losses = take_turns(ways, warm_up, spec.steps, device)
    report = {
        "device": str(device),
        "variant": options.variant,
        "runs": runs,
        "batch": spec.batch_size,
    }
    against = "plain" if device.type == "cpu" else "own scan"
    plain, times = statistics.median(seconds[against]), f"x {against}"
    print(f"{'way':18s} {'ms/step':>8s} {'images/s':>9s} {times:>10s} {'loss differs by':>16s}")
    for way, taken in seconds.items():
        median = statistics.median(taken)
        apart = torch.tensor(losses[way]) / torch.tensor(losses["plain"]) - 1
        worst = float(apart.abs().max())
        rate = spec.batch_size / median
        print(f"{way:18s} {1000 * median:8.1f} {rate:9.1f} {plain / median:10.2f} {worst:16.1e}")
        report[way] = {"ms": round(1000 * median, 2), "loss": worst}
    for way in WAYS:
        peak = measure_memory(way, options.variant, runs, spec, device)
        print(f"{way:18s} {peak:8.0f} MiB at most")
        report[way]["MiB"] = round(peak)
    report |= tell_ceilings(options.variant, spec, device)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
