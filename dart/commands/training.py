"""``dart train`` and ``dart pretrain``."""

import hashlib
import json
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from dart.checkpoint_header import hash_checkpoint, read_metadata, resolve_checkpoint
from dart.commands.common import create_progress, make_folder, results_folder
from dart.commands.reading import check_device, mean_errors
from dart.data.dataset import open_domain
from dart.data.domain_file import find_domain
from dart.domains import DOMAINS, check_domain
from dart.errors import UserError, did_you_mean
from dart.models import NetworkConfig, create_model, list_variants
from dart.models.checkpoint import load_checkpoint, save_pretrained
from dart.models.depth_net import DepthNet
from dart.models.encoder import create_encoder
from dart.protocol import run_recipe
from dart.provenance import describe_environment
from dart.recipe import ProtocolSpec, Recipe, TrainingSpec
from dart.seeds import derive_generator
from dart.studies.plan import create_recipe
from dart.training.batches import Joined
from dart.training.loop import Diverged, Step, Trainer
from dart.training.pretrain import pretrain
from dart.tricks import is_on


def parse_assignments(texts: list[str], *, option: str = "--set") -> dict[str, Any]:
    """Return ``NAME=VALUE`` texts as a mapping; values are read as YAML.

    Raises:
        UserError: For a text without ``=``, or a name given twice.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"{option} {text}: expected NAME=VALUE, for example num_queries=16")
        if name in values:
            raise UserError(f"{option} {name}: given twice")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(
                f"{option} {text}: the value is not a number, text or truth value"
            ) from None
    return values


def _recipe(options: Namespace) -> Recipe:
    for domain in (*options.source, options.target, *options.held_out):
        find_domain(domain)
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
        training = TrainingSpec.model_validate(_training_fields(options))
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # of several options together
            raise UserError(first["msg"].removeprefix("Value error, ")) from error
        name, value = str(first["loc"][0]), first["input"]
        place = f"--{name.replace('_', '-')}" if hasattr(options, name) else f"--training {name}"
        allowed = re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected", "")))
        reason = first["msg"].removeprefix("Value error, ")
        hint = did_you_mean(str(value), allowed)
        raise UserError(f"{place}: {reason}, not {value!r}{hint}") from error
    return create_recipe(
        options.variant, parse_assignments(options.set), protocol, training, options.seed
    )


def _training_fields(options: Namespace) -> dict[str, Any]:
    """Return the fields of the training block: of their own options, and of ``--training``.

    Raises:
        UserError: There is no such field, or it has an option of its own.
    """
    own = {"trainable", "steps", "batch_size", "learning_rate"}
    given = parse_assignments(options.training, option="--training")
    others = [name for name in TrainingSpec.model_fields if name not in own]
    for name in given:
        if name in own:
            raise UserError(f"--training {name}: has an option, --{name.replace('_', '-')}")
        if name not in others:
            raise UserError(
                f"--training {name}: no such option of training; there are: {', '.join(others)}"
                f"{did_you_mean(name, others)}"
            )
    return {name: getattr(options, name) for name in own} | given


def train(options: Namespace) -> int:
    """Adapt one variant with one seed and print what came of it."""
    recipe = _recipe(options)
    results = results_folder(options)
    folder = options.out or results / "train" / f"{recipe.variant}-{recipe.key[:8]}"
    if (folder / "result.json").exists():
        raise UserError(f"{folder} holds a finished run; choose another --out or delete it")
    state = folder / "training_state.pt"
    if state.exists() and not options.resume:
        raise UserError(f"{folder} holds an interrupted run; add --resume to go on with it")
    make_folder(folder)
    make_folder(results)
    console = Console(stderr=True)
    with create_progress() as progress:
        task = progress.add_task(recipe.variant, total=recipe.training.steps)
        try:
            result = run_recipe(
                recipe,
                folder,
                results=results,
                device=check_device(options),
                state=state,
                on_step=lambda done, _, loss: progress.update(
                    task, completed=done, description=f"{recipe.variant}  loss {loss:.4f}"
                ),
            )
        except Diverged as error:
            console.print(f"failed: {error}")
            return 1
    state.unlink(missing_ok=True)
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


def pretrain_source(options: Namespace) -> int:
    """Train a source network and write it with its recipe and its metrics."""
    device = torch.device(check_device(options))
    folders = options.data or [None] * len(options.domain)
    if len(folders) != len(options.domain):
        told = f"{len(folders)} folders for {len(options.domain)} domains"
        raise UserError(f"--data: {told}; one a domain, in their order")
    for domain in options.domain:
        check_domain(domain)
    try:
        spec = TrainingSpec(
            trainable=("encoder", "decoder", "scale_head"),
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            weight_decay=0.05,
            colour=0.5,
            loss=options.loss,
            precision=options.precision,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{first['loc'][0]}: {first['msg']}".replace("_", "-")) from error
    sets = [
        open_domain(domain, "train", folder=folder)
        for domain, folder in zip(options.domain, folders, strict=True)
    ]
    model = _start_network(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)

    def report(done: int, mean: DepthNet) -> None:
        told = [
            f"{mean_errors(mean, domain, 'val', device)['abs_rel']:.4f} on {domain}"
            for domain in dict.fromkeys(options.domain)
            if check_domain(domain).splits["val"].shipped
        ]
        console.print(f"step {done}/{spec.steps}: validation abs_rel {', '.join(told)}")

    with create_progress() as progress:
        task = progress.add_task("pretraining", total=spec.steps)

        def on_step(step: Step) -> None:
            text = f"pretraining  loss {step.loss:.4f}"
            progress.update(task, completed=step.step + 1, description=text)

        layout = torch.channels_last if is_on("channels_last") else torch.contiguous_format
        model.to(device=device, memory_format=layout).requires_grad_(True)  # pyright: ignore[reportCallIssue]
        network = pretrain(
            Trainer(model, _draw_alike(sets), spec, options.seed, device),
            state=options.out.with_suffix(".state.pt"),
            average=min(0.999, 1 - 10 / max(20, spec.steps)),  # of about a tenth of the steps
            on_step=on_step,
            on_save=report,
        )
    recipe = {
        "command": "dart pretrain",
        "domains": {
            domain: {
                "frames": len(data),
                "data": data.fingerprint,
                "listed": options.domain.count(domain),
            }
            for domain, data in zip(options.domain, sets, strict=True)
        },
        "network": options.network and _describe_file(resolve_checkpoint(options.network)),
        "seed": options.seed,
        "encoder": options.encoder,
        "encoder_weights": options.encoder_weights and _describe_file(options.encoder_weights),
        "training": spec.model_dump(mode="json"),
        "environment": describe_environment(device=str(device), threads=torch.get_num_threads()),
    }
    save_pretrained(network, options.out, metadata={"recipe": recipe})
    card = write_card(options.out, device=device)
    console.print(f"{options.out} ({options.out.stat().st_size / 2**20:.1f} MiB) and {card}")
    return 0


def _start_network(options: Namespace) -> DepthNet:
    """Return the network that training begins from."""
    if options.network is not None:
        if options.encoder_weights is not None:
            raise UserError("--encoder-weights: --network brings an encoder's weights already")
        model = load_checkpoint(options.network)
        farthest = options.max_distance or model.config.max_distance
        model.config = replace(model.config, max_distance=farthest)
        return model
    farthest = options.max_distance or NetworkConfig.max_distance
    config = NetworkConfig(encoder=options.encoder, max_distance=farthest)
    model = create_model("none", config=config, generator=derive_generator(options.seed, "init"))
    if options.encoder_weights is not None:
        model.encoder = create_encoder(options.encoder, weights=options.encoder_weights)
    return model


def _draw_alike(sets: Sequence[Sequence[Any]]) -> Joined:
    """Return all frames as one set in which every domain is met about as often."""
    largest = max(len(data) for data in sets)
    return Joined([data for data in sets for _ in range(round(largest / len(data)))])


def _describe_file(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def write_card(checkpoint: Path, *, device: torch.device) -> Path:
    """Write a pretrained checkpoint's recipe and its test metrics beside it, as JSON.

    The file is measured as it lies on disk, in half precision: what an adaptation starts from.
    """
    model = load_checkpoint(checkpoint).to(device)
    card = {
        "checkpoint": checkpoint.name,
        "sha256": hash_checkpoint(checkpoint),
        "recipe": read_metadata(checkpoint)["recipe"],
        "test": {name: mean_errors(model, name, "test", device) for name in DOMAINS},
    }
    path = checkpoint.with_suffix(".json")
    path.write_text(json.dumps(card, indent=1) + "\n")
    return path
