"""Steps of training and passes of the encoder: plain and eager, as a run takes them, and replayed.

All ways of a table take turns within one program, on the same images. A way is one of

- ``plain``: a plain eager loop over the network as it is built (``benchmarks/folded_steps.py``);
- ``dart float32``, ``dart bfloat16``: what a study's run does where nothing is captured;
- ``static float32``, ``static bfloat16``: the same from tensors that stay where they are, on CUDA
  captured and replayed as one graph; on a CPU there is no graph, only its bookkeeping;
- ``folded bfloat16``: all runs of the fold together, from such tensors;
- ``batched bfloat16``: the same with their adapters and heads called at once.

Images repeat, so that maps of frozen first stages are known, as they are in all of a study but its
first epoch. ``ready`` is the time from a network to the end of its fifth step, capture included.
On CUDA also peak memory. Beside each step stand its operators, what they read and write
(``benchmarks/traffic.py``), and the operations and bytes a second that follow, whose ceilings are
those of a product of matrices and of a copy; the operators that take most of a step's time are
below them. What cannot be measured is said.

Run: ``python -m benchmarks.captured_steps [--device cuda] [--small] [--compile] [--rounds 10]``
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.folded_steps import PlainLoop, build
from benchmarks.traffic import Traffic
from dart.cameras import KannalaBrandt
from dart.data.sample import Sample
from dart.models.folding import fold
from dart.recipe import TrainingSpec
from dart.seeds import derive_generator
from dart.training.captured import StaticStep
from dart.training.loop import Step, Trainer
from dart.training.passes import Replayed
from dart.training.together import share_encoder

Work = Callable[[], object]
Size = tuple[int, int]
WAYS = (
    "plain",
    "dart float32",
    "dart bfloat16",
    "static float32",
    "static bfloat16",
    "folded bfloat16",
    "batched bfloat16",
)
WARM_UP = 5
"""Steps that are not timed: practice, capture and the first replay are among them."""
GOALS = {
    ((192, 256), "static bfloat16"): 12.0,
    ((480, 640), "static bfloat16"): 3.0,
    ((192, 256), "folded bfloat16"): 30.0,
    ((96, 128), "dart bfloat16"): 2.0,
    ((96, 128), "folded bfloat16"): 3.0,
    ((192, 256), "batched bfloat16"): 30.0,
}
"""Size and way -> times the plain loop's images a second that were aimed at."""


@dataclass
class Way:
    """One way of doing the same, and what was measured of it."""

    work: Work
    images: int
    seconds: list[float]
    ready: float = 0.0
    memory: int = 0
    """Peak bytes on the device."""
    note: str = ""
    operators: int = 0
    traffic: int = 0
    """Bytes that the operators read and write."""


def make_samples(size: Size, count: int = 16) -> list[Sample]:
    """Return images of noise through one fisheye, whose pictures are whole numbers of 255."""
    height, width = size
    lens = [0.34 * width, 0.34 * width, width / 2, height / 2, 0.03, -0.012, 0.002, 0.0]
    camera = KannalaBrandt(torch.tensor(lens), size)
    samples = []
    for index in range(count):
        draw = derive_generator(index, "captured_steps")
        pixels = torch.randint(0, 256, (3, height, width), generator=draw)
        distance = 1 + 4 * torch.rand(size, generator=draw)
        valid = torch.ones(size, dtype=torch.bool)
        image = pixels.to(torch.uint8).float() / 255
        samples.append(Sample(image, distance, valid, camera, str(index), index))
    return samples


