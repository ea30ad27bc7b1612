"""Products of bfloat16 tensors in fp32, against the same product in fp64."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rz_workers import wide_linear as module
from rz_workers.wide_linear import wide_linear


def inputs(*, rows=(3, 5), width=64, outputs=70, dtype=torch.bfloat16):
    """Products of up to about 26, where bfloat16 is rounded to an eighth."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((*rows, width), (outputs, width), (outputs,))
    )
    return hidden, weight, bias


class Made(TorchDispatchMode):
    """Notes the shapes of all fp32 tensors that an operation makes."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float32:
            self.shapes.add(tuple(result.shape))
        return result


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("block_rows", [1, 32, 70, 1000])
def test_a_product_of_bfloat16_is_not_rounded_to_bfloat16(monkeypatch, with_bias, block_rows):
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 64 * block_rows)
    hidden, weight, bias = inputs()
    bias = bias if with_bias else None
    product = wide_linear(hidden, weight, bias)
    exact = torch.nn.functional.linear(hidden.double(), weight.double(), None if bias is None else bias.double())
    assert product.dtype == torch.float32
    torch.testing.assert_close(product.double(), exact, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wider_tensors_have_the_bits_of_the_linear_layer(dtype):
    hidden, weight, bias = inputs(dtype=dtype)
    assert torch.equal(wide_linear(hidden, weight, bias), torch.nn.functional.linear(hidden, weight, bias))


def test_the_weight_is_never_whole_in_fp32(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 64 * 32)
    hidden, weight, _ = inputs(rows=(4,))
    with Made() as made:
        wide_linear(hidden, weight)
    assert (32, 64) in made.shapes
    assert (70, 64) not in made.shapes
