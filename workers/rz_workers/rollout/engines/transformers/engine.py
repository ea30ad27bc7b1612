"""A unit is one batch of fixed composition, so that it is the same to the last bit whoever samples it (decision 1).

The engine for any machine: a Hugging Face model on the CPU, with a decode loop of our own (``decode``). ``main`` makes
one from the run's ``model/`` folder (configuration and tokenizer; never weights, and nothing is downloaded) and gives
it each published weight version. Several times faster than ``model.generate`` on small models, because prompts are
computed once per prompt group, finished responses leave the batch, and the cache is never copied; ``bench/rollout.py``
measures both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rz_workers.data.prompts import load_tokenizer
from rz_workers.protocol.messages import ReceiverState, TransferOrder
from rz_workers.rollout.engines.cpu import cpu_name
from rz_workers.rollout.engines.fit import Layout, check_room, eos_token_ids
from rz_workers.rollout.engines.interface import Finished, SampleRequest, SamplingParams
from rz_workers.rollout.engines.stopping import Stopper
from rz_workers.rollout.engines.transformers.attention import WINDOWED_SDPA
from rz_workers.rollout.engines.transformers.decode import decode
from rz_workers.runtime import UserError, read_token
from rz_workers.tensor_names import stored_names
from rz_workers.transfer.receiver import Receiver

__all__ = ["TransformersEngine"]


class TransformersEngine:
    """See ``interface.Engine``. ``dtype`` is the spec's ``trainer.dtype``, ``max_model_tokens`` its
    ``rollout.maxModelLength``, ``token_file`` has the run's token, for broadcasts.

    Raises UserError for a model with layers that are no attention (recurrent, convolution).
    """

    def __init__(
        self,
        folder: Path,
        dtype: str,
        max_model_tokens: int,
        trust_remote_code: bool = False,
        *,
        token_file: Path | None = None,
    ) -> None:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        _check_attention(config.get_text_config())
        self._model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=getattr(torch, dtype), attn_implementation=WINDOWED_SDPA, trust_remote_code=trust_remote_code
        )
        self._model.eval().requires_grad_(False)
        self._tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
        self._eos_token_ids = eos_token_ids(folder, self._tokenizer.eos_token_id)
        self._max_model_tokens = max_model_tokens
        self._stoppers: dict[tuple[str, ...], Stopper] = {}
        self._weight_version: int | None = None
        self._layout = Layout.of(self._model)
        self._own_names = {stored: name for name, stored in stored_names(self._model).items()}
        self._receiver = Receiver(torch.device("cpu"), partial(read_token, token_file), worker=0, workers=1)

    @property
    def name(self) -> str:
        return f"transformers {transformers.__version__}"

    @property
    def hardware(self) -> str:
        return f"{self.name}, torch {torch.__version__}, {self._model.dtype}, {cpu_name()}"

    @property
    def weight_version(self) -> int | None:
        return self._weight_version

    @property
    def receiver(self) -> ReceiverState:
        return ReceiverState(workers=1, group=self._receiver.group)

    def load_weights(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy ``tensors`` into the model, in place, and tie what the configuration ties."""
        self._weight_version = None
        self._layout.check(version, tensors)
        # Not strict: a tied tensor may be absent, and `check` has refused everything else.
        self._model.load_state_dict({self._own_names[name]: each for name, each in tensors.items()}, strict=False)
        self._model.tie_weights()
        self._weight_version = version

    def receive_weights(self, order: TransferOrder) -> str:
        """Copy what arrives into the model, in place, tensor by tensor."""
        self._weight_version = None
        digest = self._receiver.receive(order, lambda tensors: self._take(order.version, tensors))
        self._weight_version = order.version
        return digest

    def _take(self, version: int, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        in_memory, tied = self._model.state_dict(), self._layout.tied
        own = {stored: in_memory[name] for stored, name in self._own_names.items()}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, tensor in tensors:
            shapes[name] = tuple(tensor.shape)
            if self._layout.shapes.get(name) != shapes[name]:
                continue  # refused below, together with whatever else does not fit
            for one, source in tied.items():  # tied tensors share their memory: the second must repeat the first
                is_second = (name == one and source in shapes) or (name == source and one in shapes)
                if is_second and not torch.equal(own[name], tensor.to(own[name].dtype)):
                    raise self._layout.torn(version, one)
            # In place although the rest may not fit: with a failure here the engine has no version any more.
            own[name].copy_(tensor)
        self._layout.check_names(version, shapes)

    def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        assert self._weight_version is not None, "score before load_weights"
        ids = torch.tensor(token_ids)
        with torch.inference_mode():
            logits = self._model(input_ids=ids[None], use_cache=False).logits[0, :-1]
            logprobs = torch.log_softmax(logits.float(), dim=-1).gather(-1, ids[1:, None])[:, 0]
        return tuple(logprobs.tolist())

    def sleep(self) -> None:
        """Nothing to free: on a CPU the weights lie where they would be kept, and no keys outlive a call."""

    def wake(self) -> None:
        """Nothing to get back."""

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


def _check_attention(config: transformers.PretrainedConfig) -> None:
    other = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if other:
        raise UserError(
            f"model.name is a {config.model_type} with layers of kind {sorted(other)}; the transformers engine samples "
            "from models all of whose layers are attention, full or in sliding windows: choose such a model, or "
            "rollout.engine vllm"
        )
