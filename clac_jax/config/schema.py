"""Every key of a run's config with its default, and its JSON form."""

from __future__ import annotations

import json
from typing import Any

import ml_collections
from ml_collections import config_dict

from clac_jax.errors import ConfigError as ConfigError  # where its readers look for it

# What a validation measures, and `checkpoint.monitor` may name.
MONITORS = (
    "val_loss",
    "val_acc_top1",
    "val_acc_top3",
    *(
        f"{direction}_top{k}"
        for direction in ("text_to_crystal", "crystal_to_text")
        for k in (1, 3, 10)
    ),
)
PROPERTY_MONITORS = {
    "regression": ("val_loss", "val_mae"),
    "classification": ("val_loss", "val_accuracy"),
}
TOWERS = ("graph_encoder", "text_encoder")
RESTORE_PARTS = ("params", "batch_stats", "opt_state", "key", "progress")


def default_config() -> ml_collections.ConfigDict:
    """All keys of a run with the method's defaults; the config files in `configs/` change some.

    Returns:
        A locked ConfigDict: assigning to a key that is not there raises `AttributeError` with the
        nearest right name.
    """
    config = ml_collections.ConfigDict()

    config.task = "contrastive"  # contrastive | property

    # What users change most.
    config.seed = 42
    config.max_epochs = 5
    config.batch_size = 32  # crystals contrasted with each other, over all devices
    config.accumulate_steps = 1  # such batches per optimizer update
    # Chunks in which each device encodes its part of a batch: the memory of one, the gradient of
    # the whole batch (GradCache, arXiv:2101.06983), each encoder's forward pass once more.
    config.gradient_cache_chunks = 1
    config.learning_rate = 2e-5
    config.weight_decay = 0.0
    config.schedule = "constant"  # constant | cosine | cosine_restarts | one_cycle | plateau
    config.schedule_unit = "step"  # step | epoch (the rate changes between epochs alone)
    config.warmup_steps = 0  # linear, from zero
    config.min_learning_rate = 1e-7  # where a cosine ends and the plateau schedule stops
    config.gradient_clip = 0.05  # global norm; 0 clips nothing
    config.replace_formula_prob = 0.0
    config.replace_formula_start_epoch = 0
    config.early_stopping_patience = 0  # validations without a better `monitor`; 0 never stops
    config.use_visual_intramodal_loss = True
    config.use_textual_intramodal_loss = True
    config.projection_dim = 512
    config.lm_weight = 0.0
    config.logit_scale_init = 1 / 0.07  # inverse of the initial temperature, which is learned
    # float32 | bfloat16: arithmetic of the two encoders. Parameters, optimizer, statistics, losses
    # and sums of many terms stay in float32.
    config.precision = "float32"
    # Towers, "graph_encoder" and "text_encoder", that keep the inputs of their blocks alone for the
    # backward pass and compute the rest again: less memory, one more forward pass of each.
    config.remat = ()
    config.frozen = ()  # regexes on parameter paths ("text_encoder/.*") that are not trained
    config.debug = False  # a handful of examples, one epoch
    config.log_every_n_steps = 10
    config.eval_batch_size = 64
    config.compilation_cache = "~/.cache/clac_jax/xla"  # compiled steps; "" keeps none
    config.deterministic = False  # on a GPU: the same bits every time, at some cost in speed

    config.parallel = "pmap"  # pmap | shard_map: how a step runs on all devices
    config.sharding = ml_collections.ConfigDict()  # of shard_map
    config.sharding.what = "nothing"  # nothing | optimizer | everything is spread over the devices
    config.sharding.min_elements = 1 << 16  # smaller arrays stay whole on every device

    # Several processes, one a host or a GPU: docs/clusters.md. SLURM, Open MPI, Kubernetes and TPU
    # hosts tell the first three by themselves.
    config.distributed = ml_collections.ConfigDict()
    config.distributed.coordinator_address = ""  # HOST:PORT of the first process
    config.distributed.num_processes = config_dict.placeholder(int)
    config.distributed.process_id = config_dict.placeholder(int)
    config.distributed.local_devices = ()  # of this process, by number; (): all, or as SLURM says
    config.distributed.connect_seconds = 300  # to wait for the others at the start
    config.distributed.failure_seconds = 60  # after which a silent process is taken for lost

    config.dataset = ml_collections.ConfigDict()
    config.dataset.name = "materials_project_mini"  # or gpt_narratives, with a path
    config.dataset.data_dir = "data"
    config.dataset.path = config_dict.placeholder(str)  # the user's file, for gpt_narratives
    config.dataset.on_bad_row = "error"  # error | skip; skipped rows are listed by name
    config.dataset.on_formula_mismatch = "refuse"  # refuse | take, of a CIF against its formula sum
    config.dataset.split_by = "row"  # row | formula (no compound on two sides), of that file
    config.dataset.text_source = "narratives"  # narratives | papers
    config.dataset.max_examples = 0  # the first so many of each split; 0: all

    config.graph_encoder = ml_collections.ConfigDict()
    config.graph_encoder.name = "painn"  # painn | cgcnn | orb | composition
    config.graph_encoder.add_composition = False  # adds what composition and cell alone tell
    config.graph_encoder.out_dim = 512
    config.graph_encoder.pretrained = config_dict.placeholder(str)  # orb: a file of orb-models
    config.graph_encoder.num_features = 512  # orb: also the width of its output
    config.graph_encoder.num_interactions = 5
    config.graph_encoder.num_rbf = 20
    config.graph_encoder.cutoff = 5.0  # angstrom; longer edges cannot change PaiNN's output
    config.graph_encoder.max_neighbours = 0  # nearest edges kept per atom; 0 keeps all
    config.graph_encoder.hidden_features = 1024  # orb's perceptrons
    config.graph_encoder.atom_fea_len = 1024  # the rest is CGCNN's
    config.graph_encoder.nbr_fea_len = 80
    config.graph_encoder.n_conv = 3
    config.graph_encoder.h_fea_len = 512
    config.graph_encoder.n_h = 1
    config.graph_encoder.graph_cutoff = 6.0  # angstrom, edges of a CGCNN or ORB graph

    config.text_encoder = ml_collections.ConfigDict()
    config.text_encoder.pretrained = config_dict.placeholder(str)  # minilm, a folder, None: random
    config.text_encoder.num_layers = config_dict.placeholder(int)  # the first so many; None: all
    config.text_encoder.tokenizer = "minilm"  # minilm or a folder with tokenizer.json
    # first | last | mean over the real tokens | attention: that mean and learned weighted ones
    config.text_encoder.feature = "mean"
    config.text_encoder.max_length = 128
    config.text_encoder.dropout = config_dict.placeholder(float)  # None: the model's own
    config.text_encoder.config = ml_collections.ConfigDict()  # sizes when pretrained is None
    config.text_encoder.config.model_type = "bert"  # bert | opt | gpt2 | gemma3_text
    config.text_encoder.config.hidden_size = 384
    config.text_encoder.config.num_hidden_layers = 6
    config.text_encoder.config.num_attention_heads = 12
    config.text_encoder.config.intermediate_size = 1536
    config.text_encoder.config.max_position_embeddings = 512

    config.loss = ml_collections.ConfigDict()  # configs/losses.py has one of each kind
    config.loss.name = "infonce"  # infonce | cosface | siglip | jsd
    config.loss.margin = 0.2  # of cosface, on the cosine of a matched pair
    config.loss.logit_bias_init = -10.0  # of siglip: most pairs do not match
    # Of jsd: what scores crystals with texts, and two views of one modality with each other.
    config.loss.critic = "dot"  # dot | concat (a perceptron) | condot | dotcon (the other two)
    config.loss.crystal_prior = True  # of jsd: draws features to the unit cube
    config.loss.text_prior = True
    config.loss.prior_weight = 0.1  # the contrasts get the rest

    config.property = ml_collections.ConfigDict()  # of the task of that name
    config.property.name = "band gap"  # of the data set, or "crystal system"
    config.property.kind = "regression"  # regression | classification

    config.augment = ml_collections.ConfigDict()
    config.augment.perturb_law = "bounded"  # bounded | legacy (the reference's)
    config.augment.strain_law = "axial"  # axial (the reference's) | isotropic | shear
    config.augment.max_strain = 0.05
    config.augment.max_compression = 0.0
    config.augment.sentence_keep_prob = 0.5
    # Without the intramodal text loss there is one text view: the full text, or one that drops and
    # shuffles sentences like the two views do.
    config.augment.drop_in_single_text_view = False
    config.augment.mask_prob = 0.15  # of tokens

    config.cosine = ml_collections.ConfigDict()  # the schedules of that name
    config.cosine.epochs = 0.0  # down to the minimum, then up again or a restart; 0: the whole run
    config.cosine.factor = 1.0  # each period after a restart is so much longer

    config.one_cycle = ml_collections.ConfigDict()  # the schedule of that name
    config.one_cycle.rise = 0.3  # share of the run
    config.one_cycle.start_factor = 0.04  # of the learning rate
    config.one_cycle.end_factor = 4e-6

    config.plateau = ml_collections.ConfigDict()  # the schedule of that name
    config.plateau.factor = 0.5  # on the learning rate
    config.plateau.patience = 30  # validations without a better `checkpoint.monitor` before

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "adamw"  # adam | adamw | sgd | lion
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.momentum = 0.9  # of SGD
    # ((regex on parameter paths, factor), ...): the first that matches scales the learning rate.
    config.optimizer.learning_rate_factors = ()
    # ((regex, decay), ...): the first that matches replaces weight_decay, on biases too.
    config.optimizer.weight_decays = ()

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.save_top_k = 2  # best by `monitor`, beside the last; -1 keeps all
    config.checkpoint.monitor = "val_loss"
    config.checkpoint.mode = "min"  # min | max
    config.checkpoint.save_last = True  # False: the last goes at the end, unless it is kept as best
    config.checkpoint.keep_every_n_steps = 0  # saved at its multiples and never removed; 0: none
    config.checkpoint.every_n_epochs = 1  # and always at the end of the run
    config.checkpoint.every_n_steps = 0  # also between epochs; 0: not by steps
    config.checkpoint.every_n_minutes = 0.0  # since the last save; 0: not by time
    config.checkpoint.async_save = True
    config.checkpoint.retries = 3  # of a save that failed
    config.checkpoint.retry_seconds = 2.0  # before the first, doubled before each further one
    config.checkpoint.on_failure = "stop"  # stop | continue, when the retries have failed too

    # Going on: see docs/checkpoint-resume.md.
    config.resume = "auto"  # auto | must (never start afresh) | never (refuse a used workdir)
    config.resume_from = ""  # another run's checkpoint: DIR, DIR@best, DIR@step=5000, a folder
    config.restore = ml_collections.ConfigDict()
    config.restore.parts = ("params", "batch_stats", "opt_state", "key", "progress")
    config.restore.strict = True  # a parameter that is only on one side is an error
    config.restore.rules = ()  # ((regex, replacement or None), ...) on parameter paths
    config.restore.on_shape_mismatch = "error"  # error | skip | overlap

    config.input = ml_collections.ConfigDict()
    # none: every epoch is shuffled freely; formula: the polymorphs of a compound follow each other,
    # so that one batch holds them and only structure tells them apart; elements: so do all crystals
    # of one set of elements.
    config.input.group_by = "none"
    config.input.num_threads = 2
    config.input.prefetch = 8  # batches

    config.logging = ml_collections.ConfigDict()
    config.logging.tensorboard = True
    config.logging.wandb = False
    config.logging.wandb_project = "clac_jax"

    return config.lock()


