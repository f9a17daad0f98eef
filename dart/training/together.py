"""One step of several trainings at once: the frozen encoder that they share runs once for all.

Each training keeps its own generators, optimiser, history and weights; what it gets is what it
would get alone, up to the rounding of sums over another number of images.
"""

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import nn

from dart.models import DepthNet
from dart.models.together import can_share, forward_together
from dart.training.loop import Step, Trainer


def share_encoder(trainers: Sequence[Trainer]) -> list[list[Trainer]]:
    """Return the trainings in groups that can take their steps together; some stand alone.

    Those of a group began from the same checkpoint, leave the encoder alone and see images of one
    size at one precision. They use one encoder from now on.
    """
    groups: dict[object, list[Trainer]] = {}
    for trainer in trainers:
        model = trainer.model
        if not is_network(model) or model.pretrained is None or not can_share(model):
            groups[id(trainer)] = [trainer]
            continue
        spec, size = trainer.spec, tuple(trainer.data[0].image.shape)
        key = (model.pretrained[1], spec.batch_size, spec.precision, size, trainer.device)
        groups.setdefault(key, []).append(trainer)
    for first, *others in groups.values():
        for other in others:
            other.model.encoder = first.model.encoder
    return list(groups.values())


def is_network(model: nn.Module) -> TypeGuard[DepthNet]:
    """Say whether a model is this project's network, whose stages can be run one by one."""
    return isinstance(model, DepthNet)


def take_steps(trainers: Sequence[Trainer]) -> list[Step | Exception]:
    """Do the next step of each training of one group; one that diverges harms no other.

    Where this raises, no training has taken its step.
    """
    if len(trainers) == 1:
        return [_attempt(trainers[0])]
    first = trainers[0]
    batches = [trainer.draw() for trainer in trainers]
    images = torch.cat([batch.image for batch in batches])
    cameras = [camera for batch in batches for camera in batch.cameras]
    for trainer in trainers:
        trainer.optimizer.zero_grad()
    nets = [trainer.model for trainer in trainers if is_network(trainer.model)]
    with first.autocast():
        fewest = min(net.num_constant_stages for net in nets)
        known = [
            trainer.know(batch)[:fewest] for trainer, batch in zip(trainers, batches, strict=True)
        ]
        maps = [torch.cat(parts) for parts in zip(*known, strict=True)]
        predictions = forward_together(nets, images, cameras, known=maps)
    losses = [
        trainer.loss(batch, prediction)
        for trainer, batch, prediction in zip(trainers, batches, predictions, strict=True)
    ]
    torch.stack(losses).sum().backward()
    return [_finish(trainer, loss.detach()) for trainer, loss in zip(trainers, losses, strict=True)]


def _attempt(trainer: Trainer) -> Step | Exception:
    try:
        return trainer.take_step()
    except Exception as error:
        return error


def _finish(trainer: Trainer, loss: torch.Tensor) -> Step | Exception:
    try:
        return trainer.finish(loss)
    except Exception as error:
        return error
