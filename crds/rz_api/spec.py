"""Every default is the value of the Open-Reasoner-Zero paper (arXiv 2503.24290) or, where the paper is silent,
of its published code; RECIPE notes in the docstrings say which.

The spec of a ``ReasonerZeroRun``: what a user writes, field by field. The docstrings are the descriptions in the CRD
(``rz_api.crd`` generates it), so each gives unit, meaning and consequence; the default is appended by the generator.

Who imports this: the operator (validation, planning), every worker (it reads the resolved spec), the CRD generator.
Cross-field rules are in ``rz_api.rules``; ``rz_api.resource.load_run`` is where both are applied to what a user wrote.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from rz_api.names import MAX_NAME_LENGTH, NAME_PATTERN

PROMPT_TEMPLATE = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. "
    "The Assistant first thinks about the reasoning process in the mind and then provides the User with the answer. "
    "The reasoning process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> tags, "
    "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
    "User: You must put your answer inside <answer> </answer> tags, i.e., <answer> answer here </answer>. "
    "And your final answer will be extracted automatically by the \\boxed{} tag.\n"
    "This is the problem:\n"
    "{question}\n"
    "Assistant: <think>"
)
"""The paper's prompt, to the letter; ``{question}`` is replaced, every other brace is literal."""

STOP_STRINGS = ("User:", "Human:", "Assistant:", "</answer>")
"""Stop strings of the published code; the string that stopped a response is part of the response."""


class SpecModel(BaseModel):
    """Base of every model of the contract: camelCase on the wire, unknown fields refused, values frozen.

    Infinity and NaN are refused: JSON, and so a custom resource, cannot hold them.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        # Frozen, and pydantic copies defaults: the lists and dictionaries below are nobody's in common.
        frozen=True,
        # Docstrings below fields are their descriptions: in the CRD, in kubectl explain and in docs/reference.md.
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


Uri = Annotated[str, Field(min_length=1, max_length=2048)]
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=MAX_NAME_LENGTH)]
# A DNS subdomain, as Kubernetes names Secrets and ServiceAccounts.
SecretName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$", max_length=253)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
Column = Annotated[str, Field(min_length=1, max_length=256)]
# A string with a rule (``rz_api.rules``) and no list of words: a person's own verifier is named by its place.
VerifierName = Annotated[str, Field(min_length=1, max_length=2048)]
FreeForm = dict[str, Any]
"""An object of the Kubernetes API that is passed through (x-kubernetes-preserve-unknown-fields)."""


# --------------------------------------------------------------------------------------------------------- model


class ModelSpec(SpecModel):
    """The base model that the run starts from."""

    name: Uri
    """Hugging Face id, or a folder or fsspec URL that holds a Hugging Face checkpoint. The policy and the critic both
    start from it, with separate weights."""
    revision: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Git revision (branch, tag or commit) on the hub; absent takes the default branch. Pin it for repeatable runs."""
    tokenizer: Uri | None = None
    """Where the tokenizer comes from, if not from `name` (at its default branch; `revision` is the model's). It must
    round-trip the prompt template, or the run stops at its start."""
    init_from: Uri | None = None
    """A checkpoint (`…/checkpoints/step-000055-i1`) or an export (`…/export/step-000055`) of an earlier run whose
    policy and critic are the initial weights, as in the paper's annealing stage; optimizers start anew. With a
    checkpoint, `name` is the model that the earlier run started from. Absent starts both from `name`."""
    trust_remote_code: bool = False
    """Whether code that the model's repository ships may be executed in the workers. Leave it off unless you have
    read that code."""
    secret_name: SecretName | None = None
    """Secret with credentials for the hub or the bucket that holds the model (mounted as files and as environment);
    absent where the model is public or workload identity serves."""


# ---------------------------------------------------------------------------------------------------------- data


