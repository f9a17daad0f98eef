"""What is called at once under autocast computes in the precisions of what is called in turn.

For a GPU that is seen without one: torch's fake tensors have its device and no numbers.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import vmap
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from dart.cameras import Camera, CameraEmbedder
from dart.models import DepthNet, Tuner, list_variants
from dart.models import batched as batching
from dart.models.batched import refusals
from dart.models.together import forward_together
from tests.contract.test_fold import SAMPLES, SIZE, make_net

Function = Callable[[Tensor], Tensor]


def zeros(like: Tensor, *shape: int) -> Tensor:
    return torch.zeros(shape, device=like.device)


FUNCTIONS: dict[str, Function] = {
    "conv1d": lambda x: functional.conv1d(x[:, :, 0], zeros(x, 3, 4, 3)),
    "conv2d": lambda x: functional.conv2d(x, zeros(x, 3, 4, 3, 3)),
    "conv_transpose2d": lambda x: functional.conv_transpose2d(x, zeros(x, 4, 3, 3, 3)),
    "linear": lambda x: functional.linear(x, zeros(x, 5, 8)),
    "matmul": lambda x: torch.matmul(x, x.mT),
    "@": lambda x: x @ zeros(x, 8, 3),
    "bmm": lambda x: torch.bmm(x[0], x[1]),
    "einsum": lambda x: torch.einsum("bchw,bdhw->bcd", x, x),
    "attention": lambda x: functional.scaled_dot_product_attention(x, x, x),
    "prelu": lambda x: functional.prelu(x, zeros(x, 4)),
    "softmax": lambda x: x.softmax(1),
    "functional.softmax": lambda x: functional.softmax(x, 1),
    "log_softmax": lambda x: x.log_softmax(1),
    "softmin": lambda x: functional.softmin(x, 1),
    "layer_norm": lambda x: functional.layer_norm(x, x.shape[-1:]),
    "group_norm": lambda x: functional.group_norm(x, 2),
    "rms_norm": lambda x: functional.rms_norm(x, x.shape[-1:]),
    "norm": lambda x: x.norm(dim=1),
    "normalize": lambda x: functional.normalize(x, dim=1),
    "cosine_similarity": lambda x: functional.cosine_similarity(x, x, dim=1),
    "cdist": lambda x: torch.cdist(x, x),
    "sum": lambda x: x.sum(1),
    "prod": lambda x: x.prod(1),
    "mean": lambda x: x.mean(1),
    "cumsum": lambda x: x.cumsum(1),
    "exp": torch.exp,
    "pow": lambda x: x**2,
    "softplus": functional.softplus,
    "gelu": functional.gelu,
    "interpolate": lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"),
    "grid_sample": lambda x: functional.grid_sample(x, zeros(x, 2, 3, 3, 2), align_corners=False),
    "cat": lambda x: torch.cat([x, x.float()]),
}


@contextmanager
def autocast_of(device: str) -> Iterator[None]:
    """Turn autocast on, which ``torch.autocast`` refuses where there is no GPU."""
    torch.set_autocast_dtype(device, torch.bfloat16)
    torch.set_autocast_enabled(device, True)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled(device, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_the_precision_that_autocast_gives_it(
    name: str, device: str, dtype: torch.dtype
) -> None:
    function = FUNCTIONS[name]
    with FakeTensorMode() if device == "cuda" else nullcontext(), autocast_of(device):
        one = function(torch.ones(2, 4, 8, 8, device=device, dtype=dtype))
        with batching._with_rules():
            several = vmap(function)(torch.ones(3, 2, 4, 8, 8, device=device, dtype=dtype))
    assert several.dtype == one.dtype
    if device == "cpu":
        torch.testing.assert_close(several[1], one, rtol=0.01, atol=0.01)


class Precisions(TorchDispatchMode):
    """Notes the precisions that operators get."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, set[torch.dtype]] = defaultdict(set)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = {value.dtype for value in args if isinstance(value, Tensor)}
        self.found[func.name()] |= given
        return func(*args, **(kwargs or {}))

    def of(self, *names: str) -> set[torch.dtype]:
        return set().union(*(self.found[f"aten::{name}"] for name in names))


class FakeViews:
    """The shapes of what an embedder says of cameras."""

    def __init__(self, embedder: CameraEmbedder) -> None:
        self.embedder, self.channels = embedder, embedder.channels

    def embed(self, cameras: Sequence[Camera], stride: int, **_: Any) -> Tensor:
        with _disable_current_modes():
            shape = self.embedder.embed(cameras, stride).shape
        return torch.empty(len(cameras), *shape[1:], device="cuda")

    def rays(self, cameras: Sequence[Camera], stride: int, **_: Any) -> Tensor:
        with _disable_current_modes():
            shape = self.embedder.rays(cameras, stride).shape
        return torch.empty(len(cameras), *shape[1:], device="cuda")


def fake(net: DepthNet) -> None:
    """Put tensors without numbers on a GPU in the place of a network's own."""
    for module in net.modules():
        for name, own in module.named_parameters(recurse=False):
            empty = torch.empty_strided(own.shape, own.stride(), device="cuda")
            setattr(module, name, nn.Parameter(empty, requires_grad=own.requires_grad))
        for name, own in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(own.shape, dtype=own.dtype, device="cuda"))
    net.embedder = FakeViews(net.embedder)  # pyright: ignore[reportAttributeAccessIssue]
    net.adapter_embedder = FakeViews(net.adapter_embedder)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("name", list_variants())
def test_a_variant_computes_on_a_gpu_as_it_does_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets = [make_net(name, seed).float() for seed in range(2)]
    if any(isinstance(adapter, Tuner) for adapter in nets[0].adapters):
        pytest.skip("changes the encoder, so that its runs do not fold")
    monkeypatch.setattr(batching, "_tried", {})
    cameras = [sample.camera for sample in SAMPLES[:4]]
    seen = []
    with FakeTensorMode(allow_non_fake_inputs=True), autocast_of("cuda"):
        for net in nets:
            net.encoder = nets[0].encoder
        for net in nets:
            fake(net)
        images = torch.empty(4, 3, *SIZE, device="cuda")
        for batched in (False, True):
            with Precisions() as precisions:
                answers = forward_together(nets, images, cameras, batched=batched)
            fields = ("distance", "relative_inverse_depth", "scale")
            dtypes = {(field, getattr(a, field).dtype) for a in answers for field in fields}
            places = {getattr(a, field).device.type for a in answers for field in fields}
            seen.append((dtypes, places, precisions))
    (one, places, in_turn), (other, others, at_once) = seen
    assert one == other
    assert places == others == {"cuda"}
    assert refusals() == []
    products = ("convolution", "mm", "bmm", "addmm", "baddbmm")
    assert at_once.of(*products) == in_turn.of(*products)
    for operator in ("_softmax", "native_layer_norm", "grid_sampler_2d", "exp", "pow"):
        assert at_once.of(operator) == in_turn.of(operator)
