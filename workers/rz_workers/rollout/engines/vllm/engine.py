"""Whatever vLLM does in its processes has a time limit, and no process of vLLM outlives the rollout.

The engine of clusters: vLLM with continuous batching, on GPUs; on CPUs for tests and for `make demo ENGINE=vllm`.

::

    threads of main                    our thread            vLLM's processes
    ───────────────                    ──────────            ────────────────
    generate ── rows of a unit ──────> event loop ─────────> scheduler ──> workers (``worker``)
    the unit's thread <── responses ── AsyncLLM   <───────── tokens
    has_room <──────────────────────── ``LoadGauge`` <────── rows that run, KV blocks in use
    load_weights ── safetensors in the scratch folder, its path ─────────> load_published
    receive_weights ── the ledger's order ───────────────────────────────> ``transfer``
    score ── one prompt, alone ──────────────────────────────────────────> its log-probs

``main`` makes one from the run's ``model/`` folder, with random weights, and gives it each published version. What ends
a response, and its text, are decided by ``stopping`` as in the transformers engine: vLLM only has to stop in time. The
tier is *equivalent* (``interface``). vLLM's own metrics (``vllm:*``) appear on the role's port, because both use the
process's Prometheus registry.

An engine that hangs ends the rollout with an error; an ``orphans.OrphanGuard`` ends the processes of vLLM with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rz_workers.data.prompts import load_tokenizer
from rz_workers.protocol.messages import ReceiverState, TransferOrder
from rz_workers.rollout.engines.fit import Layout, check_room, eos_token_ids
from rz_workers.rollout.engines.interface import (
    EOS,
    Finished,
    SampleRequest,
    SamplingParams,
    StaleWeightsError,
    WeightsMismatchError,
)
from rz_workers.rollout.engines.stopping import Stopper
from rz_workers.rollout.engines.vllm.load import LoadGauge
from rz_workers.rollout.engines.vllm.orphans import OrphanGuard
from rz_workers.runtime import UserError, WorkerError
from rz_workers.transfer.errors import TransferError

# Read when vLLM is imported or its processes start. Whoever sets one of them otherwise is right.
for _name, _value in {
    "GLOO_SOCKET_IFNAME": "lo",  # vLLM's processes, on this machine, exchange pickles: not where other pods connect
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; ignored on GPUs
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # OMP_NUM_THREADS is the plan's; binding would take every core
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of this process, which has threads, may hang; and see ``orphans``
}.items():
    os.environ.setdefault(_name, _value)

import vllm  # noqa: E402
from vllm import SamplingParams as VllmParams  # noqa: E402
from vllm.config import WeightTransferConfig  # noqa: E402
from vllm.distributed.weight_transfer.base import (  # noqa: E402
    WeightTransferInitRequest,
    WeightTransferUpdateRequest,
)
from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: E402
from vllm.outputs import RequestOutput  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402
from vllm.sampling_params import RequestOutputKind  # noqa: E402
from vllm.v1.engine.async_llm import AsyncLLM  # noqa: E402

__all__ = ["HungEngineError", "VllmEngine"]

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
"""How often a call looks whether it was cancelled."""
START_SECONDS = 1800.0
LOAD_SECONDS = 900.0
CLOSE_SECONDS = 1.0
"""Longest start (imports, memory profile, graph capture), update of weights and end. Whatever takes longer hangs."""
SCORE_SECONDS = 300.0
HANG_SECONDS = 600.0
"""Longest time without a token while there are rows to sample: far more than a step of the largest batch takes."""
CPU_BATCH_TOKENS = 4096
"""Tokens of one step on a CPU, in whole prompts; vLLM's own figure there."""
WORKER = "rz_workers.rollout.engines.vllm.worker.PublishedWeights"
TRANSFER = "reasonerzero"
"""``transfer.BACKEND``: that module is for vLLM's processes alone."""

T = TypeVar("T")


