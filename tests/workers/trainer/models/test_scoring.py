"""Chunked scoring against the softmax over all logits at once, written out."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rz_workers.trainer.models import scoring


def inputs(rows=23, width=7, vocabulary=31, with_bias=True, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    return random(rows, width), random(vocabulary, width), random(vocabulary) if with_bias else None, targets


def written_out(hidden, weight, bias, targets, temperature):
    distribution = torch.log_softmax(torch.nn.functional.linear(hidden, weight, bias) / temperature, dim=-1)
    entropy = -(distribution.exp() * distribution).sum(-1)
    return distribution.gather(-1, targets[:, None]).squeeze(-1), entropy.detach()


def chunks_of(monkeypatch, rows, vocabulary=31):
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 4 * vocabulary * rows)


@pytest.mark.parametrize("chunk", [1, 5, 23, 1000])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_are_those_of_all_logits_at_once(monkeypatch, chunk, with_bias, temperature):
    chunks_of(monkeypatch, chunk)
    upstream = torch.linspace(-2, 3, 23, dtype=torch.float64)
    results = []
    for way in (scoring.score, written_out):
        hidden, weight, bias, targets = inputs(with_bias=with_bias)
        logprobs, entropy = way(hidden, weight, bias, targets, temperature)
        (logprobs * upstream).sum().backward()
        results.append([logprobs, entropy, hidden.grad, weight.grad, *([bias.grad] if with_bias else [])])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_frozen_weights_get_no_gradient_and_hidden_states_still_do():
    hidden, weight, _, targets = inputs(with_bias=False)
    weight.requires_grad_(False)
    scoring.score(hidden, weight, None, targets, 1.0)[0].sum().backward()
    assert weight.grad is None
    assert hidden.grad.abs().sum() > 0


def test_logits_of_bfloat16_input_are_never_rounded_to_bfloat16(monkeypatch):
    chunks_of(monkeypatch, 5)
    hidden, weight, _, targets = inputs(width=64, with_bias=False, dtype=torch.bfloat16)  # logits of up to 26
    logprobs, entropy = scoring.score(hidden, weight, None, targets, 1.0)
    assert logprobs.dtype == entropy.dtype == torch.float32
    logprobs.sum().backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16
    wide = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    expected, expected_entropy = written_out(*wide, None, targets, 1.0)
    expected.sum().backward()
    torch.testing.assert_close(logprobs.double(), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(entropy.double(), expected_entropy, rtol=0, atol=1e-4)
    # The gradient's matrices are multiplied in bfloat16: by rounding, not by other logits, does it differ.
    torch.testing.assert_close(hidden.grad.double(), wide[0].grad, rtol=0.02, atol=0.02)


class Largest(TorchDispatchMode):
    """Notes the most elements that any tensor of an operation's result had."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_neither_pass_ever_holds_more_logits_than_a_chunk(monkeypatch):
    rows, vocabulary, chunk = 4096, 500, 64
    chunks_of(monkeypatch, chunk, vocabulary)
    hidden, weight, _, targets = inputs(rows, 4, vocabulary, with_bias=False, dtype=torch.float32)
    with Largest() as ours:
        scoring.score(hidden, weight, None, targets, 1.0)[0].sum().backward()
    assert ours.numel == max(chunk * vocabulary, rows * 4)
    with Largest() as whole:
        written_out(hidden, weight, None, targets, 1.0)[0].sum().backward()
    assert whole.numel == rows * vocabulary


def test_a_chunk_of_the_largest_vocabularies_stays_small():
    assert scoring.CHUNK_BYTES // (4 * 152_064) >= 256, "rows enough for an efficient matrix product"
    assert scoring.CHUNK_BYTES <= 512 * 2**20
