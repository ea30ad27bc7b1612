"""Small things to sample with: tokenizers trained on the spot, random models of any family, requests."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from rz_workers.rollout.engines.interface import Finished, SampleRequest, SamplingParams
from rz_workers.rollout.engines.transformers.engine import TransformersEngine
from rz_workers.tensor_names import stored_names

MAX_MODEL_TOKENS = 256
WORDS = [f"w{i}" for i in range(40)] + ["<eos>", "</answer>", "User:"]
EOS_ID = WORDS.index("<eos>")
ANSWER_ID = WORDS.index("</answer>")
CORPUS = [
    "The answer is 12, so </answer> ends it. User: what? Human: no! Assistant: <answer> 7 </answer>",
    "Wait, check: 3 + 4 = 7 and 7 - 2 = 5. Überprüfung: 你好。 再见。 naïve façade 🙂🙃",
] * 3


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Word level, one token a word, ``<eos>`` and two stop strings among them."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


@lru_cache(maxsize=1)
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that characters and stop strings are split over tokens in every way."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def build_model(
    folder: Path,
    family: str = "llama",
    tokenizer: Any = None,
    *,
    tied: bool = True,
    kv_heads: int = 2,
    head_dim: int = 8,
    spread: float = 0.2,
    seed: int = 0,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Save configuration and tokenizer to ``folder``, as the trainer stores ``model/``; returns the random model."""
    tokenizer = tokenizer or word_tokenizer()
    fields: dict[str, Any] = {
        "vocab_size": len(tokenizer) + 5,  # like real models, more than the tokenizer has
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": MAX_MODEL_TOKENS,
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": spread,  # by default far from uniform, so that mistakes show
    }
    config = CONFIG_MAPPING[family](**{**fields, **changes})
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """Tensors as the trainer publishes them: a tied tensor once, under the names of a checkpoint."""
    tied, names = set(model.all_tied_weights_keys), stored_names(model)
    own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items() if name not in tied}
    return {names[name]: tensor for name, tensor in own.items()}


def build_engine(folder: Path, model: Any, version: int = 0) -> TransformersEngine:
    engine = TransformersEngine(folder, "float32", MAX_MODEL_TOKENS)
    engine.load_weights(version, weights_of(model))
    return engine


def params(**changes: Any) -> SamplingParams:
    values: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 24, "stop": ()}
    return SamplingParams(**{**values, **changes})


def requests(prompts: int = 3, samples: int = 4, first_seed: int = 0, lengths: tuple[int, int] = (2, 9)) -> Any:
    """Rows of a unit: ``prompts`` prompts of different lengths, ``samples`` rows each."""
    rng = random.Random(first_seed)
    texts = [tuple(rng.randrange(40) for _ in range(rng.randint(*lengths))) for _ in range(prompts)]
    return [SampleRequest(texts[i // samples], first_seed + i) for i in range(prompts * samples)]


def plain_logprobs(model: Any, request: SampleRequest, response: Finished, temperature: float = 1.0) -> torch.Tensor:
    """[T] by one full forward pass without cache, padding or batch."""
    ids = torch.tensor([[*request.prompt_token_ids, *response.token_ids]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(request.prompt_token_ids) - 1 : -1]
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    return logprobs.gather(-1, torch.tensor(response.token_ids)[:, None])[:, 0]


def never() -> bool:
    return False


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something that is bound to come; fail when it does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not so after {seconds:.0f} s"
        time.sleep(0.05)
