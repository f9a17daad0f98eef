"""Which networks of timm can be the encoder: the table of docs/encoders.md.

Each is made with random weights and predicts one image of 96x128 pixels with an adapter at every
stage. Run: ``python benchmarks/encoders.py > table.md``.
"""

import sys
import time
import warnings

import torch

from dart.errors import UserError
from dart.models import NetworkConfig, create_model

NAMES = [
    "test_resnet",
    "resnet10t",
    "resnet18",
    "regnetx_002",
    "densenet121",
    "vgg11_bn",
    "mobilenetv3_small_050",
    "lcnet_050",
    "efficientnet_b0",
    "ghostnet_100",
    "convnext_atto",
    "repvit_m0_9",
    "fastvit_t8",
    "edgenext_xx_small",
    "efficientvit_b0",
    "mobilevit_xxs",
    "pvt_v2_b0",
    "poolformer_s12",
    "caformer_s18",
    "swin_tiny_patch4_window7_224",
    "maxvit_rmlp_pico_rw_256",
    "coatnet_0_rw_224",
    "test_vit",
    "vit_tiny_patch16_224",
    "vit_small_patch32_224",
    "deit_tiny_distilled_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "eva02_tiny_patch14_224",
    "beit_base_patch16_224",
    "mixer_s16_224",
    "levit_128s",
    "hiera_tiny_224",
    "twins_svt_small",
    "hrnet_w18_small",
    "xception41",
]


def describe(name: str, image: torch.Tensor) -> str:
    """Return one row of the table."""
    config = NetworkConfig(encoder=f"timm/{name}")
    try:
        model = create_model("daa_query_softmax", config=config).eval()
    except UserError as error:
        reason = str(error).removeprefix(f"encoder 'timm/{name}' ")
        return f"| `{name}` | no | | | | {reason} |"
    with torch.no_grad():
        model(image)
        started = time.perf_counter()
        distance = model(image).distance
        seconds = time.perf_counter() - started
    assert distance.isfinite().all()
    encoder = model.encoder
    millions = sum(p.numel() for p in encoder.parameters()) / 1e6
    channels = ", ".join(map(str, encoder.channels))
    strides = ", ".join(map(str, encoder.strides))
    return f"| `{name}` | yes | {millions:.1f} | {channels} | {strides} | {1e3 * seconds:.0f} ms |"


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    image = torch.rand((1, 3, 96, 128), generator=torch.Generator().manual_seed(0))
    sys.stdout.write(
        "| timm name | works | M parameters | channels | strides | pass, or why not |\n"
    )
    sys.stdout.write("|---|---|---|---|---|---|\n")
    for name in NAMES:
        sys.stdout.write(describe(name, image) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