def wait(device: torch.device) -> None:
    """Wait until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def create_way(way: str, options: Any, data: Sequence[Sample], runs: int) -> Way:
    """Return what takes one step of a run, or of each run of a fold."""
    device = torch.device(options.device)
    begun = time.perf_counter()
    spec = TrainingSpec(steps=WARM_UP + options.rounds + 1, batch_size=options.batch)
    if way == "plain":
        net = build(options.variant, 0, plain=True, device=device)
        loop = PlainLoop(net, data, spec, 0)
        made = Way(lambda: loop.take_step(device), options.batch, [])
    else:
        kind, precision = way.split()
        own = spec.model_copy(update={"precision": precision})
        count = runs if kind in ("folded", "batched") else 1
        nets = [build(options.variant, seed, plain=False, device=device) for seed in range(count)]
        trainers = [Trainer(net, data, own, seed, device) for seed, net in enumerate(nets)]
        share_encoder(trainers)
        if kind == "dart":
            made = Way(trainers[0].take_step, options.batch, [])
        else:
            static = StaticStep(trainers, batched=kind == "batched")
            made = _create_static(static, options.batch * count)
    made.work()
    with Traffic() as traffic:  # before the capture: a graph runs no operators
        made.work()
    made.operators, made.traffic = traffic.operators, traffic.bytes
    return _warm(made, begun, device, times=WARM_UP - 2)


def _create_static(static: StaticStep, images: int) -> Way:
    made = Way(lambda: None, images, [])

    def work() -> None:
        failed = [step for step in static.take() if not isinstance(step, Step)]
        if failed:
            raise failed[0]
        made.note = static.reason or ("replayed" if static.graph else "not yet captured")

    made.work = work
    return made


def _warm(made: Way, begun: float, device: torch.device, *, times: int) -> Way:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(times):
        made.work()
    wait(device)
    made.ready = time.perf_counter() - begun
    made.memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return made


def take_turns(ways: Mapping[str, Way], rounds: int, device: torch.device) -> None:
    """Time every way once a round."""
    for _ in range(rounds):
        for way in ways.values():
            wait(device)
            begun = time.perf_counter()
            way.work()
            wait(device)
            way.seconds.append(time.perf_counter() - begun)


def create_encoders(batch: int, size: Size, device: torch.device, *, compiled: bool) -> dict:
    """Return ways of passing images through the encoder alone, without gradients."""
    encoder = build("none", 0, plain=True, device=device).encoder.eval()
    image = torch.rand(batch, 3, *size, generator=derive_generator(0, "image")).to(device)
    folded = fold(copy.deepcopy(encoder)).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    rows = image.contiguous(memory_format=torch.channels_last)

    def lower(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return encode(folded, x)

    calls: dict[str, tuple[Callable, torch.Tensor]] = {
        "plain": (lambda x: encode(encoder, x), image),
        "folded float32": (lambda x: encode(folded, x), rows),
        "static float32": (Replayed(lambda x: encode(folded, x)), rows),
        "static bfloat16": (Replayed(lower), rows),
    }
    if compiled:
        calls["compiled bfloat16"] = (torch.compile(lower, mode="reduce-overhead"), rows)
    ways = {}
    for name, (call, entering) in calls.items():
        begun = time.perf_counter()
        work = torch.no_grad()(lambda call=call, entering=entering: call(entering))
        ways[name] = _warm(Way(work, batch, []), begun, device, times=3)
        if isinstance(call, Replayed):
            ways[name].note = call.reason or "replayed"
    return ways


def encode(encoder: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Return the deepest map."""
    features = image
    for index in range(4):
        features = encoder.stage_layers(index)(features)  # pyright: ignore[reportCallIssue]
    return features


def measure_ceilings(device: torch.device) -> dict[str, float]:
    """Return what the device can do: bytes a second of a copy, operations a second of products."""
    side = 8192 if device.type == "cuda" else 512
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        one = torch.ones(side, side, dtype=dtype, device=device)
        found[f"{name} operations/s"] = 2 * side**3 / _fastest(lambda one=one: one @ one, device)
    source = torch.ones(8192 * 8192, device=device)  # 256 MiB: no cache holds it
    target = torch.empty_like(source)
    found["bytes/s"] = 2 * source.nbytes / _fastest(lambda: target.copy_(source), device)
    return found


def _fastest(work: Work, device: torch.device) -> float:
    way = _warm(Way(work, 0, []), 0.0, device, times=2)
    take_turns({"": way}, 8, device)
    return min(way.seconds)


