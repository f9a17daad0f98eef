"""Training a source network from nothing: encoder, decoder and scale head together.

The result is the weights' exponential moving average, which at small budgets is clearly better
than the last step's weights.
"""

from collections.abc import Callable
from pathlib import Path

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dart.errors import UserError
from dart.models import DepthNet
from dart.training.loop import Step, Trainer, read_state, write_state


def pretrain(
    trainer: Trainer,
    *,
    state: Path,
    average: float = 0.999,
    save_every: int = 250,
    on_step: Callable[[Step], None] = lambda _: None,
    on_save: Callable[[int, DepthNet], None] = lambda _step, _model: None,
) -> DepthNet:
    """Train every part of the trainer's model on the source and return the averaged network.

    Args:
        state: File of the training state; if it exists, training goes on from it.
        average: Share that the moving average keeps at each step, after a warm-up.
        on_save: Called with the steps done and the average whenever the state was written.

    Raises:
        Diverged: If the loss is no longer finite.
        UserError: If ``state`` belongs to another model.
    """
    model, spec = trainer.model, trainer.spec
    mean = AveragedModel(model, use_buffers=True)
    if state.exists():
        saved = read_state(state)
        try:
            trainer.load(saved["trainer"])
            mean.load_state_dict(saved["average"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(f"{state} is not the state of this training: {error}") from error
    while len(trainer.history) < spec.steps:
        model.train()  # what measures the average may have changed the mode of shared parts
        step = trainer.take_step()
        # The average of the first steps would be of the random start: let it follow at first.
        share = min(average, (1 + step.step) / (10 + step.step))
        mean.multi_avg_fn = get_ema_multi_avg_fn(share)
        mean.update_parameters(model)
        on_step(step)
        done = step.step + 1
        if done % save_every == 0 or done == spec.steps:
            write_state(state, {"trainer": trainer.state(), "average": mean.state_dict()})
            on_save(done, mean.module)  # type: ignore[arg-type]
    return mean.module.eval()  # type: ignore[return-value]
