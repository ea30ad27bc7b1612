"""The engine for any machine: a Hugging Face model on the CPU, with a decode loop of our own (``decode``).

``main`` makes one from the run's ``model/`` folder (configuration and tokenizer; never weights, and nothing is
downloaded) and gives it each published weight version. Several times faster than ``model.generate`` on small models,
because prompts are computed once per prompt group, finished responses leave the batch, and the cache is never copied;
``bench/rollout.py`` measures both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from rz_workers.prompts import load_tokenizer
from rz_workers.rollout.decode import decode
from rz_workers.rollout.engine import Finished, SampleRequest, SamplingParams, WeightsMismatchError
from rz_workers.rollout.stopping import Stopper
from rz_workers.runtime import UserError

__all__ = ["TransformersEngine", "check_fit", "check_room", "eos_token_ids"]


class TransformersEngine:
    """See ``engine.Engine``. ``dtype`` is the spec's ``trainer.dtype``, ``max_model_tokens`` its
    ``rollout.maxModelLength``.

    Raises UserError for a model that does not attend to its whole context (sliding windows, linear attention).
    """

    def __init__(self, folder: Path, dtype: str, max_model_tokens: int, trust_remote_code: bool = False) -> None:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        _check_full_attention(config.get_text_config(), max_model_tokens)
        self._model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=getattr(torch, dtype), attn_implementation="sdpa", trust_remote_code=trust_remote_code
        )
        self._model.eval().requires_grad_(False)
        self._tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
        self._eos_token_ids = eos_token_ids(folder, self._tokenizer.eos_token_id)
        self._max_model_tokens = max_model_tokens
        self._stoppers: dict[tuple[str, ...], Stopper] = {}
        self._weight_version: int | None = None

    @property
    def name(self) -> str:
        return f"transformers {transformers.__version__}"

    @property
    def weight_version(self) -> int | None:
        return self._weight_version

    def load_weights(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy ``tensors`` into the model, in place, and tie what the configuration ties."""
        self._weight_version = None
        check_fit(self._model, version, tensors)
        self._model.load_state_dict(dict(tensors), strict=False)
        self._model.tie_weights()
        self._weight_version = version

    def generate(
        self, requests: Sequence[SampleRequest], params: SamplingParams, cancelled: Callable[[], bool]
    ) -> Iterator[Finished]:
        """Sample ``requests`` as one batch of fixed composition."""
        assert self._weight_version is not None, "generate before load_weights"
        check_room(requests, params, self._max_model_tokens)
        return decode(self._model, requests, params, self._stopper(params.stop), cancelled)

    def _stopper(self, stop: tuple[str, ...]) -> Stopper:
        if stop not in self._stoppers:
            vocabulary = self._model.config.get_text_config().vocab_size
            self._stoppers[stop] = Stopper(self._tokenizer, stop, self._eos_token_ids, vocabulary)
        return self._stoppers[stop]


def check_fit(model: PreTrainedModel, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise WeightsMismatchError unless ``tensors`` are the weights of ``model`` (which may lie on the meta device), by
    name and shape. Of tensors that are tied one may be absent; if both are there they must be equal, or one of them
    would silently be lost."""
    own, tied = model.state_dict(), model.all_tied_weights_keys
    absent = sorted(own.keys() - tensors.keys() - set(tied))
    unknown = sorted(tensors.keys() - own.keys())
    reshaped = sorted(name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape)
    if absent or unknown or reshaped:
        raise WeightsMismatchError(
            f"weights version {version} do not fit the model/ folder of this run: {len(absent)} tensors are "
            f"absent {absent[:3]}, {len(unknown)} unknown {unknown[:3]}, {len(reshaped)} of another shape "
            f"{reshaped[:3]}"
        )
    for name, source in tied.items():
        if name in tensors and source in tensors and not torch.equal(tensors[name], tensors[source]):
            raise WeightsMismatchError(
                f"weights version {version}: {name} and {source} differ, but the model's configuration ties them"
            )


def check_room(requests: Sequence[SampleRequest], params: SamplingParams, max_model_tokens: int) -> None:
    """Raise UserError unless the longest prompt and response fit the context together."""
    assert all(request.prompt_token_ids for request in requests), "a row has no prompt"
    longest = max(len(request.prompt_token_ids) for request in requests)
    if longest + params.max_new_tokens > max_model_tokens:
        raise UserError(
            f"a prompt of {longest} tokens and rollout.sampling.maxNewTokens {params.max_new_tokens} do not fit "
            f"rollout.maxModelLength {max_model_tokens}; raise that, or lower one of the other two"
        )


def eos_token_ids(folder: Path, of_tokenizer: int | None) -> frozenset[int]:
    """End-of-sequence tokens of the tokenizer and of ``generation_config.json``, where there is one."""
    found = {of_tokenizer}
    if (folder / "generation_config.json").exists():
        named = GenerationConfig.from_pretrained(folder).eos_token_id
        found.update(named if isinstance(named, list) else [named])
    return frozenset(token for token in found if token is not None)


def _check_full_attention(config: transformers.PretrainedConfig, max_model_tokens: int) -> None:
    layer_types = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    limited = set(layer_types) - {"full_attention"} if layer_types else ()
    if limited or (not layer_types and window is not None and window < max_model_tokens):
        raise UserError(
            f"model.name is a {config.model_type} with attention of kind {sorted(limited) or 'sliding_attention'}; the "
            "transformers engine samples from models that attend to their whole context: choose such a model, or "
            "rollout.engine vllm"
        )
