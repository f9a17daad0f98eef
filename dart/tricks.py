"""What makes a run faster and leaves its numbers alone but for rounding, each with a switch.

``DART_OFF=kept_maps,capture`` turns two of them off, to find out what one gives or whether it is to
blame. What a study chooses by itself, ``precision`` and ``--fold``, is not among them.
"""

import os

from dart.errors import UserError, did_you_mean

SWITCH = "DART_OFF"
"""Environment variable: names of tricks, with commas between them."""
TRICKS = {
    "folded_norms": "a frozen encoder's batch norms and parallel paths lie in its convolutions",
    "channels_last": "the channels of a pixel lie together in memory",
    "products": "one-pixel convolutions of a frozen encoder are products of matrices in bfloat16",
    "widened": "products in bfloat16 run in float32 on a processor that has no bfloat16",
    "scan": "the encoder's recurrence runs in place, and its gradient is written out",
    "kept_maps": "maps of frozen first stages are kept for every picture",
    "resident": "training images lie on the GPU",
    "batched": "adapters and heads of a fold's runs are called at once, with their weights stacked",
    "capture": "steps and passes are replayed as CUDA graphs",
}


def switched_off() -> list[str]:
    """Return the tricks that are not to be used.

    Raises:
        UserError: The environment names one that there is not.
    """
    names = [name.strip() for name in os.environ.get(SWITCH, "").split(",") if name.strip()]
    for name in names:
        if name not in TRICKS:
            raise UserError(
                f"{SWITCH}: there is no trick {name!r} to turn off; there are: {', '.join(TRICKS)}"
                f"{did_you_mean(name, TRICKS)}"
            )
    return sorted(set(names))


def is_on(name: str) -> bool:
    """Say whether a trick is to be used."""
    return name not in switched_off()
