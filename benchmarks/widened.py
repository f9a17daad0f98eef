"""Steps in bfloat16 on a processor that has no bfloat16: torch's own products, and ours in float32.

Three ways take turns within one program, on the same images: a run in float32, in bfloat16 as torch
computes it there, and in bfloat16 with products in float32 on rounded numbers (``widened``). Their
losses are compared. On a processor with bfloat16 all is as if it had none, but for torch's own
products; ``ONEDNN_MAX_CPU_ISA`` takes it from them (``AVX512_CORE``: imitated; ``AVX2`` with
``ATEN_CPU_CAPABILITY=avx2``: loops).

Run: ``OMP_NUM_THREADS=1 python -m benchmarks.widened [--rounds 6]``
"""

import argparse
import json
import os
import statistics
import time
from contextlib import nullcontext

import torch

from benchmarks.captured_steps import make_samples
from benchmarks.folded_steps import build, without
from dart.recipe import TrainingSpec
from dart.training import precision
from dart.training.loop import Trainer

WAYS = {"float32": "float32", "native": "bfloat16", "widened": "bfloat16"}
"""Way -> the precision that a study would ask for."""


def main() -> None:
    """Print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--variant", default="daa_query_softmax")
    parser.add_argument("--rounds", type=int, default=6, help="steps that are timed, after two")
    options = parser.parse_args()
    device = torch.device("cpu")
    data = make_samples((96, 128))
    has = precision.has_bfloat16()
    precision.has_bfloat16 = lambda: False
    trainers, seconds = {}, {way: [] for way in WAYS}
    for way, name in WAYS.items():
        net = build(options.variant, 0, plain=False, device=device)
        spec = TrainingSpec(steps=options.rounds + 2, batch_size=8)
        own = spec.model_copy(update={"precision": name})
        trainers[way] = Trainer(net, data, own, 0, device)
    for _ in range(options.rounds + 2):
        for way, trainer in trainers.items():
            begun = time.perf_counter()
            with without("widened") if way == "native" else nullcontext():
                trainer.take_step()
            seconds[way].append(time.perf_counter() - begun)
    limits = {name: os.environ.get(name) for name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")}
    told = ", ".join(f"{name}={value}" for name, value in limits.items() if value)
    print(f"{torch.get_num_threads()} threads, the processor has bfloat16: {has} {told}")
    print(f"{'way':10s} {'ms':>8s} {'x native':>9s}  loss differs from native by")
    ms = {way: 1000 * statistics.median(own[2:]) for way, own in seconds.items()}
    native = [step.loss for step in trainers["native"].history]
    report = {}
    for way, trainer in trainers.items():
        pairs = zip(trainer.history, native, strict=True)
        apart = max(abs(step.loss - other) for step, other in pairs)
        print(f"{way:10s} {ms[way]:8.1f} {ms['native'] / ms[way]:9.2f}  {apart:.1e}")
        report[way] = {"ms": round(ms[way], 2), "loss": apart}
    print(json.dumps({"has bfloat16": has, **limits, **report}))


if __name__ == "__main__":
    main()
