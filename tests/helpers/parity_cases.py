"""Every parity fixture as a function for any precision, with its expected results.

The parameters and expected gradients go through the importer's own mapping of names, so a fixture
checks that too. `make gpu-check` runs these on a GPU; the tests of the modules check more.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clac_jax.config.schema import default_config
from clac_jax.interop.reference_weights import (
    block_params,
    discriminator_params,
    head_params,
)
from clac_jax.models.clac import ClacOutput
from clac_jax.models.encoders import build_graph_encoder, graph_settings
from clac_jax.models.heads import ContrastiveHead, PriorDiscriminator
from clac_jax.models.losses import LOSSES
from clac_jax.models.projection import ProjectionBlock
from clac_jax.models.text.bert import Bert, BertSettings
from clac_jax.models.text.decoder import Decoder, OptSettings
from clac_jax.models.torch_layout import TensorReader
from clac_jax.training.losses import LossOptions, clac_loss
from helpers.packed_texts import pack, packed_inputs
from helpers.parity_fixtures import (
    PARITY,
    Fixture,
    crystal_graphs,
    graph_batch,
    relative_error,
    sides_of,
)

Params = dict[str, Any]
Outputs = dict[str, jax.Array]

ABSENT = 1e38
"""A value of gradients that a fixture does not have; the mapping of names refuses NaN."""

HEADS = {"cross": "global_d", "visual": "visual_d", "textual": "textual_d"}
PRIORS = {"crystal": "prior_d", "text": "text_prior_d"}
SIZES: dict[str, dict[str, Any]] = {  # keys of the group graph_encoder
    "painn": {"num_features": 32, "num_interactions": 2, "num_rbf": 20, "out_dim": 32},
    "cgcnn": {"atom_fea_len": 32, "nbr_fea_len": 16, "n_conv": 2, "h_fea_len": 32, "n_h": 1}
    | {"out_dim": 16, "cutoff": 8.0},
}


@dataclass
class Case:
    """One fixture in one precision.

    Attributes:
        params: parameters of the module.
        losses: name -> function of the parameters to a scalar and outputs by name.
        outputs: expected outputs by name.
        gradients: expected gradients by name of the loss; NaN where the fixture has none.
    """

    params: Params
    losses: dict[str, Callable[[Params], tuple[jax.Array, Outputs]]]
    outputs: dict[str, np.ndarray]
    gradients: dict[str, Params]


@dataclass(frozen=True)
class Errors:
    """Relative errors of a case.

    Attributes:
        forward: the largest error of an output.
        gradient: the largest error of a gradient. A gradient that is nearly zero, such as that of a
            bias before a normalization, has a large error just from rounding.
        all_gradients: the error of all gradients as one vector.
        worst_output: the output with the error `forward`.
        worst_gradient: the loss and parameter with the error `gradient`.
    """

    forward: float
    gradient: float
    all_gradients: float
    worst_output: str
    worst_gradient: str


def errors_of(case: Case) -> Errors:
    """Runs a case on the first device; outputs and gradients of each loss in one program."""
    forward: dict[str, float] = {}
    gradient: dict[str, float] = {}
    vectors: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for name, loss in case.losses.items():
        (_, outputs), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(case.params)
        for key, value in outputs.items():
            forward[key] = relative_error(np.asarray(value, np.float64), case.outputs[key])
        ours = dict(jax.tree_util.tree_leaves_with_path(grads))
        for path, leaf in jax.tree_util.tree_leaves_with_path(case.gradients[name]):
            key = jax.tree_util.keystr(path, simple=True, separator="/")
            # The bias of keys shifts all scores of a query equally: its true gradient is zero.
            if (np.abs(leaf) > ABSENT / 2).any() or key.endswith("attention/key/bias"):
                continue
            grad = np.asarray(ours[path], np.float64)
            gradient[f"{name}: {key}"] = relative_error(grad, leaf)
            vectors[0].append(grad.ravel())
            vectors[1].append(np.ravel(leaf))
    output, worst = (max(errors, key=errors.__getitem__) for errors in (forward, gradient))
    together = relative_error(*map(np.concatenate, vectors))
    return Errors(forward[output], gradient[worst], together, output, worst)


def _jax(tree: Any) -> Any:
    """Arrays of JAX, as the modules expect; in the dtype that they have, if 64 bits are enabled."""
    return jax.tree.map(jnp.asarray, tree)


def _graph_config(name: str, compute_dtype: str) -> Any:
    config = default_config()
    config.graph_encoder.update({"name": name} | SIZES[name])
    config.precision = compute_dtype
    return config


def _graph_params(section: dict[str, np.ndarray], config: Any) -> Params:
    return graph_settings(config.graph_encoder).release_params(TensorReader(section))


def _suffix(dtype: Any) -> str:
    return "64" if dtype is np.float64 else ""


def painn(dtype: Any, compute_dtype: str) -> Case:
    """PaiNN on three crystals."""
    fixture, suffix = Fixture("painn_small"), _suffix(dtype)
    config = _graph_config("painn", compute_dtype)
    encoder = build_graph_encoder(config)
    graphs = _jax(graph_batch(crystal_graphs(fixture.section("in")), dtype=dtype))

    def loss(params: Params) -> tuple[jax.Array, Outputs]:
        y = encoder.apply({"params": params}, graphs)
        return jnp.sum(y**2), {"y": y}

    def mapped(name: str, dtype: Any = None) -> Params:
        return _graph_params(fixture.section(name, dtype), config)

    expected = {"y": fixture.section("out" + suffix)["y"]}
    return Case(mapped("w", dtype), {"loss": loss}, expected, {"loss": mapped("grad" + suffix)})


def _cgcnn(dtype: Any, compute_dtype: str, train: bool) -> Case:
    fixture, suffix = Fixture("cgcnn_train" if train else "cgcnn_eval"), _suffix(dtype)
    config = _graph_config("cgcnn", compute_dtype)
    encoder = build_graph_encoder(config)
    graphs = _jax(graph_batch(crystal_graphs(fixture.section("in")), dtype=dtype))
    # The initial statistics of training are stored with the other fixture.
    statistics = graph_settings(config.graph_encoder).release_statistics(
        TensorReader(Fixture("cgcnn_eval").section("w", dtype))
    )
    statistics = _jax(statistics)

    def loss(params: Params) -> tuple[jax.Array, Outputs]:
        variables = {"params": params, "batch_stats": statistics}
        y, _ = encoder.apply(variables, graphs, train=train, mutable=["batch_stats"])
        return jnp.sum(y**2), {"y": y}

    def mapped(name: str, dtype: Any = None) -> Params:
        return _graph_params(fixture.section(name, dtype), config)

    expected = {"y": fixture.section("out" + suffix)["y"]}
    return Case(mapped("w", dtype), {"loss": loss}, expected, {"loss": mapped("grad" + suffix)})


def cgcnn_train(dtype: Any, compute_dtype: str) -> Case:
    """CGCNN on three crystals, normalized by their own statistics."""
    return _cgcnn(dtype, compute_dtype, train=True)


def cgcnn_eval(dtype: Any, compute_dtype: str) -> Case:
    """CGCNN on three crystals, normalized by its running averages."""
    return _cgcnn(dtype, compute_dtype, train=False)


def _text(
    fixture: Fixture, model: Any, settings: Any, texts: Any, dtype: Any, keys: dict[str, str]
) -> Case:
    """A text encoder: the language-model loss, and the squares of its features."""
    suffix, options = _suffix(dtype), keys.get("options", {})
    weights = fixture.section("w", dtype)
    texts, options = _jax(texts), _jax(options)

    def lm(params: Params) -> tuple[jax.Array, Outputs]:
        output = model.apply({"params": params}, texts, **options)
        value = (output.lm_loss_sum / output.lm_num_tokens)[0]
        return value, {"language-model loss": value}

    def feature(params: Params) -> tuple[jax.Array, Outputs]:
        features = model.apply({"params": params}, texts, **options).features
        return jnp.sum(features**2), {"features": features}

    def gradients(name: str) -> Params:
        # Parameters that do not affect the features have no gradient in the fixture.
        return settings.huggingface_params(_absent(weights) | fixture.section(name + suffix))

    out = fixture.section("out" + suffix)
    return Case(
        settings.huggingface_params(weights),
        {"lm": lm, "feature": feature},
        {"language-model loss": out[keys["loss"]], "features": out[keys["features"]]},
        {"lm": gradients("grad_lm"), "feature": gradients("grad_feat")},
    )


def _absent(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of `ABSENT` in the shapes of the weights."""
    floats = {name: w for name, w in weights.items() if np.issubdtype(w.dtype, np.floating)}
    return {name: np.full_like(weight, ABSENT) for name, weight in floats.items()}