class DataSource(SpecModel):
    """Training data from one place."""

    uri: Uri
    """File or fsspec URL of the records (.json, .jsonl, .csv, also with .gz behind it; .parquet), or
    `reasoning-gym://TASK?size=N&seed=S` for a procedural task."""
    format: Literal["auto", "verl", "messages", "orz", "orz-eval", "olympiad", "gsm8k", "columns", "reasoning-gym"] = (
        "auto"
    )
    """How records are read: docs/data.md has each with an example. `auto` decides by the first record, or takes
    `columns` where one of the two below is named."""
    question_column: Column = "question"
    """Field that holds the question; with dots a path: `prompt.0.content`."""
    answer_column: Column = "answer"
    """Field that holds the reference answer; with dots a path: `reward_model.ground_truth`."""
    verifier: VerifierName | None = None
    """What grades the answers of this source, in the words of `reward.verifier`. Absent takes `reward.verifier`; for a
    `reasoning-gym://` source, the task's own scorer (`reasoning-gym`)."""
    secret_name: SecretName | None = None
    """Secret with the credentials of this URI; absent where it is public or workload identity serves."""


class EvalSource(DataSource):
    """One evaluation set."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$", max_length=40)]
    """Name of the set in metrics, reports and the `eval/` folder; unique within the run."""


class DataSpec(SpecModel):
    """What the model is trained and evaluated on."""

    train: Annotated[list[DataSource], Field(min_length=1, max_length=64)]
    """Training sources, concatenated in this order before the seeded permutation."""
    eval: Annotated[list[EvalSource], Field(max_length=64)] = []
    """Evaluation sets; each is sampled `evaluation.samples` times a problem. None means that nothing is evaluated."""
    prompt_template: Annotated[str, Field(max_length=16384)] = PROMPT_TEMPLATE
    """Text of a prompt; `{question}` is replaced by the question, every other brace is literal. The paper's prompt by
    default; the tokenizer's BOS token is put in front if it has one, unless the template begins with its text, and
    nothing else."""
    max_prompt_tokens: Annotated[int, Field(ge=1, le=1_048_576)] = 2048
    """Longest prompt, tokens. Longer training prompts are dropped before the permutation, counted, and listed by id; a
    longer evaluation problem ends the run at its start, because an accuracy is of the whole set."""


# ----------------------------------------------------------------------------------------------------- algorithm


class OptimizerSpec(SpecModel):
    """AdamW and its schedule, one per model."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-6
    """Peak learning rate."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """After the warm-up: `constant`, or `linear` from `learningRate` to `finalLearningRate` over `decaySteps`."""
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 50
    """Optimizer steps (of this model) over which the rate rises linearly from 1/warmupSteps of the peak to the peak;
    counted from 1, so that no step is wasted at rate 0."""
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = 3e-7
    """Rate at the end of a `linear` schedule; the paper's annealing stage uses 3e-7."""
    decay_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Length of a `linear` schedule, optimizer steps after the warm-up."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's first-moment decay."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """AdamW's second-moment decay."""
    epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """AdamW's denominator floor."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled weight decay; the paper uses none."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Global gradient norm above which gradients are scaled down to it."""


