"""One step of several trainings at once: the frozen encoder that they share runs once for all.

Each training keeps its own generators, optimiser, history and weights; what it gets is what it
would get alone, up to the rounding of sums over another number of images.
"""

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from dart.models import DepthNet
from dart.models.together import can_share
from dart.training.captured import StaticStep, is_batched, is_wanted, run_body
from dart.training.loop import Step, Trainer


def share_encoder(trainers: Sequence[Trainer]) -> list[list[Trainer]]:
    """Return the trainings in groups that can take their steps together; some stand alone.

    Those of a group began from the same checkpoint, leave the encoder alone and see images of one
    size at one precision, all or none of which come again. They use one encoder from now on.
    """
    groups: dict[object, list[Trainer]] = {}
    for trainer in trainers:
        model = trainer.model
        if not is_network(model) or model.pretrained is None or not can_share(model):
            groups[id(trainer)] = [trainer]
            continue
        spec, is_known = trainer.spec, trainer.prefix is not None
        try:
            size = tuple(trainer.data[0].image.shape)
        except Exception:  # its own step says what is wrong, if it ever reads this image
            groups[id(trainer)] = [trainer]
            continue
        key = (model.pretrained[1], spec.batch_size, spec.precision, size, trainer.device, is_known)
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

    On a GPU they are captured and replayed where that is possible (``dart.training.captured``).
    Where this raises, no training has taken its step.
    """
    first = trainers[0]
    if is_wanted(trainers):
        static = first.static
        if static is None or [*map(id, static.trainers)] != [*map(id, trainers)]:
            static = first.static = StaticStep(trainers, batched=is_batched(trainers))
        return static.take()
    if len(trainers) == 1:
        return [_attempt(first)]
    batches = [trainer.draw() for trainer in trainers]
    for trainer in trainers:
        trainer.set_rates()

    def know() -> list[Tensor]:
        fewest = min(
            trainer.model.num_constant_stages for trainer in trainers if is_network(trainer.model)
        )
        known = [
            trainer.know(batch)[:fewest] for trainer, batch in zip(trainers, batches, strict=True)
        ]
        return [torch.cat(parts) for parts in zip(*known, strict=True)]

    told = run_body(trainers, batches, know, batched=is_batched(trainers)).tolist()
    return [t.attempt_record(numbers) for t, numbers in zip(trainers, told, strict=True)]


def take_step(trainer: Trainer) -> Step:
    """Do the next step of one training.

    Raises:
        Diverged: If the loss or the gradient is not finite; the weights stay as they were.
    """
    [step] = take_steps([trainer])
    if isinstance(step, Exception):
        raise step
    return step


def _attempt(trainer: Trainer) -> Step | Exception:
    try:
        return trainer.take_step()
    except Exception as error:
        return error
