"""``dart predict`` and ``dart variants``, and what measuring commands share."""

from argparse import Namespace

import cv2
import numpy as np
import torch
from rich.table import Table

from dart.cameras import load_calibration
from dart.commands.camera import check_image, parse_size, read_image
from dart.commands.common import create_console, make_folder, print_json, write_whole
from dart.data.dataset import open_domain
from dart.errors import UserError
from dart.measuring import measure, predict
from dart.models import create_model, list_variants, variant_info
from dart.models.checkpoint import load_checkpoint
from dart.models.depth_net import DepthNet
from dart.models.registry import put_adapters
from dart.pictures import draw_distance
from dart.recipe import TrainingSpec
from dart.training.freeze import count_trainable, set_trainable

LONGEST_SIDE = 4096
"""Pixels of a predicted picture; more would not fit into memory."""


def check_device(options: Namespace) -> str:
    """Return ``--device``.

    Raises:
        UserError: If torch cannot use it here.
    """
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device {options.device}: not usable here: {str(error).splitlines()[0]}"
        ) from error
    return options.device


def mean_errors(model: DepthNet, domain: str, split: str, device: torch.device) -> dict[str, float]:
    """Return the mean over a split's images of every metric."""
    data = open_domain(domain, split)
    errors = measure(data, predict(model, data, device=device))
    means = errors.groupby("metric", sort=False)["value"].mean()
    return {str(metric): float(value) for metric, value in means.items()}


def predict_image(options: Namespace) -> int:
    """Write the distance map of one photograph as a 16-bit PNG and as a colour picture."""
    image = read_image(options.image)
    camera = load_calibration(
        options.camera, format=options.format, name=options.name, size=parse_size(options.size)
    )
    check_image(camera, image.shape[:2], file=options.camera, image=options.image)
    size = (max(32, round(image.shape[0] * options.width / image.shape[1])), options.width)
    if options.width < 32 or max(size) > LONGEST_SIDE:
        raise UserError(
            f"--width {options.width}: the picture would be {size[1]}x{size[0]} pixels; each side "
            f"may have 32 to {LONGEST_SIDE}"
        )
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    camera = camera.resize(size)
    device = torch.device(check_device(options))
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
    make_folder(folder)
    raw = folder / f"{options.image.stem}_distance.png"
    picture = folder / f"{options.image.stem}_distance_colour.png"
    millimetres = np.where(valid, distance * 1000, 0).round().clip(0, 65535).astype(np.uint16)
    encoded = cv2.imencode(".png", millimetres)[1].tobytes()
    write_whole(raw, lambda path: path.write_bytes(encoded))
    write_whole(picture, lambda path: draw_distance(distance, valid, path))
    low, high = distance[valid].min(), distance[valid].max()
    create_console().print(
        f"{raw} (millimetres along the ray; {low:.2f} to {high:.2f} m)\n{picture}"
    )
    return 0


def variants(options: Namespace) -> int:
    """Print name, hypothesis, hyperparameters and trainable parameters of every variant."""
    rows = []
    model = create_model("none")
    for name in list_variants():
        info = variant_info(name)
        put_adapters(model, name)
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
        print_json({"variants": rows})
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
    create_console().print(table)
    return 0
