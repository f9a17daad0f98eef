"""The four-direction selective scan of TinyViM, in plain tensor operations.

The map that is scanned is small (H/32 x W/32), so a loop over its cells that handles all
directions, images and channels at once is fast enough on a CPU and needs no kernel.

Axis letters: ``b`` batch, ``c`` channels, ``h w`` cells, ``k`` directions (four; of a parameter,
four times the channels), ``l`` steps of a direction, ``n`` states, ``r`` rank of the time step.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

_CHUNK = 16
"""Steps of a chunk on a device where launching an operation costs more than doing it."""


def _run(decay: Tensor, drive: Tensor) -> Tensor:
    """Return h of h[l] = decay[l] h[l-1] + drive[l] along axis 1, step by step."""
    states = drive.clone(memory_format=torch.contiguous_format)
    previous, *rest = states.unbind(1)
    for factor, state in zip(decay.unbind(1)[1:], rest, strict=True):
        previous = state.addcmul_(factor, previous)
    return states


def _run_chunked(decay: Tensor, drive: Tensor) -> Tensor:
    """Return what :func:`_run` returns, for more than one chunk of steps, in far fewer operations.

    All chunks run beside each other from a zero state; the state with which each should have
    begun is then added, decayed by the product of the factors so far.
    """
    num_steps = drive.shape[1]
    padding = (0, 0) * (drive.ndim - 2) + (0, -num_steps % _CHUNK)
    decay = functional.pad(decay, padding).unflatten(1, (-1, _CHUNK))
    states = functional.pad(drive, padding).unflatten(1, (-1, _CHUNK))
    products = decay.clone()
    inner, inner_products = states.unbind(2), products.unbind(2)
    for step in range(1, _CHUNK):
        inner[step].addcmul_(inner_products[step], inner[step - 1])
        inner_products[step].mul_(inner_products[step - 1])
    starts = _run(products[:, :-1, -1], states[:, :-1, -1])
    states[:, 1:].addcmul_(products[:, 1:], starts.unsqueeze(2))
    return states.flatten(1, 2)[:, :num_steps]


def _run_backwards(decay: Tensor, drive: Tensor) -> Tensor:
    """Return g of g[l] = decay[l+1] g[l+1] + drive[l] along axis 1, step by step."""
    states = drive.clone(memory_format=torch.contiguous_format)
    *rest, later = states.unbind(1)
    for factor, state in zip(reversed(decay.unbind(1)[1:]), reversed(rest), strict=True):
        later = state.addcmul_(factor, later)
    return states


def _is_chunked(sequences: Tensor) -> bool:
    return sequences.device.type != "cpu" and sequences.shape[1] > 4 * _CHUNK


class _LinearRecurrence(Function):
    """h[l] = decay[l] h[l-1] + drive[l]; its gradient is the same recurrence backwards."""

    @staticmethod
    def forward(ctx: FunctionCtx, decay: Tensor, drive: Tensor) -> Tensor:
        states = _run_chunked(decay, drive) if _is_chunked(drive) else _run(decay, drive)
        ctx.save_for_backward(decay, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: FunctionCtx, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        (grad,) = grad_outputs
        decay, states = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        if _is_chunked(grad):
            later_decay = functional.pad(decay[:, 1:], (0, 0) * (decay.ndim - 2) + (0, 1))
            grad_drive = _run_chunked(later_decay.flip(1), grad.flip(1)).flip(1)
        else:
            grad_drive = _run_backwards(decay, grad)
        grad_decay = torch.empty_like(decay)
        grad_decay[:, 0] = 0
        torch.mul(grad_drive[:, 1:], states[:, :-1], out=grad_decay[:, 1:])
        return grad_decay, grad_drive


def linear_recurrence(
    decay: Float[Tensor, "k l *b"], drive: Float[Tensor, "k l *b"]
) -> Float[Tensor, "k l *b"]:
    """Return the states of h[l] = decay[l] h[l-1] + drive[l], from h[-1] = 0."""
    return _LinearRecurrence.apply(decay, drive)


def selective_scan(
    inputs: Float[Tensor, "4 l b c"],
    projection: Float[Tensor, "4 m c"],
    step_projection: Float[Tensor, "4 c r"],
    step_bias: Float[Tensor, "4 c"],
    log_decay: Float[Tensor, "k n"],
    skip: Float[Tensor, " k"],
) -> Float[Tensor, "4 l b c"]:
    """Return the selective scan of each of four sequences, in the dtype of ``inputs``.

    Args:
        inputs: One sequence per direction.
        projection: From an input to [time step (low rank), B, C].
        step_projection: From the low rank to a time step per channel.
        step_bias: Added to the time step before its softplus.
        log_decay: log(-A); the channels of the first direction come first.
        skip: D, the share of the input in the output.
    """
    num_directions, num_steps, batch, channels = inputs.shape
    num_states, rank = log_decay.shape[1], step_projection.shape[2]
    tokens = inputs.reshape(num_directions, num_steps * batch, channels)
    low_rank, write, read = torch.bmm(tokens, projection.mT).split(
        [rank, num_states, num_states], dim=2
    )
    step = functional.softplus(torch.baddbmm(step_bias.unsqueeze(1), low_rank, step_projection.mT))
    rates = -log_decay.exp().view(num_directions, 1, channels, num_states).mT
    # States come before channels, so that the innermost loop of every operation is long.
    decay = torch.exp(step.unsqueeze(2) * rates)
    drive = (step * tokens).unsqueeze(2) * write.unsqueeze(3)
    shape = (num_directions, num_steps, batch, num_states, channels)
    states = linear_recurrence(decay.view(shape), drive.view(shape))
    outputs = torch.matmul(read.unsqueeze(2), states.flatten(1, 2)).squeeze(2)
    outputs = torch.addcmul(outputs, tokens, skip.view(num_directions, 1, channels))
    return outputs.view_as(inputs)


def four_directions(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "4 h*w b c"]:
    """Return the cells by row, by column, and both backwards."""
    by_row = features.permute(2, 3, 0, 1).flatten(0, 1)
    by_column = features.permute(3, 2, 0, 1).flatten(0, 1)
    return torch.stack((by_row, by_column, by_row.flip(0), by_column.flip(0)))


def sum_directions(
    sequences: Float[Tensor, "4 l b c"], height: int, width: int
) -> Float[Tensor, "b {height} {width} c"]:
    """Return the sum of the four sequences, each put back on the cells it came from."""
    by_row = (sequences[0] + sequences[2].flip(0)).unflatten(0, (height, width))
    by_column = (sequences[1] + sequences[3].flip(0)).unflatten(0, (width, height))
    return (by_row + by_column.transpose(0, 1)).permute(2, 0, 1, 3)