class CriticSpec(OptimizerSpec):
    """The critic's optimizer and what else is particular to it."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-6
    """Peak learning rate of the critic."""
    mini_batches: Annotated[int, Field(ge=1, le=4096)] = 12
    """Optimizer steps of the critic per training step: the batch is split into that many mini-batches, by a seeded
    permutation of trajectories, and nothing is dropped."""
    init_from: Uri | None = None
    """A critic that the run's critic starts from, its value head with it: a folder, fsspec URL or Hugging Face id (at
    its default branch) of a critic that a run exported (`…/export/step-000055/critic`) or that is published, of the
    policy's architecture and size. The head is `score`, `value_head` or `classifier`. It comes before the critic of
    `model.initFrom`; `model.secretName` gives access. Absent starts from that, or from `model.name` with a fresh
    head."""
    value_head_init: Literal["normal", "kaiming", "uniform"] = "normal"
    """Initial value head where there is none to start from, no bias: `normal` has standard deviation
    1/(hidden size + 1) (the code); `kaiming` is U(-1/sqrt h, 1/sqrt h) with h the hidden size, torch's
    `kaiming_uniform_` with `a` = sqrt 5, which the paper surely means. `uniform` is U(-sqrt 5, sqrt 5), the paper to
    the letter; deprecated, for it gives the first values a standard deviation of 38 (0.5B) to 92 (32B) where returns
    are 0 or 1."""
    value_clip: Annotated[float, Field(gt=0)] | None = None
    """Clip range of the value loss around the old values; absent (the paper) leaves it unclipped, the published code
    uses 0.2."""


class AlgorithmSpec(SpecModel):
    """The method: vanilla PPO with lambda = gamma = 1, a binary reward and no KL, strictly on-policy."""

    name: Literal["ppo", "grpo"] = "ppo"
    """`ppo` (with a critic, the paper) or `grpo` (advantages relative to the prompt group, no critic)."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of everything random: prompt order, sampling, mini-batches, the value head."""
    total_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Policy updates after which the run ends; absent means as many as `epochs` passes over the data need."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Passes over the training data when `totalSteps` is absent; each has its own seeded permutation and batches
    straddle their borders."""
    prompts_per_step: Annotated[int, Field(ge=1, le=65_536)] = 128
    """Prompt groups of one step."""
    samples_per_prompt: Annotated[int, Field(ge=1, le=4096)] = 64
    """Rollouts of each prompt group."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Discount of GAE (not used by `grpo`). 1 (the paper) makes the return of every token the final reward."""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Lambda of GAE (not used by `grpo`). 1 (the paper) makes the advantage return minus value, exactly."""
    normalize_advantages: bool = True
    """Not used by `grpo`. Whether advantages are shifted to mean 0 and scaled to population standard deviation 1 over
    all response tokens of the step, in fp32, with a variance floor of 1e-8."""
    clip_ratio: Annotated[float, Field(gt=0, le=10)] = 0.2
    """Clip range of the policy ratio. With the one strictly on-policy update per step the ratio is 1 and nothing is
    ever clipped; it matters for `maxStaleness: 1`."""
    kl_coefficient: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Weight of the KL term against the base model. At 0 (the paper) no reference model is loaded."""
    kl_mode: Literal["loss", "penalty"] = "loss"
    """Where a KL coefficient acts: `loss` adds the k3 estimate to the loss, `penalty` subtracts the per-token log-ratio
    from the reward."""
    max_staleness: Annotated[int, Field(ge=0, le=1)] = 0
    """Policy updates by which sampling may lag behind training. 0 (the paper) is strictly on-policy; 1 lets
    generation of the next step overlap the whole training step."""
    sampler_correction: Literal["none", "tis"] = "none"
    """`tis` multiplies each token's loss by the truncated importance weight of trainer against sampler; `none` only
    measures the mismatch."""
    tis_cap: Annotated[float, Field(gt=0)] = 2.0
    """Upper limit of a truncated importance weight (samplerCorrection `tis`)."""
    skip_uniform_steps: bool = False
    """Whether a step from whose rewards nothing can be learned makes no update of the policy: all its rewards are equal
    (`grpo`: all of each prompt group), so that advantages are the critic's error alone. Skipped are the policy's
    optimizer step, its count in the learning rate's schedule, and the pull of a KL coefficient; the critic is trained
    as ever. The step still publishes its weight version, which has the digest of the one before."""
    policy: OptimizerSpec = OptimizerSpec()
    """The policy's optimizer; one optimizer step per training step."""
    critic: CriticSpec = CriticSpec()
    """The critic's optimizer, mini-batches and value head; not used by `grpo`."""


# ---------------------------------------------------------------------------------------------------- pod options


