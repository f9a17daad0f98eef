"""Products in bfloat16 on a processor that has none, against its definition and against torch's."""

import platform
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from dart.models import list_variants
from dart.recipe import TrainingSpec
from dart.training import precision
from dart.training.loop import Trainer
from dart.training.precision import Widened, autocast, has_bfloat16
from dart.training.together import share_encoder, take_steps
from tests.contract.test_fold import CPU, make_net, make_trainer, seeded

ULP = 2.0**-8
"""Half the distance of two neighbours in bfloat16, of a number between 1 and 2."""
SPEC = TrainingSpec(steps=4, batch_size=2, precision="bfloat16")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


IMAGE, ROWS = draw(2, 4, 6, 8), draw(3, 5, 4)
WEIGHT, MATRIX = draw(8, 4, 3, 3, seed=1), draw(4, 7, seed=1)
Product = Callable[[Tensor, Tensor], Tensor]
PRODUCTS: dict[str, tuple[Product, Tensor, Tensor]] = {
    "conv2d": (lambda x, w: functional.conv2d(x, w, padding=1), IMAGE, WEIGHT),
    "conv_transpose2d": (functional.conv_transpose2d, draw(2, 8, 3, 3), WEIGHT),
    "linear": (lambda x, w: functional.linear(x, w.mT), ROWS, MATRIX),
    "matmul": (torch.matmul, ROWS, MATRIX),
    "@": (lambda x, w: x @ w, ROWS, MATRIX),
    "bmm": (torch.bmm, ROWS, draw(3, 4, 2, seed=1)),
    "baddbmm": (lambda x, w: torch.baddbmm(x.new_ones(5, 7), x, w), ROWS, draw(3, 4, 7, seed=1)),
    "einsum": (lambda x, w: torch.einsum("bij,jk->bik", x, w), ROWS, MATRIX),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_is_the_rounded_sum_of_products_of_rounded_numbers(name: str) -> None:
    product, x, w = PRODUCTS[name]
    with torch.autocast("cpu", torch.bfloat16), Widened():
        answer = product(x, w)
    exact = product(*(value.bfloat16().double() for value in (x, w)))
    assert answer.dtype == torch.bfloat16
    torch.testing.assert_close(answer.double(), exact, rtol=ULP * 1.01, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        native = product(x, w)
    assert native.dtype == torch.bfloat16
    torch.testing.assert_close(answer, native, rtol=2 * ULP, atol=1e-5)


@pytest.mark.parametrize("name", PRODUCTS)
def test_gradients_of_a_product_are_rounded_once(name: str) -> None:
    product, *given = PRODUCTS[name]
    leaves = [value.clone().requires_grad_() for value in given]
    with torch.autocast("cpu", torch.bfloat16), Widened():
        answer = product(*leaves)
    towards = draw(*answer.shape, seed=2).bfloat16()
    answer.backward(towards)
    exact = [value.bfloat16().double().requires_grad_() for value in given]
    product(*exact).backward(towards.double())
    for leaf, wanted in zip(leaves, exact, strict=True):
        assert leaf.grad is not None
        assert wanted.grad is not None
        assert leaf.grad.dtype == torch.float32
        torch.testing.assert_close(leaf.grad.double(), wanted.grad, rtol=ULP * 1.01, atol=1e-5)


def test_attention_is_that_of_torch_within_its_rounding() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x = draw(2, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        native, _ = attention(x, x, x)
        with Widened():
            answer, _ = attention(x, x, x)
            flash = functional.scaled_dot_product_attention(x, x, x)
    assert answer.dtype == flash.dtype == native.dtype == torch.bfloat16
    torch.testing.assert_close(answer, native, rtol=0.02, atol=0.02)
    rounded = x.bfloat16().double()
    exact = functional.scaled_dot_product_attention(rounded, rounded, rounded)
    torch.testing.assert_close(flash.double(), exact, rtol=ULP * 1.01, atol=1e-5)


def test_what_autocast_leaves_alone_stays_as_it_is() -> None:
    with torch.autocast("cpu", torch.bfloat16), Widened():
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(IMAGE @ IMAGE.mT, torch.matmul(IMAGE, IMAGE.mT))
        double = ROWS.double() @ MATRIX.double()
        counts = torch.arange(4).reshape(2, 2) @ torch.arange(4).reshape(2, 2)
        sums = IMAGE + IMAGE
    with Widened():
        outside = ROWS @ MATRIX
    assert torch.equal(double, ROWS.double() @ MATRIX.double())
    assert counts.tolist() == [[2, 3], [6, 11]]
    assert sums.dtype == torch.float32
    assert torch.equal(outside, ROWS @ MATRIX)


class Products(TorchDispatchMode):
    """Notes the precisions in which products are computed, of gradients too."""

    NAMES = ("convolution", "::mm", "bmm", "addmm", "attention", "::linear", "mkldnn_linear")

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if any(name in func.name() for name in self.NAMES):
            self.found |= {x.dtype for x in args if isinstance(x, Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", list_variants())
def test_no_variant_multiplies_in_bfloat16_where_there_is_none(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: False)
    trainer = make_trainer(make_net(name, 0).float(), 0, SPEC)
    with Products() as products:
        trainer.take_step()
    assert products.found == {torch.float32}


def test_training_is_that_of_a_processor_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closer to it than float32 is, while rounding has not grown yet; and folded as alone."""

    def train(spec: TrainingSpec, *, native: bool) -> Trainer:
        monkeypatch.setattr(precision, "has_bfloat16", lambda: native)
        trainer = make_trainer(make_net("daa_combined", 0).float(), 0, spec)
        trainer.run()
        return trainer

    native, widened = (train(SPEC, native=native) for native in (True, False))
    full = train(SPEC.model_copy(update={"precision": "float32"}), native=True)
    losses = [torch.tensor([s.loss for s in t.history]) for t in (native, widened, full)]
    near, far = (losses[0] - losses[1]).abs(), (losses[0] - losses[2]).abs()
    assert near[0] < 0.25 * far[0]
    assert near[:2].max() < 2e-3
    pair = [make_trainer(make_net("daa_combined", 0).float(), seed, SPEC) for seed in (0, 1)]
    [group] = share_encoder(pair)
    take_steps(group)
    assert pair[0].history[0].loss == pytest.approx(widened.history[0].loss, abs=2e-4)


@pytest.mark.parametrize(
    ("native", "off", "widened"),
    [(False, "", True), (True, "", False), (False, "widened", False)],
)
def test_only_a_processor_without_bfloat16_widens(
    native: bool, off: str, widened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: native)
    monkeypatch.setenv("DART_OFF", off)
    with autocast(CPU, "bfloat16"), Products() as products:
        torch.matmul(ROWS, MATRIX)
    assert products.found == {torch.float32 if widened else torch.bfloat16}
    with autocast(CPU, "float32"), Products() as products:
        torch.matmul(ROWS, MATRIX)
    assert products.found == {torch.float32}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags are read as x86 names them")
def test_a_processor_has_what_the_system_says_that_it_has() -> None:
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    assert flags is not None
    assert has_bfloat16() is ("avx512_bf16" in flags[1].split())
