"""The work behind each command of ``dart``; imported only when one runs, for torch is heavy."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dart.cameras import load_camera
from dart.checkpoint_header import hash_checkpoint, read_metadata
from dart.data.dataset import open_domain
from dart.domains import DOMAINS, check_domain
from dart.errors import UserError, did_you_mean
from dart.metrics import METRICS
from dart.models import NetworkConfig, create_model, list_variants, variant_info
from dart.models.checkpoint import load_checkpoint, save_pretrained
from dart.models.depth_net import DepthNet
from dart.pictures import draw_distance
from dart.protocol import measure, predict, run_recipe
from dart.provenance import describe_environment
from dart.recipe import ProtocolSpec, Recipe, TrainingSpec
from dart.seeds import derive_generator
from dart.studies.plan import create_recipe
from dart.training.freeze import count_trainable, set_trainable
from dart.training.loop import Diverged, Step, Trainer
from dart.training.pretrain import pretrain


def _results(options: Namespace) -> Path:
    return options.results or Path(os.environ.get("DART_RESULTS", "results"))


def _device(options: Namespace) -> str:
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device {options.device}: not usable here: {str(error).splitlines()[0]}"
        ) from error
    return options.device


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to the folder {folder}: {error.strerror}") from error


def _progress() -> Progress:
    return Progress(console=Console(stderr=True), transient=True)


def _print_json(content: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, indent=1) + "\n")


def parse_assignments(texts: list[str]) -> dict[str, Any]:
    """Return ``NAME=VALUE`` texts as a mapping; values are read as YAML scalars.

    Raises:
        UserError: For a text without ``=``, or a name given twice.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"--set {text}: expected NAME=VALUE, for example num_queries=16")
        if name in values:
            raise UserError(f"--set {name}: given twice")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(
                f"--set {text}: the value is not a number, text or truth value"
            ) from None
    return values


def _recipe(options: Namespace) -> Recipe:
    for domain in (*options.source, options.target, *options.held_out):
        check_domain(domain)
    if options.variant not in list_variants():
        raise UserError(
            f"variant {options.variant!r} is not registered; there are: "
            f"{', '.join(list_variants())}{did_you_mean(options.variant, list_variants())}"
        )
    if options.seed < 0:
        raise UserError(f"--seed {options.seed}: expected at least 0")
    try:
        protocol = ProtocolSpec(
            pretrained=options.pretrained,
            source=tuple(options.source),
            target=options.target,
            held_out=tuple(options.held_out),
        )
        training = TrainingSpec(
            trainable=tuple(options.trainable),
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
        )
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # of several options together
            raise UserError(first["msg"].removeprefix("Value error, ")) from error
        place = "--" + str(first["loc"][0]).replace("_", "-")
        raise UserError(f"{place}: {first['msg']}, not {first['input']!r}") from error
    return create_recipe(
        options.variant, parse_assignments(options.set), protocol, training, options.seed
    )


def train(options: Namespace) -> int:
    """Adapt one variant with one seed and print what came of it."""
    recipe = _recipe(options)
    results = _results(options)
    folder = options.out or results / "train" / f"{recipe.variant}-{recipe.key[:8]}"
    if (folder / "result.json").exists():
        raise UserError(f"{folder} holds a finished run; choose another --out or delete it")
    state = folder / "training_state.pt"
    if state.exists() and not options.resume:
        raise UserError(f"{folder} holds an interrupted run; add --resume to go on with it")
    _make_folder(folder)
    _make_folder(results)
    console = Console(stderr=True)
    with _progress() as progress:
        task = progress.add_task(recipe.variant, total=recipe.training.steps)
        try:
            result = run_recipe(
                recipe,
                folder,
                results=results,
                device=_device(options),
                state=state,
                on_step=lambda done, _, loss: progress.update(
                    task, completed=done, description=f"{recipe.variant}  loss {loss:.4f}"
                ),
            )
        except Diverged as error:
            console.print(f"failed: {error}")
            return 1
    _print_outcome(result)
    console.print(f"The record lies in {folder}")
    return 0