def bert(dtype: Any, compute_dtype: str) -> Case:
    """BERT with its masked-language-model head."""
    fixture = Fixture("bert_mlm")
    config = BertSettings.from_huggingface(_facts("bert_mlm")["config"])
    config = dataclasses.replace(config, compute_dtype=_towers(compute_dtype))
    texts, types, _ = packed_inputs(fixture)
    model = Bert(config, feature="first", with_lm_loss=True)
    keys = {"loss": "mlm_loss", "features": "feature_cls", "options": {"token_types": types}}
    return _text(fixture, model, config, texts, dtype, keys)


def opt(dtype: Any, compute_dtype: str) -> Case:
    """OPT with its language-model loss."""
    fixture = Fixture("opt_clm_relu")
    config = OptSettings.from_huggingface(_facts("opt_clm_relu")["config"])
    config = dataclasses.replace(config, compute_dtype=_towers(compute_dtype))
    inputs = fixture.section("in")
    starts = (inputs["attention_mask"] == 0).sum(1)  # padded on the left
    rows = zip(inputs["input_ids"], inputs["labels_clean"], starts, strict=True)
    texts = [(ids[n:].astype(np.int32), labels[n:].astype(np.int32)) for ids, labels, n in rows]
    model = Decoder(config, feature="last", with_lm_loss=True)
    keys = {"loss": "clm_loss_clean", "features": "feature_last"}
    return _text(fixture, model, config, pack(texts, ((20, 4),)), dtype, keys)


