"""Random streams that do not disturb each other.

Each use of chance (initial weights, order of the data, augmentation) has its own generator,
derived from the run's seed and the use's name. A variant that draws more numbers for its
weights therefore still sees the same images in the same order: its runs are paired.
"""

import hashlib

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on every name; unrelated for any two choices of names."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def derive_generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator for one use of chance within the run of ``seed``."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))
