"""Attention within the trajectories of a pack: every way gives what each trajectory alone gives."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from rz_workers.runtime import UserError
from rz_workers.trainer.models import attention
from rz_workers.trainer.models.attention import PackLayout, alike, attend

CPU = torch.device("cpu")


class Layer(nn.Module):
    num_key_value_groups = 2


def pack(lengths, heads=4, kv_heads=2, size=8, dtype=torch.float64, device=CPU):
    generator = torch.Generator().manual_seed(1)
    total = sum(lengths)
    shapes = [(1, heads, total, size), (1, kv_heads, total, size), (1, kv_heads, total, size)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes]


def one_by_one(query, key, value, lengths, window=None):
    key, value = (tensor.repeat_interleave(2, dim=1) for tensor in (key, value))
    parts = zip(*(tensor.split(list(lengths), dim=2) for tensor in (query, key, value)), strict=True)
    out = [written_out(q, k, v, window or max(lengths)) for q, k, v in parts]
    return torch.cat(out, dim=2).transpose(1, 2)


def written_out(query, key, value, window):
    """A token sees itself and the ``window - 1`` before it, as in transformers' mask."""
    places = torch.arange(query.shape[2], device=query.device)
    seen = (places[None] <= places[:, None]) & (places[None] > places[:, None] - window)
    return scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=0.3)


@pytest.mark.parametrize("lengths", [(5,), (3, 1, 4), (1, 1, 1), (600, 3, 2, 290, 1, 310)], ids=str)
def test_a_pack_attends_as_each_of_its_trajectories_alone(lengths):
    tensors = pack(lengths)
    out, _ = attend(Layer(), *tensors, None, scaling=0.3, pack_layout=PackLayout(lengths, CPU))
    torch.testing.assert_close(out, one_by_one(*tensors, lengths), rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [1, 2, 16, 10_000])
@pytest.mark.parametrize("lengths", [(5,), (3, 1, 4), (300, 3, 2, 290, 1, 310)], ids=str)
def test_a_layer_with_a_window_sees_that_many_tokens_of_its_trajectory(lengths, window):
    tensors = pack(lengths)
    packed, _ = attend(
        Layer(), *tensors, None, scaling=0.3, sliding_window=window, pack_layout=PackLayout(lengths, CPU)
    )
    torch.testing.assert_close(packed, one_by_one(*tensors, lengths, window), rtol=0, atol=1e-12)
    alone = pack(lengths[:1])
    whole, _ = attend(Layer(), *alone, None, scaling=0.3, sliding_window=window)
    torch.testing.assert_close(whole, one_by_one(*alone, lengths[:1], window), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"softcap": 50.0}, "softcap"),
        ({"s_aux": torch.zeros(4), "position_bias": torch.zeros(1)}, "position_bias, s_aux"),
        ({"dropout": 0.1}, "dropout of 0.1"),
        ({"is_causal": False}, "is_causal=False"),
        ({"something_new": 1}, "something_new"),
    ],
)
def test_what_a_layer_asks_and_is_not_known_is_refused_by_name(asked, named):
    with pytest.raises(UserError, match=f"the attention of Layer asks for {named}, which"):
        attend(Layer(), *pack((3, 2)), None, scaling=0.3, pack_layout=PackLayout((3, 2), CPU), **asked)


def test_a_mask_that_a_layer_made_itself_is_not_dropped_in_silence():
    with pytest.raises(UserError, match="the attention of Layer asks for a mask of its own, which"):
        attend(Layer(), *pack((3, 2)), torch.zeros(1, 1, 5, 5), pack_layout=PackLayout((3, 2), CPU))


def test_what_says_nothing_about_the_result_is_taken():
    lengths, harmless = (3, 2), {"softcap": None, "use_cache": False, "is_causal": True, "position_ids": torch.zeros(5)}
    out, _ = attend(Layer(), *pack(lengths), None, scaling=0.3, pack_layout=PackLayout(lengths, CPU), **harmless)
    torch.testing.assert_close(out, one_by_one(*pack(lengths), lengths), rtol=0, atol=1e-12)


def test_short_trajectories_do_not_pay_for_a_long_one():
    lengths = [8000, *[100] * 80]
    padded = sum(len(group) * max(lengths[i] for i in group) ** 2 for group in alike(lengths))
    assert padded < 1.1 * sum(length**2 for length in lengths)


@pytest.mark.parametrize("lengths", [(30, 28, 25, 31), (40, 1, 1, 1, 1)], ids=str)
def test_little_padding_is_cheaper_than_another_grid(lengths):
    assert len(alike(lengths)) == 1


def written_out_varlen(query, key, value, bounds_q, bounds_k, longest_q, longest_k, *, scale, window_size, enable_gqa):
    """What torch documents of ``varlen_attn``, for causal windows."""
    assert bounds_q.dtype == bounds_k.dtype == torch.int32
    before, after = window_size
    assert after == 0
    assert enable_gqa == (query.shape[1] != key.shape[1])
    lengths = bounds_q.diff().tolist()
    assert longest_q == longest_k == max(lengths)
    tensors = [tensor.transpose(0, 1)[None] for tensor in (query, key, value)]
    return one_by_one(*tensors, lengths, None if before == -1 else before + 1)[0]


@pytest.mark.parametrize("window", [None, 1, 3])
def test_the_kernel_for_gpus_is_called_with_the_packs_bounds_and_the_window(monkeypatch, window):
    monkeypatch.setattr(attention, "varlen_attn", written_out_varlen)
    lengths = (3, 1, 4)
    query, key, value = pack(lengths)
    out = attention.varlen(query[0], key[0], value[0], PackLayout(lengths, CPU), 0.3, window)
    torch.testing.assert_close(out, one_by_one(query, key, value, lengths, window)[0], rtol=0, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel runs on GPUs alone")
@pytest.mark.parametrize("window", [None, 1, 16])
def test_the_kernel_for_gpus_agrees_with_each_trajectory_alone(window):
    device, lengths = torch.device("cuda"), (600, 3, 2, 290)
    tensors = pack(lengths, size=64, dtype=torch.bfloat16, device=device)
    layout = PackLayout(lengths, device)
    out, _ = attend(Layer(), *tensors, None, scaling=0.3, sliding_window=window, pack_layout=layout)
    torch.testing.assert_close(out, one_by_one(*tensors, lengths, window), rtol=0.02, atol=0.02)