class EnvVar(SpecModel):
    """One environment variable, as in a Kubernetes container."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$", max_length=253)]
    """Name of the variable."""
    value: str | None = None
    """Literal value. Never put a secret here: use `valueFrom`."""
    value_from: FreeForm | None = None
    """Source of the value (`secretKeyRef`, `configMapKeyRef`, `fieldRef`), as in a Kubernetes container."""


class Resources(SpecModel):
    """Compute resources of one pod's main container, as in Kubernetes."""

    requests: dict[str, str | int] = {}
    """What the scheduler reserves, e.g. `{cpu: "8", memory: 64Gi}`. GPUs are added from the fields that count them; on
    a cluster CPU, memory and ephemeral storage with neither request nor limit get a request by the size that the
    model's name says. On one machine (`rz run`) `cpu` is the number of threads of each process."""
    limits: dict[str, str | int] = {}
    """What the container may use at most. Absent has no limit, but for one that the cluster brings (a LimitRange)."""


class PodOptions(SpecModel):
    """What can be said of the pods of one role."""

    image: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Container image; absent takes the operator's default for the role."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled; absent is the cluster's rule."""
    resources: Resources = Resources()
    """CPU, memory and other resources of the main container."""
    node_selector: dict[str, str] = {}
    """Node labels that the pods need."""
    tolerations: list[FreeForm] = []
    """Tolerations, as in a Kubernetes pod."""
    env: Annotated[list[EnvVar], Field(max_length=256)] = []
    """Environment of the main container, after the operator's own."""
    env_from: list[FreeForm] = []
    """Sources of environment (Secrets, ConfigMaps), as in a Kubernetes container."""
    service_account_name: SecretName | None = None
    """ServiceAccount of the pods, for workload identity. Its token for the API server is never mounted: who needs it
    sets `automountServiceAccountToken` in `podTemplate`."""
    pod_template: FreeForm | None = None
    """A partial pod template merged over the rendered one: containers, env, volumes and mounts by name, everything else
    replaces. For what has no field of its own."""


# ---------------------------------------------------------------------------------------------------------- roles


class SamplingSpec(SpecModel):
    """How responses are sampled."""

    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Softmax temperature of sampling; the trainer scores with the same one. The paper uses 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus mass kept; 1 keeps everything. Anything less makes the sampled distribution another than the trained
    one: the trainer scores with the whole one, so that the metrics of the mismatch between sampler and trainer then
    measure the truncation (up to 0.05 nats at 0.95) and no fault, and what trains on the sampler's log-probs
    (`maxStaleness` 1, `samplerCorrection: tis`, `klMode: penalty`) is refused. The canary of new weights is scored with
    the whole distribution, whatever is set here."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Number of likeliest tokens kept; 0 keeps everything. What `topP` says of truncation holds here too."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1_048_576)] = 8000
    """Longest response, tokens. A response that reaches it is truncated: reward 0, still trained on."""
    stop: Annotated[list[StopString], Field(max_length=32)] = list(STOP_STRINGS)
    """Stop strings; the one that stops a response is part of the response."""


class RolloutSpec(PodOptions):
    """The rollout role: samples responses and has them scored."""

    placement: Literal["separate", "colocated"] = "separate"
    """`separate` gives rollouts their own GPUs (elastic, faults isolated); `colocated` runs them in the trainer pods
    on the same GPUs, taking turns."""
    replicas: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Rollout pods (placement `separate`; `colocated` has one process on each trainer GPU, or on each
    `tensorParallel` of them); may be changed while the run goes on, also by `kubectl scale`."""
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """Inference engine; `auto` is `vllm` where the run has GPUs and `transformers` where it has none
    (`trainer.gpusPerNode: 0`)."""
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs of one rollout pod, over which the model is sharded (engine `vllm`)."""
    samples_per_lease: Annotated[int, Field(ge=1, le=4096)] = 16
    """Samples of one prompt group that are leased, sampled and stored together (a lease unit). Smaller units spread
    the work more evenly, larger ones share more of the prompt's computation."""
    groups_per_lease: Annotated[int, Field(ge=1, le=4096)] = 1
    """Prompt groups in one lease unit. 1 fits engines with continuous batching; the `transformers` engine samples a
    unit as one batch of fixed composition, so that more groups make it faster."""
    lease_seconds: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """Seconds without a heartbeat after which a lease expires and its unit is handed out again."""
    weight_sync: Literal["auto", "storage", "broadcast"] = "auto"
    """How new weights reach the rollouts. `storage`: they read them from `storage.uri`. `broadcast`: the trainer sends
    them, over NCCL where there are GPUs, gloo where there are none, and through memory (CUDA IPC on GPUs) where
    placement is `colocated`; storage gets them too, and who misses a broadcast loads from there. `auto` is `broadcast`
    where the run has GPUs and `storage` where it has none (`trainer.gpusPerNode: 0`)."""
    transfer_seconds: Annotated[float, Field(ge=1, le=3600)] = 120.0
    """Longest time for one step of a broadcast, seconds: joining it, receiving one bucket of tensors. A rollout that
    takes longer is left out of it and loads the weights from storage."""
    max_model_length: Annotated[int, Field(ge=2, le=4_194_304)] = 10_240
    """Context of the engine, tokens; at least `data.maxPromptTokens` + `rollout.sampling.maxNewTokens`."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory that the engine may use (engine `vllm`)."""
    sampling: SamplingSpec = SamplingSpec()
    """How responses are sampled, in training; `evaluation` says what differs there."""


