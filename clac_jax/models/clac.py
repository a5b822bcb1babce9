"""The two towers of CLaC (arXiv:2502.16451) and their projections."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections

from clac_jax.batch import Array, Batch, GraphBatch, TextBatch
from clac_jax.errors import UserError
from clac_jax.huggingface import resolve_folder
from clac_jax.models.bert import Bert, BertConfig, BertOutput
from clac_jax.models.cgcnn import CGCNN
from clac_jax.models.composition import CompositionEncoder, WithComposition
from clac_jax.models.dropout import DropoutStream
from clac_jax.models.normalization import view_members
from clac_jax.models.painn import PaiNN
from clac_jax.models.pretrained import load_huggingface, load_huggingface_config
from clac_jax.models.projection import ProjectionBlock


class ModelError(UserError, ValueError):
    """A config asks for a model that does not exist or does not fit its weights."""


@flax.struct.dataclass
class ProjectedPair:
    """The two sides of one contrast.

    Attributes:
        left: (V_left, B, P) float32, l2-normalized, one slice per view.
        right: (V_right, B, P) float32, l2-normalized.
        log_scale: () logarithm of the inverse temperature.
    """

    left: Array
    right: Array
    log_scale: Array


@flax.struct.dataclass
class ClacOutput:
    """What the losses and the evaluation need.

    Attributes:
        cross: crystals (left) and texts (right), every view of both.
        visual: first and second crystal view; None without that contrast or the second view.
        textual: first and second text view; None likewise.
        lm_loss_sum: (V_text,) summed language-model loss of this device's tokens, or None.
        lm_num_tokens: (V_text,) labelled tokens, or None.
    """

    cross: ProjectedPair
    visual: ProjectedPair | None = None
    textual: ProjectedPair | None = None
    lm_loss_sum: Array | None = None
    lm_num_tokens: Array | None = None

    @property
    def graph_projections(self) -> Array:
        """(V, B, P) projections of the crystals into the joint space; view 0 first."""
        return self.cross.left

    @property
    def text_projections(self) -> Array:
        """(V, B, P) projections of the texts into the joint space; view 0 first."""
        return self.cross.right


def l2_normalize(x: Array) -> jax.Array:
    """Unit vectors along the last axis; the zero vector stays zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))


class ContrastiveHead(nn.Module):
    """Two projection blocks and a temperature: one contrast between two kinds of features.

    Attributes:
        features: width P of the projections.
        logit_scale_init: initial inverse temperature.
    """

    features: int
    logit_scale_init: float

    def setup(self) -> None:  # noqa: D102
        self.left = ProjectionBlock(self.features)
        self.right = ProjectionBlock(self.features)
        self.log_scale = self.param(
            "log_scale", nn.initializers.constant(math.log(self.logit_scale_init)), ()
        )

    def __call__(
        self,
        left: Array,
        right: Array,
        example_mask: Array,
        *,
        train: bool,
        axis_name: str | None = None,
    ) -> ProjectedPair:
        """Projects both sides.

        Args:
            left: (V_left, B, F_left) features.
            right: (V_right, B, F_right) features.
            example_mask: (B,) bool, the examples that enter batch statistics.
            train: batch statistics instead of running averages.
            axis_name: mapped axis of the devices.
        """
        # The reference runs a block once per scored pair of views, left views innermost; computing
        # each view once and repeating its update leaves the same running averages.
        left_order = tuple(range(left.shape[0])) * right.shape[0]
        right_order = tuple(k for k in range(right.shape[0]) for _ in range(left.shape[0]))

        def project(block: ProjectionBlock, x: jax.Array, order: tuple[int, ...]) -> jax.Array:
            num_views, num_examples, width = x.shape
            y = block(
                x.reshape(-1, width),
                view_members(num_views, example_mask),
                train=train,
                update_order=order,
                axis_name=axis_name,
            )
            return l2_normalize(y).reshape(num_views, num_examples, -1)

        return ProjectedPair(
            left=project(self.left, left, left_order),
            right=project(self.right, right, right_order),
            log_scale=self.log_scale,
        )

    def project_left(self, x: Array) -> jax.Array:
        """(N, F_left) -> (N, P) with the running averages."""
        return l2_normalize(self.left(x, jnp.ones((1, x.shape[0]), bool), train=False))

    def project_right(self, x: Array) -> jax.Array:
        """(N, F_right) -> (N, P) with the running averages."""
        return l2_normalize(self.right(x, jnp.ones((1, x.shape[0]), bool), train=False))