def _print_outcome(result: Mapping[str, Any]) -> None:
    metric = result["metric"]
    table = Table(title=f"{result['variant']}, seed {result['seed']}: {metric} on test scenes")
    for column in ("domain", "role", "before", "after", "change"):
        table.add_column(column, justify="left" if column in ("domain", "role") else "right")
    for name, domain in result["domains"].items():
        before, after = domain["before"][metric], domain["after"][metric]
        table.add_row(
            name, domain["role"], f"{before:.4f}", f"{after:.4f}", f"{after / before - 1:+.1%}"
        )
    Console().print(table)


def _mean_errors(
    model: DepthNet, domain: str, split: str, device: torch.device
) -> dict[str, float]:
    data = open_domain(domain, split)
    errors = measure(data, predict(model, data, device=device))
    means = errors.groupby("metric", sort=False)["value"].mean()
    return {str(metric): float(value) for metric, value in means.items()}


def evaluate(options: Namespace) -> int:
    """Print every metric of a checkpoint on domains."""
    device = torch.device(_device(options))
    model = load_checkpoint(options.checkpoint).to(device)
    means = {}
    for domain in options.domains:
        check_domain(domain)
        means[domain] = _mean_errors(model, domain, options.split, device)
    if options.json:
        _print_json({"checkpoint": options.checkpoint, "split": options.split, "domains": means})
        return 0
    table = Table(title=f"{options.checkpoint}: mean over the images of {options.split}")
    table.add_column("domain")
    for metric in METRICS:
        table.add_column(metric, justify="right")
    for domain, values in means.items():
        table.add_row(domain, *(f"{values[metric]:.4f}" for metric in METRICS))
    Console().print(table)
    return 0