def _towers(compute_dtype: str) -> str | None:
    return None if compute_dtype == "float32" else compute_dtype


def _facts(name: str) -> dict[str, Any]:
    return json.loads((PARITY / f"{name}.json").read_text(encoding="utf-8"))


def projection(dtype: Any, compute_dtype: str) -> Case:
    """The projection block of a head, in training."""
    del compute_dtype  # always the dtype of its parameters
    fixture, suffix = Fixture("milinear_train"), _suffix(dtype)
    inputs = _jax(fixture.section("in", dtype))

    def loss(params: Params) -> tuple[jax.Array, Outputs]:
        y, _ = ProjectionBlock(64).apply(
            {"params": params, "batch_stats": _fresh_block(dtype)},
            inputs["x"],
            jnp.ones((1, 8), bool),
            train=True,
            mutable=["batch_stats"],
        )
        value = jnp.sum(inputs["c"] * y**2)
        return value, {"y": y, "loss": value}

    out = fixture.section("out" + suffix)
    return Case(
        block_params(fixture.section("w", dtype)),
        {"loss": loss},
        {"y": out["y"], "loss": out["scalar_loss"]},
        {"loss": block_params(fixture.section("grad" + suffix))},
    )


def _fresh_block(dtype: Any) -> Params:
    return {"norm": {"mean": jnp.zeros(64, dtype), "var": jnp.ones(64, dtype)}}


def _heads_of(tensors: dict[str, np.ndarray]) -> Params:
    return {name: head_params(tensors, f"{theirs}.") for name, theirs in HEADS.items()}


def _pairs(params: Params, views: dict[str, Any], dtype: Any) -> dict[str, Any]:
    block = _fresh_block(dtype)
    pairs = {}
    for name, (left, right) in sides_of(views).items():
        variables = {"params": params[name], "batch_stats": {"left": block, "right": block}}
        pairs[name], _ = ContrastiveHead(64, 1 / 0.07).apply(
            variables, left, right, jnp.ones(8, bool), train=True, mutable=["batch_stats"]
        )
    return pairs


