"""What trains and what does not, and the proof that the rest stayed as it was.

Frozen means two things: no gradient *and* eval mode. TinyViM has 123 batch normalisations whose
running statistics drift in train mode even without gradients; the drift would be counted as
forgetting.
"""

import hashlib
from collections.abc import Sequence

from torch import nn

GROUPS = ("encoder", "adapters", "decoder", "scale_head")


def set_trainable(model: nn.Module, groups: Sequence[str]) -> None:
    """Let the named parts of ``model`` train; freeze the others.

    Batch normalisation keeps its statistics everywhere, also in a part that trains: with batches
    of a few images of one camera they would forget the source by themselves.
    """
    model.eval()
    for name in GROUPS:
        part = model.get_submodule(name)
        part.requires_grad_(name in groups)
        part.train(name in groups)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def count_trainable(model: nn.Module) -> int:
    """Return the number of parameters that require a gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def frozen_hash(model: nn.Module) -> str:
    """Return a sha256 over every parameter without gradient and every buffer, names included."""
    digest = hashlib.sha256()
    frozen = [item for item in model.named_parameters() if not item[1].requires_grad]
    for name, tensor in sorted([*frozen, *model.named_buffers()], key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