def show_busy(name: str, way: Way, device: torch.device) -> None:
    """Print what a step's time goes to, the launching of kernels apart."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    begun = time.perf_counter()
    with profile(activities=activities) as profiled:
        way.work()
        wait(device)
    whole = 1e6 * (time.perf_counter() - begun)
    of = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    rows = sorted(profiled.key_averages(), key=lambda row: getattr(row, of), reverse=True)
    busy = sum(getattr(row, of) for row in rows)
    print(f"\n{name}: {100 * busy / whole:.0f} % of a profiled step is spent in operators, of it")
    for row in rows[:8]:
        print(
            f"  {100 * getattr(row, of) / max(busy, 1e-9):5.1f} %  {row.count:5d} x {row.key[:70]}"
        )


def count_operations(options: Any, data: Sequence[Sample]) -> int:
    """Return the operations of convolutions and products of matrices of one image's step."""
    net = build(options.variant, 0, plain=False, device=torch.device("cpu"))
    trainer = Trainer(net, data, TrainingSpec(batch_size=1), 0, torch.device("cpu"))
    trainer.draw()
    trainer.know(trainer.draw())  # not counted: they are known in all but the first epoch
    with FlopCounterMode(display=False) as counter:
        trainer.take_step()
    return int(counter.get_total_flops())


def show(title: str, ways: Mapping[str, Way], size: Size, operations: int = 0) -> dict[str, Any]:
    """Print a table and return its numbers."""
    print(f"\n{title}")
    print(
        f"{'way':18s} {'ms':>8s} {'images/s':>9s} {'x plain':>8s} {'goal':>5s} ready s  MiB  note"
    )
    plain = ways["plain"]
    base = plain.images / statistics.median(plain.seconds)
    report = {}
    for name, way in ways.items():
        median = statistics.median(way.seconds)
        rate = way.images / median
        goal = GOALS.get((size, name), 0.0) if operations else 0.0
        told = f"{1000 * median:8.1f} {rate:9.1f} {rate / base:8.2f} {goal or '':>5}"
        done = ""
        if operations:
            moved = way.traffic / median / 1e9
            done = f", {rate * operations / 1e9:.0f} GFLOP/s"
            done += f", {way.operators} operators move {way.traffic >> 20} MiB: {moved:.1f} GB/s"
        print(f"{name:18s} {told} {way.ready:7.1f} {way.memory >> 20:4d}  {way.note}{done}")
        report[name] = {"ms": round(1000 * median, 3), "x plain": round(rate / base, 3)}
        report[name] |= {"ready": round(way.ready, 2), "bytes": way.memory, "goal": goal}
        report[name] |= {"operators": way.operators, "bytes moved": way.traffic}
    return report


def main() -> None:
    """Print a table for each size, the ceilings, and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variant", default="daa_query_softmax")
    parser.add_argument("--batch", type=int, default=8, help="images a step of one run")
    parser.add_argument("--runs", type=int, default=0, help="in a fold; 16 on CUDA, else 4")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--small", action="store_true", help="tiny images: does it run at all")
    parser.add_argument("--compile", action="store_true", help="compile the encoder too: minutes")
    options = parser.parse_args()
    device = torch.device(options.device)
    is_cuda = device.type == "cuda"
    runs = options.runs or (16 if is_cuda else 4)
    sizes: list[Size] = [(192, 256), (480, 640)] if is_cuda else [(96, 128)]
    passes = [(1, (480, 640)), (64, (224, 224))] if is_cuda else [(1, (96, 128)), (8, (96, 128))]
    if options.small:
        sizes, passes = [(32, 64)], [(1, (32, 64))]
    report: dict[str, Any] = {"device": str(device), "torch": torch.__version__, "runs": runs}
    for size in sizes:
        data = make_samples(size)
        names = [
            "plain",
            *(f"{k} {p}" for k in ("dart", "static") for p in ("float32", "bfloat16")),
        ]
        if size[0] < 480:
            names += ["folded bfloat16", "batched bfloat16"]
        ways = {name: create_way(name, options, data, runs) for name in names}
        take_turns(ways, options.rounds, device)
        title = f"a step of training, {options.batch} x {size[0]} x {size[1]}, fold of {runs}"
        report[title] = show(title, ways, size, count_operations(options, data))
        show_busy("static bfloat16", ways["static bfloat16"], device)
        del ways
    for batch, size in passes:
        encoders = create_encoders(batch, size, device, compiled=options.compile)
        take_turns(encoders, options.rounds, device)
        title = f"a pass of the encoder, {batch} x {size[0]} x {size[1]}"
        report[title] = show(title, encoders, size)
    report["ceilings"] = measure_ceilings(device)
    print()
    for name, value in report["ceilings"].items():
        print(f"ceiling: {value / 1e9:.1f} G{name}")
    if not is_cuda:
        print("not measured without a GPU: graphs, peak memory, the goals of 12, 3 and 30 times")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