def to_json(config: ml_collections.ConfigDict) -> str:
    """The config as indented JSON text, keys sorted, tuples as lists."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def to_plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as the nested dict that its JSON form gives back: tuples are lists."""
    return json.loads(to_json(config))


def flatten(config: ml_collections.ConfigDict | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The config as one dict from dotted keys ("checkpoint.mode") to plain values."""
    flat: dict[str, Any] = {}
    for key in sorted(config):
        value = config[key]
        if isinstance(value, ml_collections.ConfigDict | dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """A nested config with every key that it lacks at its default."""

    def merged(known: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        both = {
            key: merged(value, given[key])
            if isinstance(value, dict) and isinstance(given.get(key), dict)
            else given.get(key, value)
            for key, value in known.items()
        }
        return both | {key: value for key, value in given.items() if key not in known}

    return merged(to_plain(default_config()), values)


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """The (dotted key, old value, new value) in which two nested configs differ, by key.

    A key that one side lacks has the value `None` there.
    """
    # Through JSON, so that a tuple equals the list it was saved as.
    flat_old, flat_new = (flatten(json.loads(json.dumps(tree))) for tree in (old, new))
    return [
        (key, flat_old.get(key), flat_new.get(key))
        for key in sorted(flat_old.keys() | flat_new.keys())
        if flat_old.get(key) != flat_new.get(key)
    ]