def predict_image(options: Namespace) -> int:
    """Write the distance map of one photograph as a 16-bit PNG and as a colour picture."""
    if not options.image.is_file():
        raise UserError(f"{options.image}: no such image")
    image = cv2.imread(str(options.image), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise UserError(f"{options.image}: not a readable image (PNG, JPEG or what OpenCV reads)")
    camera = load_camera(options.camera)
    if camera.size != image.shape[:2]:
        h, w = camera.size
        raise UserError(
            f"{options.camera} is the camera of {w}x{h} images, but {options.image} has "
            f"{image.shape[1]}x{image.shape[0]}"
        )
    if options.width < 32:
        raise UserError(f"--width {options.width}: expected at least 32 pixels")
    size = (max(32, round(image.shape[0] * options.width / image.shape[1])), options.width)
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    camera = camera.resize(size)
    device = torch.device(_device(options))
    model = load_checkpoint(options.checkpoint).to(device).eval()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float().to(device) / 255
    with torch.inference_mode():
        distance = model(pixels, [camera]).distance[0].float().cpu().numpy()
    valid = camera.valid().numpy()
    if not valid.any():
        raise UserError(f"{options.camera}: no pixel of the image lies in the lens's field of view")
    if not np.isfinite(distance[valid]).all():
        raise UserError(f"checkpoint {options.checkpoint} gives distances that are not finite")
    folder = options.out or options.image.parent
    _make_folder(folder)
    raw = folder / f"{options.image.stem}_distance.png"
    picture = folder / f"{options.image.stem}_distance_colour.png"
    millimetres = np.where(valid, distance * 1000, 0).round().clip(0, 65535).astype(np.uint16)
    if not cv2.imwrite(str(raw), millimetres):
        raise UserError(f"cannot write {raw}")
    draw_distance(distance, valid, picture)
    low, high = distance[valid].min(), distance[valid].max()
    Console().print(f"{raw} (millimetres along the ray; {low:.2f} to {high:.2f} m)\n{picture}")
    return 0


def variants(options: Namespace) -> int:
    """Print name, hypothesis, hyperparameters and trainable parameters of every variant."""
    rows = []
    for name in list_variants():
        info = variant_info(name)
        model = create_model(name)
        set_trainable(model, ["adapters"])
        adapters = count_trainable(model)
        set_trainable(model, TrainingSpec().trainable)
        rows.append(
            {
                "variant": name,
                "hypothesis": info.hypothesis,
                "compare_to": info.compare_to,
                "hyperparameters": {k: h.default for k, h in info.hyperparameters.items()},
                "adapter_parameters": adapters,
                "trainable_parameters": count_trainable(model),
            }
        )
    if options.json:
        _print_json({"variants": rows})
        return 0
    table = Table(
        title="variants (trainable: adapters alone / with decoder and scale head)", show_lines=True
    )
    for column in ("variant", "hypothesis", "hyperparameters and defaults", "trainable"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["variant"],
            row["hypothesis"],
            "\n".join(f"{k}={v}" for k, v in row["hyperparameters"].items()),
            f"{row['adapter_parameters']:,} /\n{row['trainable_parameters']:,}",
        )
    Console().print(table)
    return 0


def render(options: Namespace) -> int:
    """Render frames of a built-in domain."""
    from dart.data.render import cache_folder, render_frames  # noqa: PLC0415  starts a compiler

    check_domain(options.domain)
    for name in ("count", "workers"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: expected at least 1")
    out = options.out or cache_folder(options.domain, options.split)
    with _progress() as progress:
        task = progress.add_task(f"{options.domain}/{options.split}", total=options.count)
        render_frames(
            options.domain,
            options.split,
            count=options.count,
            out=out,
            workers=options.workers,
            on_frame=lambda done, _: progress.update(task, completed=done),
        )
    Console().print(f"{options.count} frames lie in {out}")
    return 0


def pretrain_source(options: Namespace) -> int:
    """Train a source network and write it with its recipe and its metrics."""
    device = torch.device(_device(options))
    check_domain(options.domain)
    try:
        spec = TrainingSpec(
            trainable=("encoder", "decoder", "scale_head"),
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            weight_decay=0.05,
            colour=0.5,
            loss=options.loss,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{first['loc'][0]}: {first['msg']}".replace("_", "-")) from error
    data = open_domain(options.domain, "train", folder=options.data)
    config = NetworkConfig(encoder=options.encoder)
    model = create_model("none", config=config, generator=derive_generator(options.seed, "init"))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)

    def report(done: int, mean: DepthNet) -> None:
        value = _mean_errors(mean, options.domain, "val", device)["abs_rel"]
        console.print(f"step {done}/{spec.steps}: validation abs_rel {value:.4f}")

    with _progress() as progress:
        task = progress.add_task("pretraining", total=spec.steps)

        def on_step(step: Step) -> None:
            text = f"pretraining  loss {step.loss:.4f}"
            progress.update(task, completed=step.step + 1, description=text)

        model.to(device=device, memory_format=torch.channels_last).requires_grad_(True)  # pyright: ignore[reportCallIssue]
        network = pretrain(
            Trainer(model, data, spec, options.seed, device),
            state=options.out.with_suffix(".state.pt"),
            on_step=on_step,
            on_save=report,
        )
    recipe = {
        "command": "dart pretrain",
        "domain": options.domain,
        "frames": len(data),
        "data": data.fingerprint,
        "seed": options.seed,
        "encoder": options.encoder,
        "training": spec.model_dump(mode="json"),
        "environment": describe_environment(device=str(device), threads=torch.get_num_threads()),
    }
    save_pretrained(network, options.out, metadata={"recipe": recipe})
    card = write_card(options.out, device=device)
    console.print(f"{options.out} ({options.out.stat().st_size / 2**20:.1f} MiB) and {card}")
    return 0


def write_card(checkpoint: Path, *, device: torch.device) -> Path:
    """Write a pretrained checkpoint's recipe and its test metrics beside it, as JSON.

    The file is measured as it lies on disk, in half precision: what an adaptation starts from.
    """
    model = load_checkpoint(checkpoint).to(device)
    card = {
        "checkpoint": checkpoint.name,
        "sha256": hash_checkpoint(checkpoint),
        "recipe": read_metadata(checkpoint)["recipe"],
        "test": {name: _mean_errors(model, name, "test", device) for name in DOMAINS},
    }
    path = checkpoint.with_suffix(".json")
    path.write_text(json.dumps(card, indent=1) + "\n")
    return path


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict_image,
    "variants": variants,
    "render": render,
    "pretrain": pretrain_source,
}
