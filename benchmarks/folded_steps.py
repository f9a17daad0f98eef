"""Training steps of several runs: one after the other in a plain loop, fast, and folded.

Every way trains the same runs (seeds of one variant on ``rooms_fisheye``) on the same batches, in
turn within one program, so that the ratios hold whatever else the machine does:

- ``plain``: a plain eager loop over the network as it is built, one run after the other;
- ``dart float32``, ``dart bfloat16``: what a study's run does, one run after the other;
- ``folded float32``, ``folded bfloat16``: all runs take their steps together (``--fold``).

The losses of each way are compared with the plain loop's, step by step.

Run: ``python benchmarks/folded_steps.py [--device cuda] [--variant daa] [--runs 8] [--rounds 12]``
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from dart.cameras import CameraEmbedder
from dart.data.dataset import Sample, open_domain
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

Losses = list[float]
WAYS = ("plain", "dart float32", "dart bfloat16", "folded float32", "folded bfloat16")


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


class PlainLoop:
    """What a script of one's own does."""

    def __init__(
        self, model: DepthNet, data: Sequence[Sample], spec: TrainingSpec, seed: int
    ) -> None:
        self.model, self.spec = model, spec
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
        prediction = self.model(batch.image, batch.cameras)
        loss = si_log(prediction.distance, batch.distance, batch.valid)
        loss.backward()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        nn.utils.clip_grad_norm_(trained, self.spec.gradient_clip)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())


def create_way(
    way: str, variant: str, runs: int, spec: TrainingSpec, device: torch.device
) -> Callable[[], Losses]:
    """Return what takes one step of every run and gives their losses."""
    data = open_domain("rooms_fisheye", "train")
    nets = [build(variant, seed, plain=way == "plain", device=device) for seed in range(runs)]
    if way == "plain":
        loops = [PlainLoop(net, data, spec, seed) for seed, net in enumerate(nets)]
        return lambda: [loop.take_step(device) for loop in loops]
    kind, precision = way.split()
    own = spec.model_copy(update={"precision": precision})
    trainers = [Trainer(net, data, own, seed, device) for seed, net in enumerate(nets)]
    if kind == "dart":
        return lambda: [trainer.take_step().loss for trainer in trainers]
    groups = share_encoder(trainers)

    def step() -> Losses:
        taken = [step for group in groups for step in take_steps(group)]
        return [step.loss for step in taken if isinstance(step, Step)]

    return step


def main() -> None:
    """Print milliseconds of a step of a run, images a second and ratios, then one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variant", default="daa_query_softmax")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8, help="images a step of one run")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    device = torch.device(options.device)
    warm_up, runs = 3, options.runs
    spec = TrainingSpec(steps=warm_up + options.rounds, batch_size=options.batch)
    ways = {way: create_way(way, options.variant, runs, spec, device) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    losses: dict[str, list[Losses]] = {way: [] for way in WAYS}
    for round_number in range(spec.steps):
        for way, take in ways.items():
            begun = time.perf_counter()
            losses[way].append(take())
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_number >= warm_up:
                seconds[way].append((time.perf_counter() - begun) / runs)
    report = {
        "device": str(device),
        "variant": options.variant,
        "runs": runs,
        "batch": spec.batch_size,
    }
    plain = statistics.median(seconds["plain"])
    print(f"{'way':16s} {'ms/step':>8s} {'images/s':>9s} {'x plain':>8s} {'loss differs by':>16s}")
    for way, taken in seconds.items():
        median = statistics.median(taken)
        apart = torch.tensor(losses[way]) / torch.tensor(losses["plain"]) - 1
        worst = float(apart.abs().max())
        rate = spec.batch_size / median
        print(f"{way:16s} {1000 * median:8.1f} {rate:9.1f} {plain / median:8.2f} {worst:16.1e}")
        report[way] = {"ms": round(1000 * median, 2), "loss": worst}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