class CheckpointSpec(SpecModel):
    """Which checkpoints are taken and kept."""

    interval: Annotated[int, Field(ge=1)] = 5
    """Steps between resume checkpoints. After a crash at most that many steps are recomputed from stored
    trajectories; none is generated again."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Resume checkpoints kept."""
    milestone_interval: Annotated[int, Field(ge=1)] | None = None
    """Steps between milestones: checkpoints beside those of `interval` that are never deleted. Absent keeps none but
    the last."""


class TrainerSpec(PodOptions):
    """The trainer role: a gang of pods that holds policy and critic."""

    nodes: Annotated[int, Field(ge=1, le=4096)] = 1
    """Trainer pods. They start, fail and restart together."""
    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = 8
    """GPUs, and so ranks, of each trainer pod; 0 trains on the CPU with one rank a pod."""
    max_tokens_per_micro_batch: Annotated[int, Field(ge=1, le=16_777_216)] = 16_384
    """Tokens of one packed forward and backward pass; bounds the activations' memory. It changes no result: the loss
    is a mean over the whole batch. At least one full context: `data.maxPromptTokens` +
    `rollout.sampling.maxNewTokens`."""
    shard_size: Annotated[int, Field(ge=1)] | None = None
    """Ranks over which parameters are sharded; absent shards over all of them, a divisor replicates the shards
    (HSDP)."""
    offload: Literal["none", "all"] = "none"
    """What is kept in host memory between its uses: nothing, or parameters, gradients and optimizer states. Without
    GPUs everything is there anyway."""
    activation_checkpointing: bool = True
    """Whether activations are recomputed in the backward pass: less memory, about a third more compute."""
    overlap_critic: bool = True
    """Whether the critic's update runs behind the generation of the next step (placement `separate`); false runs it
    before the new weights are published, to see what the overlap gains. It changes no result."""
    compile: bool = False
    """Whether each decoder layer is compiled (torch.compile): faster passes after a start that takes minutes longer.
    A compiled layer rounds otherwise, so that results differ in the last digits."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of forward, backward and published weights; masters and optimizer states are always fp32."""
    deterministic: bool = False
    """Whether only deterministic kernels are used, so that a replay is equal to the bit on GPUs too; slower. On the
    CPU it always is."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """Which checkpoints are taken and kept."""
    termination_grace_seconds: Annotated[int, Field(ge=1, le=86_400)] = 600
    """Seconds between SIGTERM and SIGKILL when the trainer is suspended or deleted; it checkpoints at the next step
    boundary."""
    watchdog_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds without any progress after which a trainer rank ends itself with a retriable exit code."""


