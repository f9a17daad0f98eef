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

from dart.tricks import is_on

_CHUNK = 16
"""Steps of a chunk on a device where launching an operation costs more than doing it."""


def _is_chunked(sequences: Tensor) -> bool:
    return sequences.device.type != "cpu" and sequences.shape[1] > 4 * _CHUNK


def _run(decay: Tensor, drive: Tensor) -> Tensor:
    """Return h of h[l] = decay[l] h[l-1] + drive[l] along axis 1, step by step, in ``drive``."""
    previous, *rest = drive.unbind(1)
    for factor, state in zip(decay.unbind(1)[1:], rest, strict=True):
        previous = state.addcmul_(factor, previous)
    return drive


def _run_chunked(decay: Tensor, drive: Tensor) -> Tensor:
    """Return what :func:`_run` returns, for more than one chunk of steps, in far fewer operations.

    ``drive`` stays as it is.

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
    starts = _run(products[:, :-1, -1], states[:, :-1, -1].clone())
    states[:, 1:].addcmul_(products[:, 1:], starts.unsqueeze(2))
    return states.flatten(1, 2)[:, :num_steps]


def _run_backwards(decay: Tensor, drive: Tensor) -> Tensor:
    """Return g of g[l] = decay[l+1] g[l+1] + drive[l] along axis 1, in ``drive`` at best."""
    if _is_chunked(drive):
        later_decay = functional.pad(decay[:, 1:], (0, 0) * (decay.ndim - 2) + (0, 1))
        return _run_chunked(later_decay.flip(1), drive.flip(1)).flip(1)
    *rest, later = drive.unbind(1)
    for factor, state in zip(reversed(decay.unbind(1)[1:]), reversed(rest), strict=True):
        later = state.addcmul_(factor, later)
    return drive


class _Recurrence(Function):
    """h[l] = exp(step[l] rates) h[l-1] + step[l] token[l] write[l]; gives the sum of read[l] h[l].

    The step is the softplus of ``raw``. The gradient is the same recurrence backwards. It is
    written out because states and decays are the largest tensors of the network by far: each pass
    over them that is saved is time.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        raw: Float[Tensor, "k l b c"],
        tokens: Float[Tensor, "k l b c"],
        write: Float[Tensor, "k l b n"],
        read: Float[Tensor, "k l b n"],
        rates: Float[Tensor, "k n c"],
    ) -> Float[Tensor, "k l b c"]:
        step = functional.softplus(raw)
        # States come before channels, so that the innermost loop of every operation is long.
        decay = (step.unsqueeze(3) * rates[:, None, None]).exp_()
        states = (step * tokens).unsqueeze(3) * write.unsqueeze(4)
        states = (_run_chunked if _is_chunked(states) else _run)(decay, states)
        ctx.save_for_backward(raw, step, tokens, write, read, rates, decay, states)
        return torch.matmul(read.unsqueeze(3), states).squeeze(3)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: FunctionCtx, grad: Float[Tensor, "k l b c"]
    ) -> tuple[Tensor | None, ...]:
        raw, step, tokens, write, read, rates, decay, states = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        grad_read = torch.matmul(grad.unsqueeze(3), states.mT).squeeze(3)
        grad_states = _run_backwards(decay, read.unsqueeze(4) * grad.unsqueeze(3))
        grad_driven = torch.matmul(write.unsqueeze(3), grad_states).squeeze(3)
        grad_write = torch.matmul((step * tokens).unsqueeze(3), grad_states.mT).squeeze(3)
        # From here on the same memory holds the gradient of the exponents, step times rates.
        exponents = grad_states.mul_(decay)
        exponents[:, 0] = 0
        exponents[:, 1:].mul_(states[:, :-1])
        grad_rates = None
        if ctx.needs_input_grad[4]:  # pyright: ignore[reportAttributeAccessIssue]
            grad_rates = (exponents * step.unsqueeze(3)).sum((1, 2))
        grad_step = exponents.mul_(rates[:, None, None]).sum(3).addcmul_(grad_driven, tokens)
        grad_raw = grad_step.mul_(raw.sigmoid())
        return grad_raw, grad_driven.mul_(step), grad_write, grad_read, grad_rates


def _step_by_step(
    raw: Tensor, tokens: Tensor, write: Tensor, read: Tensor, rates: Tensor
) -> Tensor:
    """Return what ``_Recurrence`` does, as its formula reads; autograd finds the gradient."""
    step = functional.softplus(raw)
    decay = torch.exp(step.unsqueeze(3) * rates[:, None, None])
    drive = (step * tokens).unsqueeze(3) * write.unsqueeze(4)
    state, outputs = torch.zeros_like(drive[:, 0]), []
    for factor, driven, seen in zip(
        *(part.unbind(1) for part in (decay, drive, read)), strict=True
    ):
        state = factor * state + driven
        outputs.append(torch.einsum("kbn,kbnc->kbc", seen, state))
    return torch.stack(outputs, 1)


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
    told = torch.bmm(tokens, projection.mT)
    low_rank, write, read = told.split([rank, num_states, num_states], dim=2)
    raw = torch.baddbmm(step_bias.unsqueeze(1), low_rank, step_projection.mT)
    rates = -log_decay.exp().view(num_directions, channels, num_states).mT.contiguous()
    write, read = (part.unflatten(1, (num_steps, batch)) for part in (write, read))
    recurrence = _Recurrence.apply if is_on("scan") else _step_by_step
    outputs = recurrence(raw.view_as(inputs), inputs, write, read, rates)
    return torch.addcmul(outputs, inputs, skip.view(num_directions, 1, 1, channels))


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