class CLaC(nn.Module):
    """Graph tower, text tower, and the heads of the contrasts.

    Attributes:
        graph_encoder: crystals -> (rows, F).
        text_encoder: texts -> BertOutput.
        projection_dim: width of every projection.
        use_visual: whether two views of a crystal are contrasted.
        use_textual: whether two views of a text are contrasted.
        logit_scale_init: initial inverse temperature of every contrast.
    """

    graph_encoder: nn.Module
    text_encoder: nn.Module
    projection_dim: int = 512
    use_visual: bool = True
    use_textual: bool = True
    logit_scale_init: float = 1 / 0.07

    def setup(self) -> None:  # noqa: D102
        self.cross_head = ContrastiveHead(self.projection_dim, self.logit_scale_init)
        if self.use_visual:
            self.visual_head = ContrastiveHead(self.projection_dim, self.logit_scale_init)
        if self.use_textual:
            self.textual_head = ContrastiveHead(self.projection_dim, self.logit_scale_init)

    def __call__(
        self,
        batch: Batch,
        *,
        train: bool = False,
        dropout_key: Array | None = None,
        axis_name: str | None = None,
    ) -> ClacOutput:
        """Encodes and projects a batch.

        Args:
            batch: one or two views of every crystal and text.
            train: batch statistics and dropout.
            dropout_key: PRNG key of this step, the same on every device; None drops nothing.
            axis_name: mapped axis of the devices, for batch statistics over the global batch.

        Returns:
            ClacOutput with a contrast for each that is wanted and has its two views.
        """
        num_examples = batch.example_mask.shape[0]
        graphs = self.graph_encoder(batch.graphs, train=train, axis_name=axis_name)
        graphs = graphs.reshape(batch.graphs.num_views, num_examples, -1)
        encoded = self.encode_texts(batch, dropout_key=dropout_key if train else None)
        texts = encoded.features.reshape(batch.texts.num_views, num_examples, -1)

        def contrast(head: ContrastiveHead, left: jax.Array, right: jax.Array) -> ProjectedPair:
            return head(left, right, batch.example_mask, train=train, axis_name=axis_name)

        visual = textual = None
        if self.use_visual and graphs.shape[0] == 2:
            visual = contrast(self.visual_head, graphs[:1], graphs[1:])
        if self.use_textual and texts.shape[0] == 2:
            textual = contrast(self.textual_head, texts[:1], texts[1:])
        return ClacOutput(
            cross=contrast(self.cross_head, graphs, texts),
            visual=visual,
            textual=textual,
            lm_loss_sum=encoded.lm_loss_sum,
            lm_num_tokens=encoded.lm_num_tokens,
        )

    def encode_texts(self, batch: Batch, *, dropout_key: Array | None = None) -> BertOutput:
        """The text tower alone, before any projection."""
        stream = None
        if dropout_key is not None:
            ids = dropout_ids(batch.example_index, batch.texts.num_views)
            stream = DropoutStream(dropout_key, ids)
        return self.text_encoder(batch.texts, stream=stream)

    def embed_graphs(self, graphs: GraphBatch) -> jax.Array:
        """(rows, P) l2-normalized projections of plain crystals into the joint space."""
        return self.cross_head.project_left(self.graph_encoder(graphs, train=False))

    def embed_texts(self, texts: TextBatch) -> jax.Array:
        """(rows, P) l2-normalized projections of full texts into the joint space."""
        return self.cross_head.project_right(self.text_encoder(texts).features)


def dropout_ids(example_index: Array, num_views: int) -> jax.Array:
    """(B,) global indices -> (V * B,) uint32 ids, one per view of an example, view major."""
    index = jnp.asarray(example_index).astype(jnp.uint32)
    view = jnp.arange(num_views, dtype=jnp.uint32)
    return (index[None, :] * jnp.uint32(2) + view[:, None]).reshape(-1)


def build_graph_encoder(config: ml_collections.ConfigDict) -> nn.Module:
    """The graph encoder of `config.graph_encoder`.

    Raises:
        ModelError: no encoder has that name.
    """
    options = config.graph_encoder
    composition = CompositionEncoder(num_features=options.num_features, out_dim=options.out_dim)
    if options.name == "composition":
        return composition
    if options.name == "painn":
        encoder: nn.Module = PaiNN(
            num_features=options.num_features,
            num_interactions=options.num_interactions,
            num_rbf=options.num_rbf,
            cutoff=options.cutoff,
            out_dim=options.out_dim,
        )
    elif options.name == "cgcnn":
        encoder = CGCNN(
            atom_fea_len=options.atom_fea_len,
            nbr_fea_len=options.nbr_fea_len,
            n_conv=options.n_conv,
            h_fea_len=options.h_fea_len,
            n_h=options.n_h,
            out_dim=options.out_dim,
        )
    else:
        raise ModelError(
            f"graph_encoder.name = {options.name!r} is unknown. Use painn, cgcnn or composition."
        )
    return WithComposition(encoder, composition) if options.add_composition else encoder