class RewardSpec(PodOptions):
    """The reward role: rule-based verification of answers."""

    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Reward pods."""
    verifier: VerifierName = "math-verify"
    """What grades answers, where the source names nothing else: `math-verify` (the paper: the library to the letter),
    `robust` (rules of our own for each kind of answer, the library for the rest), `legacy` (string normalisation, then
    sympy, as the published code has it), `choice` (the letter of an option), `exact` (the same text), `numeric` (a
    number, within a tolerance) or `reasoning-gym` (the task's own scorer). Your own is `PLACE:FUNCTION`: a function of
    a module that the reward image has (`my_rewards.maths:grade`) or of a file
    (`s3://bucket/rewards.py:grade`, `./rewards.py:grade`). The trainer reads the file when the run starts, with the
    credentials of `storage`, and keeps it in the run's folder, so that a resume has the same code."""
    timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 10.0
    """CPU seconds that one verdict may take; at the limit the reward is 0 with status `timeout`. CPU time, so that a
    verdict does not depend on load. A verifier that waits for something else may take ten times as long and 30 s."""
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    """Verifier processes of each reward pod."""
    memory_limit_mib: Annotated[int, Field(ge=64)] = 1024
    """Address space of one verifier process, MiB; a verdict that takes more is a reward of 0 with status `memory`."""


class LedgerSpec(PodOptions):
    """The ledger role: leases, progress and weight versions, in one small CPU pod."""


class EvaluationSpec(SpecModel):
    """When and how the evaluation sets are sampled."""

    interval: Annotated[int, Field(ge=1)] = 10
    """Steps between evaluations; step 0 (the base model) and the last step are always evaluated."""
    samples: Annotated[int, Field(ge=1, le=4096)] = 16
    """Samples of each problem; the accuracy is their mean."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Softmax temperature of evaluation samples."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus mass kept in evaluation samples."""


class RetentionSpec(SpecModel):
    """What is deleted when; a resume never needs what is deleted."""

    weights: Annotated[int, Field(ge=2)] = 4
    """Published weight versions kept."""
    trajectory_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps whose trajectories are kept, counted back from the newest; absent keeps all."""


class StorageSpec(SpecModel):
    """Where the run's folder is."""

    uri: Uri
    """Folder of this run: an fsspec URL (`s3://`, `gs://`, `az://`, `file://`) or, on one machine, a path. One run
    owns it; a second one is refused, also inside it or around it. Creating an object twice must fail there."""
    secret_name: SecretName | None = None
    """Secret with the bucket's credentials (mounted as files and as environment); absent where workload identity
    serves."""
    adopt: bool = False
    """Whether a folder that another run with another identity made may be continued. Only for moving a run on
    purpose."""
    retention: RetentionSpec = RetentionSpec()
    """What is deleted when."""


class PodResourceClaim(SpecModel):
    """Devices of a pod by dynamic resource allocation (DRA): an entry of its `resourceClaims`, and of those of its main
    container."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", max_length=63)]
    """Name of the claim within the pod."""
    resource_claim_template_name: SecretName | None = None
    """ResourceClaimTemplate in the run's namespace: each pod gets a claim of its own."""
    resource_claim_name: SecretName | None = None
    """ResourceClaim in the run's namespace, which all pods share."""
    roles: Annotated[list[Literal["rollout", "trainer"]], Field(min_length=1, max_length=2)] = ["rollout", "trainer"]
    """Whose pods have it: a trainer pod needs another template than a rollout where they have other numbers of GPUs."""


class SchedulingSpec(SpecModel):
    """How pods get onto nodes."""

    gang: Literal["operator", "kueue", "coscheduling", "volcano", "kai", "workload"] = "operator"
    """Who sees to it that all pods of the gang start or none: the operator itself, or an installed scheduler.
    `workload` is Kubernetes' own (PodGroups of `scheduling.k8s.io`); on a server that does not serve them it is
    `operator`."""
    min_rollouts: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Rollout pods that belong to the gang, with all trainer pods: without them the trainers' nodes would be held for
    nothing. Fewer where `rollout.replicas` is less; none with placement `colocated`. Every gang but `operator` starts
    and stops them with the trainers."""
    queue_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Kueue LocalQueue, Volcano or KAI queue. With gang `operator`: runs of a namespace that name different queues do
    not wait for each other."""
    scheduler_name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$", max_length=253)] | None = (
        None
    )
    """Scheduler of the rollout and trainer pods. Absent takes the gang's: `volcano`, `kai-scheduler`, for
    `coscheduling` that of the plugins' Helm chart (`scheduler-plugins-scheduler`), else the cluster's default."""
    gpu_resource: Annotated[
        str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")
    ] = "nvidia.com/gpu"
    """Extended resource that counts GPUs, such as `amd.com/gpu` or a MIG profile (`nvidia.com/mig-3g.40gb`, one a pod).
    Empty: no such resource, `resourceClaims` bring the GPUs."""
    resource_claims: Annotated[list[PodResourceClaim], Field(max_length=16)] = []
    """Devices by dynamic resource allocation, besides `gpuResource` or in its place."""
    priority_class_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """PriorityClass of all pods of the run."""
    gang_timeout_seconds: Annotated[int, Field(ge=10)] = 300
    """Seconds after which a gang of which only a part has nodes is deleted whole and tried again (gang `operator`), at
    most a day; the operator's owner may have set a lower limit (`operator.maxGangTimeoutSeconds` of the chart). The
    time in which a cluster's autoscaler is bringing nodes for it does not count, up to that limit."""
    disruption_budget: bool = False
    """Whether a PodDisruptionBudget keeps voluntary evictions (a node drain) away from the trainer pods: they wait
    until the run ends or is suspended."""