class VllmEngine:
    """See ``interface.ConcurrentEngine``. ``dtype`` is the spec's ``trainer.dtype``, ``max_model_tokens`` its
    ``rollout.maxModelLength``; ``sleeps`` says whether ``sleep`` has to free the GPU (placement ``colocated``), which
    costs some memory and start-up time.

    Weights on their way to vLLM are stored beside ``folder``. Raises UserError for what vLLM refuses: an unknown
    architecture, a context that the model does not have.
    """

    def __init__(
        self,
        folder: Path,
        dtype: str,
        max_model_tokens: int,
        *,
        tensor_parallel: int = 1,
        gpu_memory_utilization: float = 0.9,
        sleeps: bool = False,
        trust_remote_code: bool = False,
        hang_seconds: float = HANG_SECONDS,
    ) -> None:
        model = _without_weights(folder, trust_remote_code)
        self._layout = Layout.of(model)
        tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
        self._eos_token_ids = eos_token_ids(folder, tokenizer.eos_token_id)
        # No table (size 0): vLLM ends rows by itself, and only `find` and `text` are used. Kept for all calls: to make
        # one the whole vocabulary is read.
        self._stopper: Callable[[tuple[str, ...]], Stopper] = cache(lambda stop: Stopper(tokenizer, stop, (), 0))
        self._max_model_tokens = max_model_tokens
        self._weights_folder = folder.parent / f"{folder.name}-weights"
        self._weight_version: int | None = None
        self._receiver = ReceiverState(workers=tensor_parallel)
        self._hang_seconds = hang_seconds
        self._frees_device = sleeps and not current_platform.is_cpu()
        self._asleep = False
        self._gauge = LoadGauge()
        self._calls = 0
        self._closed = False
        arguments = AsyncEngineArgs(
            model=str(folder),
            served_model_name="policy",
            load_format="dummy",
            # fp32 logits, as the trainer's are; else vLLM rounds them to ``dtype`` (docs/decisions/0017).
            hf_overrides={"architectures": [type(model).__name__], "head_dtype": "float32"},
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            max_model_len=max_model_tokens,
            tensor_parallel_size=tensor_parallel,
            gpu_memory_utilization=gpu_memory_utilization,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            generation_config="vllm",  # the run's sampling parameters are the only ones
            worker_extension_cls=WORKER,
            weight_transfer_config=WeightTransferConfig(backend=TRANSFER),
            enable_sleep_mode=self._frees_device,
            **(_cpu_arguments(max_model_tokens) if current_platform.is_cpu() else {}),
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        # Before vLLM starts anything: while it starts, nothing in its processes looks after the rollout.
        self._guard = OrphanGuard()
        try:
            with self._guard.marked():
                self._llm: AsyncLLM = self._await(self._start(arguments), START_SECONDS, "start")
        except ValueError as error:
            raise UserError(f"vllm cannot sample model.name: {error}; change it, or the rollout section") from error
        devices = Counter(self._await(self._llm.collective_rpc("device_name"), LOAD_SECONDS, "name its devices"))
        names = " and ".join(f"{number} x {name}" for name, number in sorted(devices.items()))
        self._hardware = f"{self.name}, torch {torch.__version__}, {dtype}, {names}"

    @property
    def name(self) -> str:
        return f"vllm {vllm.__version__}"

    @property
    def hardware(self) -> str:
        return self._hardware

    @property
    def weight_version(self) -> int | None:
        return self._weight_version

    @property
    def receiver(self) -> ReceiverState:
        return self._receiver

    def has_room(self) -> bool:
        return self._gauge.has_room()

    # --------------------------------------------------------------------------------------------------- weights

    def load_weights(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Have every worker read ``tensors`` from a file, prove that it computes with them, and forget all keys and
        values that older weights made. Raises StaleWeightsError when the proof fails."""
        self._assert_idle("load_weights")
        self._weight_version = None
        self._layout.check(version, tensors)
        shutil.rmtree(self._weights_folder, ignore_errors=True)
        self._weights_folder.mkdir(parents=True)
        try:
            file = self._weights_folder / f"v{version:06d}.safetensors"
            safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
            self._await(self._load(version, file), LOAD_SECONDS, "load weights")
        finally:
            shutil.rmtree(self._weights_folder, ignore_errors=True)
        self._weight_version = version

    async def _load(self, version: int, file: Path) -> None:
        # Rows of calls that were cancelled may still be on their way out.
        await self._llm.pause_generation(mode="abort", clear_cache=True)
        reports = await self._llm.collective_rpc("load_published", args=(str(file),))
        await self._take_up(version, reports)

    def receive_weights(self, order: TransferOrder) -> str:
        """Have every worker join the order's group and receive, and then do as ``load_weights``."""
        self._assert_idle("receive_weights")
        self._weight_version = None
        # Without a group until it has succeeded: after a failure the next order is for a new one.
        self._receiver = ReceiverState(workers=self._receiver.workers)
        digest = self._await(self._receive(order), LOAD_SECONDS, "receive weights")
        self._weight_version = order.version
        return digest

    async def _receive(self, order: TransferOrder) -> str:
        llm, layout = self._llm, self._layout
        await llm.pause_generation(mode="abort", clear_cache=True)
        shapes = {name: list(shape) for name, shape in layout.shapes.items()}
        await llm.init_weight_transfer_engine(WeightTransferInitRequest({"shapes": shapes, "tied": dict(layout.tied)}))
        await llm.start_weight_update()
        await llm.update_weights(WeightTransferUpdateRequest({"order": order.model_dump()}))
        await llm.finish_weight_update()
        reports = await llm.collective_rpc("conclude_update")
        for report in reports:
            if report.get("failure") is not None:
                raise _FAILURES.get(report["failure"], WorkerError)(report["complaint"])
        digests = {report["digest"] for report in reports}
        if len(digests) != 1:
            raise TransferError(f"the workers of this engine received version {order.version} with digests {digests}")
        self._receiver = ReceiverState(workers=self._receiver.workers, group=order.group)
        await self._take_up(order.version, reports)
        return str(digests.pop())

    async def _take_up(self, version: int, reports: Sequence[Mapping[str, Any]]) -> None:
        """Sample with what the workers report to be ``version``."""
        complaints = [report["complaint"] for report in reports if report["complaint"] is not None]
        if complaints:
            raise StaleWeightsError(f"weights version {version}: {'; '.join(complaints)}")
        log.info(
            "version %d: %d tensors are in the engine as they were published, of %d it is not known how the engine "
            "keeps them",
            version,
            max(report["equal"] for report in reports),
            max(report["unknown"] for report in reports),
        )
        if not await self._llm.reset_prefix_cache():
            raise StaleWeightsError(f"weights version {version}: vllm keeps keys and values of older weights")
        await self._llm.update_weight_version(str(version))
        await self._llm.resume_generation()

    def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        assert self._weight_version is not None, "score before load_weights"
        self._assert_idle("score")
        return self._await(self._score(list(token_ids)), SCORE_SECONDS, "score the canary")

    async def _score(self, token_ids: list[int]) -> tuple[float, ...]:
        """vLLM tells the log-probs of a prompt when it samples a token behind it, which is of no interest."""
        params = VllmParams(
            temperature=1.0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,
            # As `Engine.score` promises: from nothing that was computed before.
            skip_reading_prefix_cache=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        found: list[float] = []
        async for output in self._llm.generate({"prompt_token_ids": token_ids}, params, uuid.uuid4().hex):
            scores = (output.prompt_logprobs or [])[1:]  # the first token has none
            found = [of_token[token].logprob for token, of_token in zip(token_ids[1:], scores, strict=True)]
        return tuple(found)

    # ------------------------------------------------------------------------------------------------------ sleeping

    def sleep(self) -> None:
        """On GPUs the weights go to the host's memory, and keys and values are dropped. vLLM on CPUs frees nothing."""
        if self._asleep:
            return
        assert self._calls == 0, "sleep beside generate"
        self._await(self._pause(), LOAD_SECONDS, "go to sleep")
        self._asleep = True

    async def _pause(self) -> None:
        if self._frees_device:
            await self._llm.sleep(level=1)
        else:
            await self._llm.pause_generation(mode="abort", clear_cache=True)
            log.info("the engine pauses; no memory is freed")

    def wake(self) -> None:
        if not self._asleep:
            return
        resume = self._llm.wake_up() if self._frees_device else self._llm.resume_generation()
        self._await(resume, LOAD_SECONDS, "wake up")
        self._asleep = False

    def _assert_idle(self, call: str) -> None:
        assert self._calls == 0, f"{call} beside generate"
        assert not self._asleep, f"{call} while the engine sleeps"

    # -------------------------------------------------------------------------------------------------- sampling

    def generate(
        self, requests: Sequence[SampleRequest], params: SamplingParams, cancelled: Callable[[], bool]
    ) -> Iterator[Finished]:
        """Submit ``requests`` beside what is being sampled already; rows of one prompt share its keys and values."""
        version = self._weight_version
        assert version is not None, "generate before load_weights"
        assert not self._asleep, "generate while the engine sleeps"
        check_room(requests, params, self._max_model_tokens)
        outputs: queue.SimpleQueue[tuple[int, RequestOutput] | None] = queue.SimpleQueue()
        self._calls += 1
        # At once, not in the event loop: the next `has_room` has to count these rows.
        self._gauge.add(len(requests))
        call = asyncio.run_coroutine_threadsafe(self._sample(requests, params, outputs), self._loop)
        # Behind the last response, and as well when the call failed or was cancelled: the reader always wakes up.
        call.add_done_callback(lambda _: outputs.put(None))
        return self._responses(call, outputs, version, self._stopper(params.stop), cancelled)

    def _responses(
        self,
        call: Future[None],
        outputs: queue.SimpleQueue[tuple[int, RequestOutput] | None],
        version: int,
        stopper: Stopper,
        cancelled: Callable[[], bool],
    ) -> Iterator[Finished]:
        try:
            while not cancelled():
                try:
                    output = outputs.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    self._check_that_it_moves()
                    continue
                if output is None:
                    _raise_failure(call)
                    return
                yield self._finished(*output, version, stopper)
        finally:
            call.cancel()
            self._calls -= 1

    def _check_that_it_moves(self) -> None:
        stuck = self._gauge.stuck_seconds()
        if stuck > self._hang_seconds:
            raise HungEngineError(f"vllm has rows to sample and made no token for {stuck:.0f} s: it hangs")

    async def _sample(
        self,
        requests: Sequence[SampleRequest],
        params: SamplingParams,
        outputs: queue.SimpleQueue[tuple[int, RequestOutput] | None],
    ) -> None:
        async def row(index: int) -> None:
            request = requests[index]
            try:
                async for output in self._llm.generate(
                    {"prompt_token_ids": list(request.prompt_token_ids)},
                    _vllm_params(params, request.seed, self._eos_token_ids),
                    uuid.uuid4().hex,
                ):
                    outputs.put((index, output))
            finally:
                self._gauge.add(-1)

        async with asyncio.TaskGroup() as rows:
            for index in range(len(requests)):
                rows.create_task(row(index))

    def _finished(self, index: int, output: RequestOutput, version: int, stopper: Stopper) -> Finished:
        sampled = output.outputs[0]
        versions = {span.version for span in sampled.weight_versions or ()}
        if versions != {str(version)}:
            raise WorkerError(f"vllm sampled a response with weight versions {versions}, {version} was loaded")
        token_ids = tuple(sampled.token_ids)
        flat = sampled.logprobs
        logprobs = tuple(flat.logprobs[start] for start in flat.start_indices[: len(token_ids)])
        text = stopper.text(token_ids)
        if token_ids[-1] in self._eos_token_ids:
            return Finished(index, token_ids, logprobs, text, "stop", EOS)
        match = stopper.find(token_ids)
        if match is not None:
            return Finished(index, token_ids, logprobs, text[: len(text) - match.trailing], "stop", match.stop)
        if sampled.finish_reason == "length":
            return Finished(index, token_ids, logprobs, text, "length", None)
        if sampled.finish_reason == "stop" and isinstance(sampled.stop_reason, str):
            # vLLM saw the stop string only once a later token completed a character; the response ends with that token.
            end = text.find(sampled.stop_reason) + len(sampled.stop_reason)
            return Finished(index, token_ids, logprobs, text[:end], "stop", sampled.stop_reason)
        raise WorkerError(f"vllm ended a response with {sampled.finish_reason!r}, {sampled.stop_reason!r}")

    # ---------------------------------------------------------------------------------------------------- process

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._llm.shutdown(timeout=0.0)
            self._guard.stop()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_SECONDS)
            if not self._thread.is_alive():
                self._loop.close()
            del self._llm  # its sockets are closed when nothing refers to it

    async def _start(self, arguments: AsyncEngineArgs) -> AsyncLLM:
        return AsyncLLM.from_engine_args(arguments, stat_loggers=[self._gauge.stat_logger])

    def _await(self, work: Coroutine[Any, Any, T], timeout_seconds: float, purpose: str) -> T:
        """Raises HungEngineError when vLLM is not done in time."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_seconds)
        except TimeoutError as error:
            raise HungEngineError(f"vllm did not {purpose} within {timeout_seconds:.0f} s: it hangs") from error


class HungEngineError(WorkerError):
    """vLLM does nothing any more. The rollout ends, and is replaced."""


_FAILURES: dict[str, type[WorkerError]] = {error.__name__: error for error in (TransferError, WeightsMismatchError)}
"""What a worker may report of a broadcast that did not arrive; anything else means that vLLM could not load it."""


def _raise_failure(call: Future[None]) -> None:
    """What ended one row ended all; one of them is enough to say so."""
    error = call.exception()
    if isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise WorkerError(f"vllm failed in the middle of a unit: {error}") from error


def _cpu_arguments(max_model_tokens: int) -> dict[str, Any]:
    """No compilation, and no prompt in pieces: vLLM 0.32 draws a token behind each piece and takes the draw back from
    the row's random numbers, which those of CPUs cannot do ("CPU Generator does not use offset" ends the engine)."""
    tokens = max(max_model_tokens, CPU_BATCH_TOKENS)
    return {"enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": tokens}


def _vllm_params(params: SamplingParams, seed: int, eos: frozenset[int]) -> VllmParams:
    """vLLM keeps the token that stops a response, and with ``include_stop_str_in_output`` its text."""
    return VllmParams(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        max_tokens=params.max_new_tokens,
        seed=seed,
        stop=list(params.stop),
        stop_token_ids=sorted(eos),
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        logprobs=0,
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _without_weights(folder: Path, trust_remote_code: bool) -> PreTrainedModel:
    """The Hugging Face model that the published names and shapes belong to, on the meta device."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, trust_remote_code=trust_remote_code
        )
    return model