def text_encoder_config(
    config: ml_collections.ConfigDict, vocab_size: int | None = None
) -> BertConfig:
    """Sizes of the text encoder: those of the pretrained weights, or of the config.

    Args:
        config: of the run.
        vocab_size: of the tokenizer, for an encoder without pretrained weights.

    Raises:
        ModelError: the encoder has too few positions for `max_length`, too few words or layers.
        PretrainedError: the folder of pretrained weights cannot be used.
    """
    encoder = config.text_encoder
    if encoder.pretrained is not None:
        sizes = load_huggingface_config(resolve_folder(encoder.pretrained))
    else:
        values = dict(encoder.config)
        if vocab_size is not None:
            values["vocab_size"] = vocab_size
        sizes = BertConfig.from_mapping(values)
    if encoder.max_length > sizes.max_position_embeddings:
        raise ModelError(
            f"text_encoder.max_length = {encoder.max_length} is more than the encoder's "
            f"{sizes.max_position_embeddings} positions. Lower it or take another encoder."
        )
    if vocab_size is not None and vocab_size > sizes.vocab_size:
        raise ModelError(
            f"The tokenizer has {vocab_size} tokens and the text encoder {sizes.vocab_size}. "
            "Take the tokenizer that belongs to the pretrained weights."
        )
    if encoder.num_layers is not None:
        if encoder.num_layers > sizes.num_hidden_layers:
            raise ModelError(
                f"text_encoder.num_layers = {encoder.num_layers} is more than the encoder "
                f"has, {sizes.num_hidden_layers}. Lower it, or leave it out for all of them."
            )
        sizes = dataclasses.replace(sizes, num_hidden_layers=encoder.num_layers)
    if encoder.dropout is not None:
        sizes = dataclasses.replace(
            sizes,
            hidden_dropout_prob=encoder.dropout,
            attention_probs_dropout_prob=encoder.dropout,
        )
    return sizes


def build_model(config: ml_collections.ConfigDict, vocab_size: int | None = None) -> CLaC:
    """The model that a config describes.

    Args:
        config: of the run.
        vocab_size: of the tokenizer, for a text encoder without pretrained weights.

    Raises:
        ModelError: a name is unknown, or sizes do not fit each other.
        PretrainedError: the folder of pretrained weights cannot be used.
    """
    if config.text_encoder.name != "bert":
        raise ModelError(f"text_encoder.name = {config.text_encoder.name!r} is unknown. Use bert.")
    return CLaC(
        graph_encoder=build_graph_encoder(config),
        text_encoder=Bert(
            text_encoder_config(config, vocab_size),
            feature=config.text_encoder.feature,
            with_lm_head=config.lm_weight > 0,
        ),
        projection_dim=config.projection_dim,
        use_visual=config.use_visual_intramodal_loss,
        use_textual=config.use_textual_intramodal_loss,
        logit_scale_init=config.logit_scale_init,
    )


def abstract_variables(model: CLaC, batch: Batch) -> dict[str, Any]:
    """What `init_variables` returns, as shapes and types alone; nothing is computed or read."""
    key = jax.random.PRNGKey(0)
    return dict(jax.eval_shape(lambda: model.init(key, batch, train=True)))


def init_variables(
    model: CLaC, config: ml_collections.ConfigDict, batch: Batch, key: Array | None = None
) -> dict[str, Any]:
    """Random weights, with the pretrained text encoder in place of its random one.

    Args:
        model: from build_model.
        config: of the run.
        batch: a training batch of any size, with the views and labels of training.
        key: PRNG key; that of `config.seed` by default.

    Returns:
        {"params": ..., "batch_stats": ...} of float32 arrays.

    Raises:
        ModelError: the batch lacks a view or labels that training needs, so parameters would be
            missing.
    """
    views = batch.graphs.num_views, batch.texts.num_views
    needed = 1 + model.use_visual, 1 + model.use_textual
    if views[0] < needed[0] or views[1] < needed[1]:
        raise ModelError(
            f"A batch with {views[0]} crystal and {views[1]} text views cannot initialize a model "
            f"that trains on {needed[0]} and {needed[1]}. Use a training batch."
        )
    if config.lm_weight > 0 and batch.texts.labels is None:
        raise ModelError(
            "lm_weight > 0 needs token labels, and the batch has none. Use a training batch."
        )
    key = jax.random.PRNGKey(config.seed) if key is None else key
    variables = dict(jax.jit(lambda k: model.init(k, batch, train=True))(key))
    if config.text_encoder.pretrained is not None:
        loaded = load_huggingface(config.text_encoder.pretrained)
        text = dict(variables["params"]["text_encoder"])
        text.update({name: value for name, value in loaded.params.items() if name in text})
        variables["params"] = {**variables["params"], "text_encoder": text}
        variables["params"] = jax.tree.map(jnp.asarray, variables["params"])
    return variables