class FailurePolicy(SpecModel):
    """When to give up."""

    max_restarts: Annotated[int, Field(ge=0)] = 10
    """Counted failures of the trainer gang after which the run fails. Preemption, eviction and node loss are not
    counted."""
    max_disruptions: Annotated[int, Field(ge=0)] = 100
    """Ends that are not counted (preemption, eviction, node loss, a deleted pod, a kubelet that turns it away), with no
    progress in between, after which the run fails: ends of the trainer gang with no completed step, or of every rollout
    with no completed unit. Before each restart there is a back-off, so that 100 of them take hours."""
    backoff_seconds: Annotated[float, Field(ge=0)] = 10.0
    """Wait before the first restart, seconds; doubles with each failure without progress in between."""
    max_backoff_seconds: Annotated[float, Field(ge=0)] = 300.0
    """Longest wait before a restart, seconds."""
    rollout_failures: Annotated[int, Field(ge=1)] = 5
    """Failures of every rollout, with no unit completed, after which the run fails."""
    stall_seconds: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds without a completed step after which the condition Stalled names the role that blocks."""


class ReasonerZeroRunSpec(SpecModel):
    """The whole spec. `model`, `data.train` and `storage.uri` have no default; everything else has the paper's."""

    model: ModelSpec
    """The base model."""
    data: DataSpec
    """Training and evaluation data, and the prompt."""
    storage: StorageSpec
    """Where the run's folder is."""
    algorithm: AlgorithmSpec = AlgorithmSpec()
    """The method and its numbers."""
    rollout: RolloutSpec = RolloutSpec()
    """The rollout role."""
    trainer: TrainerSpec = TrainerSpec()
    """The trainer role."""
    reward: RewardSpec = RewardSpec()
    """The reward role."""
    ledger: LedgerSpec = LedgerSpec()
    """The ledger role."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """When and how the evaluation sets are sampled."""
    scheduling: SchedulingSpec = SchedulingSpec()
    """How pods get onto nodes."""
    failure_policy: FailurePolicy = FailurePolicy()
    """When to give up."""
    suspend: bool = False
    """Whether the run is paused: pods are deleted after a checkpoint, and the run goes on where it was when this is
    false again."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] | None = None
    """Seconds after which a finished run's object is deleted; absent keeps it. Storage is never deleted."""


def broadcasts(spec: ReasonerZeroRunSpec) -> bool:
    """Whether the trainer sends weights to the rollouts: ``rollout.weightSync``, with ``auto`` decided."""
    wanted = spec.rollout.weight_sync
    return wanted == "broadcast" or (wanted == "auto" and spec.trainer.gpus_per_node > 0)
