"""The declaration of a run's config: its keys and groups of keys."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from clac_jax.config.data import Augment, Dataset, Input
from clac_jax.config.effects import (
    COUNTED,
    FRESH_RUNS,
    NEXT_EXAMPLE,
    NEXT_STEP,
    NEXT_VALIDATION,
    OTHER_EXAMPLES,
    OTHER_MODEL,
    OTHER_TASK,
    PLAIN,
    SAME_NUMBERS,
    SAME_STEP,
    SCHEDULE,
    STOPS,
)
from clac_jax.config.encoders import TextEncoder, graph_encoder
from clac_jax.config.healing import Healing
from clac_jax.config.key import Group, Key, group, group_of, key
from clac_jax.config.saving import Bucket, Checkpoint, Journal, Logging, Restore
from clac_jax.config.training import (
    Cosine,
    Distributed,
    Ema,
    OneCycle,
    Optimizer,
    Plateau,
    Property,
    Sharding,
    Watchdog,
    loss_keys,
    wrong_regexes,
)

TOWERS = ("graph_encoder", "text_encoder")
# Per split with `debug`: a few batches in most configs, prepared in seconds.
DEBUG_EXAMPLES = 64
DEBUG_STEPS = 2


@dataclass(frozen=True)
class Run:
    """All keys of a run."""

    task: str = key(
        "contrastive",
        "learns to match crystals and texts, or to predict a property of a crystal",
        choices=("contrastive", "property"),
        on_change=OTHER_TASK,
        validation="model",
    )
    seed: int = key(
        42,
        "seed of the data's order, the views, the random weights and dropout",
        low=0,
        on_change="the data follow the new seed; the key of dropout is the checkpoint's, unless "
        "restore.parts leaves it out",
    )
    max_epochs: int = key(
        5,
        "epochs of the run",
        low=1,
        high=10_000_000,  # schedules count steps in 32 bits
        on_change="the run and its schedule now end after that epoch",
    )
    stop_at_epoch: int = key(
        0,
        "epochs after which the run is saved and stops for now, untested, with the learning rates "
        "of max_epochs; a larger number continues it; 0: no stop",
        low=0,
        on_change=STOPS,
    )
    stop_at_step: int = key(
        0, "as stop_at_epoch, in steps since the start of the run", low=0, on_change=STOPS
    )
    batch_size: int = key(
        32,
        "crystals contrasted with each other, over all devices; one has nothing to be "
        "contrasted with",
        low=2,
        on_change=COUNTED,
    )
    accumulate_steps: int = key(1, "batches per optimizer update", low=1, on_change=COUNTED)
    gradient_cache_chunks: int = key(
        1,
        "chunks in which each device encodes its part of a batch: the memory of one chunk and the "
        "gradient of the full batch (GradCache, arXiv:2101.06983), for a second forward pass",
        low=1,
        on_change=SAME_STEP,
    )
    reproducible: str = key(
        "run",
        "what gives the same bits again: the same run on the same number of devices, or in any "
        '"layout", on 1, 2, 4 ... devices of one kind in any number of processes, for a second '
        "forward pass (docs/reliability.md)",
        choices=("run", "layout"),
        on_change=SAME_STEP,
    )
    layout_parts: int = key(
        8,
        'parts of a batch if reproducible="layout"; a power of two, and the largest number of '
        "devices",
        low=1,
        on_change=SAME_STEP,
    )
    learning_rate: float = key(
        2e-5, "peak of the learning-rate schedule", low=0.0, on_change=SCHEDULE
    )
    weight_decay: float = key(
        0.0,
        "weight decay of matrices; biases, scales and temperatures have none",
        low=0.0,
        on_change=NEXT_STEP,
    )
    schedule: str = key(
        "constant",
        "the learning-rate schedule, after the warmup",
        choices=("constant", "cosine", "cosine_restarts", "one_cycle", "plateau"),
        on_change=SCHEDULE,
    )
    schedule_unit: str = key(
        "step",
        "whether the learning rate changes with every step, or only between epochs",
        choices=("step", "epoch"),
        on_change=SCHEDULE,
    )
    warmup_steps: int = key(
        0, "steps in which the learning rate rises linearly from zero", low=0, on_change=SCHEDULE
    )
    min_learning_rate: float = key(
        1e-7, "where a cosine ends and the plateau schedule stops", low=0.0, on_change=SCHEDULE
    )
    gradient_clip: float = key(
        0.05, "largest global norm of a gradient; 0: no limit", low=0.0, on_change=NEXT_STEP
    )
    replace_formula_prob: float = key(
        0.0,
        "probability that the formula in a text is replaced by a placeholder",
        low=0.0,
        high=1.0,
        on_change=NEXT_EXAMPLE,
    )
    replace_formula_start_epoch: int = key(
        0,
        "first epoch in which formulas are replaced",
        low=0,
        on_change="formulas are replaced from that epoch on",
    )
    early_stopping_patience: int = key(
        0,
        "validations without a better checkpoint.monitor after which the run ends; 0: never",
        low=0,
        on_change=NEXT_VALIDATION,
    )
    use_visual_intramodal_loss: bool = key(
        True, "whether two views of each crystal are contrasted too", on_change=OTHER_MODEL
    )
    use_textual_intramodal_loss: bool = key(
        True, "whether two views of each text are contrasted too", on_change=OTHER_MODEL
    )
    projection_dim: int = key(
        512,
        "width of the space in which crystals and texts are compared",
        low=1,
        on_change=OTHER_MODEL,
        validation="model",
    )
    lm_weight: float = key(
        0.0, "weight of the language-model loss; 0: none", low=0.0, on_change=OTHER_MODEL
    )
    structure_weight: float = key(
        0.0,
        "weight of the loss of composition, space group and cell predicted from the joint space; "
        "0: none",
        low=0.0,
        used_with="task=contrastive",
        on_change=OTHER_MODEL,
    )
    logit_scale_init: float = key(
        1 / 0.07,
        "first value of the learned logit scale, the inverse of the temperature",
        low=1e-6,  # its logarithm is learned
        on_change=FRESH_RUNS,
    )
    precision: str = key(
        "float32",
        "arithmetic of the two encoders; parameters, optimizer, statistics and losses stay float32",
        choices=("float32", "bfloat16"),
        on_change="the encoders compute in it from the next step; the state stays float32",
    )
    remat: tuple[str, ...] = key(
        (),
        "towers that keep only the inputs of their blocks for the backward pass and compute the "
        "rest again: less memory, one more forward pass",
        choices=TOWERS,
        on_change=SAME_STEP,
    )
    frozen: tuple[str, ...] = key(
        (),
        'regexes on parameter paths ("text_encoder/.*") that are not trained',
        check=wrong_regexes,
        on_change="applies from the next step; newly trained parameters start with fresh moments",
    )
    debug: bool = key(
        False,
        f"only one epoch, of the first {DEBUG_EXAMPLES} examples of each split, or as many as "
        f"{DEBUG_STEPS} steps need (dataset.max_examples overrides the number; a batch that it "
        "does not fill is halved until it does)",
        on_change=OTHER_EXAMPLES,
    )
    log_every_n_steps: int = key(10, "steps between rows of metrics.jsonl", low=1, on_change=PLAIN)
    eval_batch_size: int = key(
        64,
        "crystals per batch of a validation, over all devices",
        low=1,
        on_change="val_loss and the accuracies in batch are no longer comparable with earlier rows",
        validation="batch",
    )
    compilation_cache: str = key(
        "~/.cache/clac_jax/xla",
        'folder of compiled programs, which machines of different kinds can share; "" keeps none',
        is_path=True,
        local_only="each machine compiles for itself",
        per_process=True,
        may_be_empty=True,
        on_change=PLAIN,
    )
    deterministic: bool = key(
        False, "on a GPU: the same bits every time, but slower", on_change=SAME_NUMBERS
    )
    parallel: str = key(
        "pmap",
        "how a step runs on all devices",
        choices=("pmap", "shard_map"),
        on_change=SAME_NUMBERS,
    )
    resume: str = key(
        "auto",
        '"auto" resumes where the workdir has a checkpoint, "must" refuses to start from scratch, '
        '"never" refuses a workdir that holds a run',
        choices=("auto", "must", "never"),
        on_change=PLAIN,
    )
    resume_from: str = key(
        "",
        "another run's checkpoint to start from: DIR, DIR@best, DIR@best=2 (the second best), "
        "DIR@step=5000, or its folder",
        is_path=True,
        may_be_empty=True,
        on_change=PLAIN,
    )

    dataset: None = group(Dataset, "Which crystals and texts.")
    graph_encoder: None = group(
        graph_encoder, "The graph encoder.", on_change=OTHER_MODEL, validation="model"
    )
    text_encoder: None = group(
        TextEncoder, "The text encoder.", on_change=OTHER_MODEL, validation="model"
    )
    loss: None = group(loss_keys, "The contrastive loss.", used_with="task=contrastive")
    property: None = group(
        Property,
        "The property that is learned.",
        used_with="task=property",
        on_change=OTHER_TASK,
        validation="model",
    )
    augment: None = group(Augment, "The random views of crystals and texts.")
    cosine: None = group(
        Cosine,
        "The cosine schedules.",
        used_with="schedule=cosine,cosine_restarts",
        on_change=SCHEDULE,
    )
    one_cycle: None = group(
        OneCycle, "The one-cycle schedule.", used_with="schedule=one_cycle", on_change=SCHEDULE
    )
    plateau: None = group(Plateau, "The plateau schedule.", used_with="schedule=plateau")
    optimizer: None = group(Optimizer, "The optimizer.", on_change=NEXT_STEP)
    ema: None = group(
        Ema,
        "The exponential moving average of the parameters.",
        on_change="an average that the checkpoint lacks begins at its parameters; one that is "
        "switched off is dropped",
    )
    checkpoint: None = group(Checkpoint, "Which checkpoints are saved and kept.", on_change=PLAIN)
    restore: None = group(
        Restore, "How much of another run's checkpoint is copied.", on_change=PLAIN
    )
    journal: None = group(
        Journal,
        "What is recorded of every step: see [Time travel](time-travel.md).",
        on_change=PLAIN,
    )
    bucket: None = group(
        Bucket,
        "Workdirs in a bucket (gs://, s3://, az://): see [Buckets](buckets.md).",
        on_change=PLAIN,
        per_process=True,
    )
    input: None = group(Input, "The input pipeline.")
    logging: None = group(Logging, "Logs besides metrics.jsonl.", on_change=PLAIN, per_process=True)
    sharding: None = group(
        Sharding,
        "What lies on which device.",
        used_with="parallel=shard_map",
        on_change=SAME_NUMBERS,
    )
    distributed: None = group(
        Distributed,
        "Several processes, one per host or GPU. SLURM, Open MPI, Kubernetes and TPU hosts set the "
        "first three by themselves: see [Clusters](clusters.md).",
        on_change=PLAIN,
        per_process=True,
    )

    healing: None = group(
        Healing,
        "What a run does on its own when a step goes wrong: see [Healing](healing.md).",
        on_change=NEXT_STEP,
    )
    watchdog: None = group(
        Watchdog,
        "When a run that hangs is ended: see [Unattended runs](unattended.md).",
        on_change=PLAIN,
    )


@functools.cache
def declaration() -> Group:
    """The group that holds all keys of a run."""
    return group_of(Run, "")


@functools.cache
def all_keys() -> dict[str, Key]:
    """Every key by its dotted name."""
    return dict(declaration().keys())