def infonce(dtype: Any, compute_dtype: str) -> Case:
    """InfoNCE on given features with both intramodal terms."""
    del compute_dtype
    fixture, suffix = Fixture("infonce_u64"), _suffix(dtype)
    views = _jax(fixture.section("in", dtype))

    def loss(params: Params) -> tuple[jax.Array, Outputs]:
        pairs = _pairs(params, views, dtype)
        value, _ = clac_loss(ClacOutput(**pairs), jnp.ones(8, bool))
        cross = pairs["cross"]
        logits = cross.left[0] @ cross.right[0].T * jnp.exp(cross.log_scale)
        return value, {"loss": value, "logits": logits}

    out = fixture.section("out" + suffix)
    return Case(
        _heads_of(fixture.section("w", dtype)),
        {"loss": loss},
        {"loss": out["total_loss"], "logits": out["logits"]},
        {"loss": _heads_of(fixture.section("grad" + suffix))},
    )


class RollByOne:
    """Replaces jax.random.randint by the reference's shift in the JSD fixture."""

    def __call__(self, key: Any, shape: Any, low: int, high: int) -> jax.Array:
        return jnp.ones(shape, jnp.int32)


def closed_form(name: str, dtype: Any) -> np.ndarray:
    """Weights that the JSD fixture defines by a formula instead of numbers."""
    facts = _facts("jsd_dot")["closed_form_weights"]["weights"][name]
    rows, columns = facts["shape"]
    i, j = np.arange(rows)[:, None], np.arange(columns)[None]
    angle = 12.9898 * i + 78.233 * j + 0.5 * i * j / columns + facts["seed"]
    return np.float32(facts["scale"] * np.sin(angle)).astype(dtype)


def jsd(dtype: Any, compute_dtype: str) -> Case:
    """JSD on given features with both intramodal terms and both priors."""
    del compute_dtype
    fixture, suffix = Fixture("jsd_dot"), _suffix(dtype)
    views = _jax(fixture.section("in", dtype))
    middle = [f"{theirs}.l1.weight" for theirs in PRIORS.values()]
    weights = fixture.section("w", dtype) | {name: closed_form(name, dtype) for name in middle}

    def loss(params: Params) -> tuple[jax.Array, Outputs]:
        pairs = _pairs(params, views, dtype)
        priors = {
            f"{name}_prior": PriorDiscriminator().apply(
                {"params": params[name]}, views[view], views[f"{view}_prior_noise"]
            )
            for name, view in (("crystal", "image"), ("text", "text"))
        }
        output, mask = ClacOutput(**pairs, **priors), jnp.ones(8, bool)
        randint, jax.random.randint = jax.random.randint, RollByOne()  # during tracing
        try:
            value, _ = clac_loss(output, mask, LossOptions(LOSSES["jsd"]()), key=jax.random.key(0))
        finally:
            jax.random.randint = randint
        return value, {"loss": value, "logits": pairs["cross"].left[0] @ pairs["cross"].right[0].T}

    def mapped(tensors: dict[str, np.ndarray]) -> Params:
        priors = {name: discriminator_params(tensors, f"{t}.") for name, t in PRIORS.items()}
        return _heads_of(tensors) | priors

    # The gradients of some weights are stored in parts only.
    expected = _absent(weights) | {
        key: value for key, value in fixture.section("grad" + suffix).items() if "@" not in key
    }
    out = fixture.section("out" + suffix)
    return Case(
        mapped(weights),
        {"loss": loss},
        {"loss": out["total_loss"], "logits": out["logits"]},
        {"loss": mapped(expected)},
    )


# The heads compute in the dtype of their parameters, whatever the precision of the encoders.
CASES: dict[str, Callable[[Any, str], Case]] = {
    "projection": projection,
    "painn": painn,
    "cgcnn_eval": cgcnn_eval,
    "cgcnn_train": cgcnn_train,
    "bert": bert,
    "opt": opt,
    "infonce": infonce,
    "jsd": jsd,
}
TOWERS = ("painn", "cgcnn_eval", "cgcnn_train", "bert", "opt")
