"""Bad input leaves no half-made run folder behind: data, tokenizer and model are read before anything is written.

What happens before the first step: check everything that the user can get wrong, then claim the run's folder. Rank 0
alone reads the model from its source; the other ranks get it from rank 0.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rz_api.context import too_long
from rz_api.run import ResolvedRun
from rz_api.shapes import ModelShape
from rz_api.spec import AlgorithmSpec, ReasonerZeroRunSpec
from rz_workers.data.earlier import read_earlier
from rz_workers.data.prompt_table import PreparedData, prepare, publish_data
from rz_workers.data.prompts import check_round_trip, load_tokenizer
from rz_workers.runtime import Settings, UserError
from rz_workers.storage import layout
from rz_workers.storage.credentials import HUB_TOKEN, read_hub_token
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.records import DataManifest
from rz_workers.storage.run_folder import RunFolder
from rz_workers.trainer import memory
from rz_workers.trainer.durable import checkpoint, initial
from rz_workers.trainer.durable.sources import local_source
from rz_workers.trainer.method.learner import Learner
from rz_workers.trainer.models import actor_critic, loading
from rz_workers.trainer.models.actor_critic import Critic, Policy
from rz_workers.trainer.proof import prove
from rz_workers.trainer.ranks import Ranks, distribute

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """Everything from outside the run, read and checked; only on the first rank."""

    prepared: PreparedData
    tokenizer: Any
    policy: Policy
    critic: Critic | None
    reference: Policy | None


def read_inputs(run: ResolvedRun, scratch: Path) -> Inputs:
    """Read data, tokenizer and models. Writes nothing but downloads under ``scratch``.

    Raises UserError for whatever the user must change.
    """
    spec = run.spec
    model, algorithm = spec.model, spec.algorithm
    store = ObjectStore(spec.storage.uri, spec.storage.secret_name)
    store.check_writable()  # first: nobody waits for a download to learn that
    source = local_source(model.name, scratch, model.secret_name)
    _use_hub_token(model.name, source, model.secret_name)
    tokenizer_source = local_source(model.tokenizer, scratch, model.secret_name) if model.tokenizer else source
    # model.revision is the model's: a tokenizer from elsewhere has no such commit.
    tokenizer = load_tokenizer(tokenizer_source, None if model.tokenizer else model.revision, model.trust_remote_code)
    _check_model(run, source)
    # Before the data are read, which may take long; ``prepare`` looks again, with their first question.
    check_round_trip(tokenizer, spec.data.prompt_template)
    # Of an earlier gang; None for a run that begins.
    folder = RunFolder.open(store, run)
    prepared = prepare(spec, tokenizer, read_earlier(folder, spec))
    log.info("%d training prompts, %d dropped as too long", len(prepared.train), len(prepared.dropped))
    options: dict[str, Any] = {
        "trust_remote_code": model.trust_remote_code,
        "activation_checkpointing": spec.trainer.activation_checkpointing,
    }
    base: dict[str, Any] = {"source": source, "revision": model.revision}
    # A resume has its own checkpoint, and what initFrom names may be deleted by then.
    has_given = (model.init_from or algorithm.critic.init_from) is not None and not _resumes(folder)
    starts_from = initial.find(model.init_from, scratch, model.secret_name) if has_given and model.init_from else None
    of_policy = base
    if isinstance(starts_from, initial.Export):
        of_policy = {"source": starts_from.part("policy"), "revision": None, "field": "model.initFrom"}
    policy = loading.load_policy(**of_policy, **options)
    _check_vocabulary(policy, tokenizer, source)
    critic = None
    if algorithm.name == "ppo":
        given = _given_critic(spec, starts_from, scratch) if has_given else None
        critic = _load_critic(algorithm, base, given, policy, options)
    if isinstance(starts_from, initial.Checkpoint):
        begun = {"policy": policy, "critic": critic if algorithm.critic.init_from is None else None}
        starts_from.load({part: module for part, module in begun.items() if module is not None})
    # The base model, also with initFrom (RECIPE.md: the code moves its reference every epoch).
    reference = loading.load_policy(**base, **options) if algorithm.kl_coefficient > 0 else None
    return Inputs(prepared, tokenizer, policy, critic, reference)


def _check_model(run: ResolvedRun, source: str) -> None:
    """Refuse a model that would be trained wrong, of its configuration: its weights, which take long, are not read."""
    model, trainer = run.spec.model, run.spec.trainer
    config = loading.read_config(source, model.revision, model.trust_remote_code)
    if (reason := too_long(config.to_dict(), run.spec.rollout.max_model_length)) is not None:
        raise UserError(f"{model.name}: {reason}")
    try:
        ModelShape.from_config(config.to_dict())
    except ValueError as error:
        raise UserError(f"{model.name}: {error}: change model.name") from None
    prove(
        config,
        model.name,
        is_ppo=run.spec.algorithm.name == "ppo",
        activation_checkpointing=trainer.activation_checkpointing,
        trust_remote_code=model.trust_remote_code,
    )


def _given_critic(
    spec: ReasonerZeroRunSpec, starts_from: initial.Checkpoint | initial.Export | None, scratch: Path
) -> tuple[str, str] | None:
    """Where a critic lies that the run is to begin with, and the field of the spec that says so; None where that is the
    base model (or a checkpoint, which is laid over it)."""
    init_from, secret_name = spec.algorithm.critic.init_from, spec.model.secret_name
    if init_from is not None:
        field = "algorithm.critic.initFrom"
        source = local_source(init_from, scratch, secret_name, field)
        _use_hub_token(init_from, source, secret_name)
        return source, field
    return (starts_from.part("critic"), "model.initFrom") if isinstance(starts_from, initial.Export) else None


def _load_critic(
    algorithm: AlgorithmSpec,
    base: dict[str, Any],
    given: tuple[str, str] | None,
    policy: Policy,
    options: dict[str, Any],
) -> Critic:
    # A stream of its own, by hash like all that follows from the seed (docs/decisions/0003).
    seed = int.from_bytes(hashlib.sha256(f"value-head:{algorithm.seed}".encode()).digest()[:4], "big")
    if given is None:
        return loading.load_critic(**base, **options, init=algorithm.critic.value_head_init, seed=seed)
    return loading.load_critic(
        given[0], revision=None, **options, init=None, seed=seed, field=given[1], policy_config=policy.model.config
    )


def _resumes(folder: RunFolder | None) -> bool:
    """Whether the run has a checkpoint of its own, which the gang will load: what the fields ``initFrom`` name is not
    needed then, and may be gone."""
    return folder is not None and checkpoint.newest(folder) is not None


def _use_hub_token(name: str, source: str, secret_name: str | None) -> None:
    """For a ``name`` on the hub (``source`` is what ``local_source`` made of it): the hub's client reads its token from
    the environment, where that of another Secret may be."""
    is_on_hub = source == name and not Path(source).is_dir()
    token = read_hub_token(name, secret_name) if is_on_hub else None
    if token is not None:
        os.environ[HUB_TOKEN] = token


def claim_folder(settings: Settings, inputs: Inputs) -> tuple[RunFolder, DataManifest]:
    """Own the run's folder and incarnation, and store what every role reads: prompts, model configuration, tokenizer.

    Raises UserError when another run owns the folder or the data changed, SupersededError when a newer gang exists.
    """
    storage = settings.run.spec.storage
    folder = RunFolder.claim(ObjectStore(storage.uri, storage.secret_name), settings.run)
    # Before anything else is written: a gang that was overtaken ends here.
    folder.claim_incarnation(settings.incarnation)
    data = publish_data(folder, settings.run.spec, inputs.prepared)
    # Once for the run's life: rollouts may have loaded it already.
    if folder.manifest(layout.MODEL_PREFIX) is None:
        local = settings.scratch / "model"
        shutil.rmtree(local, ignore_errors=True)
        loading.save_description(inputs.policy, inputs.critic, local)
        inputs.tokenizer.save_pretrained(local)
        # A folder may load as another tokenizer than it was saved by (findings/transformers_word_tokenizer.sh).
        _check_saved_tokenizer(inputs, local, settings.run.spec.model.trust_remote_code)
        folder.store_folder(layout.MODEL_PREFIX, local, {"name": settings.run.spec.model.name})
    return folder, data


def build_learner(settings: Settings, ranks: Ranks, inputs: Inputs | None, model_dir: Path, **options: Any) -> Learner:
    """The learner on every rank; ``inputs`` on the first one, whose weights the others receive.

    Raises UserError when this rank has not the memory that it will need.
    """
    spec, trusted = settings.run.spec, settings.run.spec.model.trust_remote_code
    config = loading.model_config(model_dir, trust_remote_code=trusted)
    memory.check(spec, ModelShape.from_config(config.to_dict()), ranks.device)
    reference: Policy | None
    if inputs is not None:
        policy, critic, reference = inputs.policy, inputs.critic, inputs.reference
    else:  # shapes alone: a host has no room for a whole model a rank
        how = {"activation_checkpointing": spec.trainer.activation_checkpointing, "trust_remote_code": trusted}
        with torch.device("meta"):
            policy = actor_critic.empty_policy(config, **how)
            is_ppo, has_kl = spec.algorithm.name == "ppo", spec.algorithm.kl_coefficient > 0
            critic = actor_critic.empty_critic(config, **how) if is_ppo else None
            reference = actor_critic.empty_policy(config, **how) if has_kl else None
    for module in (policy, critic, reference):
        if module is not None:
            distribute(module, ranks, spec.trainer)
    return Learner(spec, ranks, policy, critic, reference, **options)


def _check_vocabulary(policy: Policy, tokenizer: Any, source: str) -> None:
    rows = policy.model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {source} embeds {rows}: a tokenizer "
            "that belongs to the model is "
            f"required, check model.tokenizer"
        )


def _check_saved_tokenizer(inputs: Inputs, folder: Path, trust_remote_code: bool) -> None:
    """What rollouts will load must tokenize as what the prompts were made with."""
    row = inputs.prepared.train[0]
    reloaded = load_tokenizer(str(folder), None, trust_remote_code)
    before = inputs.tokenizer(row.prompt, add_special_tokens=False)["input_ids"]
    after = reloaded(row.prompt, add_special_tokens=False)["input_ids"]
    if before != after:
        raise UserError(
            f"the tokenizer changes when it is saved and loaded again (prompt {row.prompt_id}: "
            f"{len(before)} tokens before, "
            f"{len(after)} after): a tokenizer that AutoTokenizer restores is required, check model.tokenizer"
        )
