"""The two towers of CLaC (arXiv:2502.16451) and its contrastive heads."""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key, UInt32

from clac_jax.input_pipeline.batch import Batch, GraphBatch, TextBatch
from clac_jax.models.dropout import DropoutStream
from clac_jax.models.heads import (
    ContrastiveHead,
    CriticHead,
    PriorDiscriminator,
    ProjectedPair,
    prior_noise,
)
from clac_jax.models.structure_head import StructureHead, StructureTargets, structure_targets
from clac_jax.models.text.output import TextOutput
from clac_jax.typing import Array

Head = ContrastiveHead | CriticHead

# Streams of a step's key for the noise of the two priors.
_CRYSTAL_NOISE, _TEXT_NOISE = 1_000_001, 1_000_002


@flax.struct.dataclass
class Constants:
    """The parts of an encoded batch that no gradient flows to.

    Attributes:
        lm_num_tokens: (V_text,) number of labelled tokens, or None.
        structure: what is predicted from the joint space, or None.
    """

    lm_num_tokens: Int[jax.Array, "views_text"] | None = None
    structure: StructureTargets | None = None


@flax.struct.dataclass
class Encoded:
    """Features of a batch from the two towers, before any projection.

    Attributes:
        graphs: (V_graph, B, F) features of the crystals; view 0 first.
        texts: (V_text, B, F) features of the texts.
        lm_loss_sum: (V_text,) summed language-model loss of this device's tokens, or None.
        constants: what the losses need besides.
    """

    graphs: Float[jax.Array, "views_graph examples graph_features"]
    texts: Float[jax.Array, "views_text examples text_features"]
    lm_loss_sum: Float[jax.Array, "views_text"] | None = None
    constants: Constants = Constants()


@flax.struct.dataclass
class ClacOutput:
    """Model outputs used by the losses and the evaluation.

    Attributes:
        cross: crystals (left) and texts (right), every view of both.
        visual: first and second crystal view; None without that contrast or the second view.
        textual: first and second text view; None without that contrast or the second view.
        lm_loss_sum: (V_text,) summed language-model loss of this device's tokens, or None.
        lm_num_tokens: (V_text,) number of labelled tokens, or None.
        crystal_prior: (B,) prior loss of each first crystal view, or None without that prior.
        text_prior: (B,) prior loss of each first text view, or None without that prior.
        structure_loss: (B,) loss of the structure predicted from the joint space, or None.
    """

    cross: ProjectedPair
    visual: ProjectedPair | None = None
    textual: ProjectedPair | None = None
    lm_loss_sum: Float[jax.Array, "views_text"] | None = None
    lm_num_tokens: Int[jax.Array, "views_text"] | None = None
    crystal_prior: Float[jax.Array, "examples"] | None = None
    text_prior: Float[jax.Array, "examples"] | None = None
    structure_loss: Float[jax.Array, "examples"] | None = None

    @property
    def graph_projections(self) -> Float[jax.Array, "views examples features"]:
        """(V, B, P) projections of the crystals into the joint space; view 0 first."""
        return self.cross.left

    @property
    def text_projections(self) -> Float[jax.Array, "views examples features"]:
        """(V, B, P) projections of the texts into the joint space; view 0 first."""
        return self.cross.right


class CLaC(nn.Module):
    """Graph tower, text tower, and the contrastive heads.

    Attributes:
        graph_encoder: crystals -> (rows, F).
        text_encoder: texts -> TextOutput.
        projection_dim: width of every projection.
        use_visual: whether two views of a crystal are contrasted.
        use_textual: whether two views of a text are contrasted.
        logit_scale_init: initial inverse temperature of every contrast.
        logit_bias_init: initial bias of every score (for the sigmoid loss); None: no bias.
        cross_critic: how crystals and texts are scored, "dot" or "concat" (a perceptron).
        intra_critic: how two views of one modality are scored, "dot" or "concat".
        crystal_prior: whether crystal features are pulled towards a uniform prior.
        text_prior: whether text features are pulled towards a uniform prior.
        predicts_structure: whether composition, space group and cell are predicted from the joint
            space.
    """

    graph_encoder: nn.Module
    text_encoder: nn.Module
    projection_dim: int = 512
    use_visual: bool = True
    use_textual: bool = True
    logit_scale_init: float = 1 / 0.07
    logit_bias_init: float | None = None
    cross_critic: str = "dot"
    intra_critic: str = "dot"
    crystal_prior: bool = False
    text_prior: bool = False
    predicts_structure: bool = False

    def setup(self) -> None:  # noqa: D102
        def head(critic: str) -> Head:
            if critic == "concat":
                return CriticHead(self.projection_dim)
            return ContrastiveHead(self.projection_dim, self.logit_scale_init, self.logit_bias_init)

        self.cross_head = head(self.cross_critic)
        if self.use_visual:
            self.visual_head = head(self.intra_critic)
        if self.use_textual:
            self.textual_head = head(self.intra_critic)
        if self.crystal_prior:
            self.crystal_discriminator = PriorDiscriminator()
        if self.text_prior:
            self.text_discriminator = PriorDiscriminator()
        if self.predicts_structure:
            self.structure_head = StructureHead()

    def __call__(
        self,
        batch: Batch,
        *,
        train: bool = False,
        key: Key[jax.Array, ""] | None = None,
        axis_name: str | None = None,
    ) -> ClacOutput:
        """Encodes and projects a batch.

        Args:
            batch: one or two views of every crystal and text.
            train: whether to use batch statistics and dropout.
            key: PRNG key of this step, the same on every device; for dropout and for the noise that
                the priors compare features with. None disables dropout and fixes the noise.
            axis_name: mapped axis of the devices, for batch statistics over the global batch.

        Returns:
            ClacOutput with every contrast that is enabled and has both of its views.
        """
        encoded = self.encode(batch, train=train, key=key, axis_name=axis_name)
        return self.contrast(
            encoded,
            batch.example_mask,
            batch.example_index,
            train=train,
            key=key,
            axis_name=axis_name,
        )

    def encode(
        self,
        batch: Batch,
        *,
        train: bool = False,
        key: Key[jax.Array, ""] | None = None,
        axis_name: str | None = None,
    ) -> Encoded:
        """Runs only the towers; arguments as for `__call__`.

        The features of an example depend on no other example, unless a tower has batch statistics:
        encoding part of a batch gives that part of the features.
        """
        num_examples = batch.example_mask.shape[0]
        graphs = self.graph_encoder(batch.graphs, train=train, axis_name=axis_name)
        texts = self.encode_texts(batch, key=key if train else None)
        structure = None
        if self.predicts_structure and train:
            structure = structure_targets(batch.graphs, num_examples)
        return Encoded(
            graphs=graphs.reshape(batch.graphs.num_views, num_examples, -1),
            texts=texts.features.reshape(batch.texts.num_views, num_examples, -1),
            lm_loss_sum=texts.lm_loss_sum,
            constants=Constants(texts.lm_num_tokens, structure),
        )

    def contrast(
        self,
        encoded: Encoded,
        example_mask: Bool[Array, "examples"],
        example_index: Int[Array, "examples"],
        *,
        train: bool = False,
        key: Key[jax.Array, ""] | None = None,
        axis_name: str | None = None,
    ) -> ClacOutput:
        """Applies heads and priors to the features of this device's entire batch.

        Args:
            encoded: features of all examples on this device.
            example_mask: (B,) bool, False at padding.
            example_index: (B,) int32 index of each example in its split.
            train: as for `__call__`.
            key: as for `__call__`.
            axis_name: as for `__call__`.
        """
        graphs, texts = encoded.graphs, encoded.texts

        def contrast(head: Head, left: jax.Array, right: jax.Array) -> ProjectedPair:
            pair: ProjectedPair = head(left, right, example_mask, train=train, axis_name=axis_name)
            return pair

        def prior(discriminator: PriorDiscriminator, x: jax.Array, stream: int) -> jax.Array:
            noise_key = jax.random.fold_in(jax.random.key(0) if key is None else key, stream)
            loss: jax.Array = discriminator(x, prior_noise(noise_key, example_index, x.shape[-1]))
            return loss

        visual = textual = crystal_prior = text_prior = None
        if self.use_visual and graphs.shape[0] == 2:
            visual = contrast(self.visual_head, graphs[:1], graphs[1:])
        if self.use_textual and texts.shape[0] == 2:
            textual = contrast(self.textual_head, texts[:1], texts[1:])
        if self.crystal_prior:
            crystal_prior = prior(self.crystal_discriminator, graphs[0], _CRYSTAL_NOISE)
        if self.text_prior:
            text_prior = prior(self.text_discriminator, texts[0], _TEXT_NOISE)
        cross, structure_loss = contrast(self.cross_head, graphs, texts), None
        if encoded.constants.structure is not None:
            vectors = jnp.concatenate([cross.left, cross.right])
            structure_loss = self.structure_head(vectors, encoded.constants.structure)
        return ClacOutput(
            cross=cross,
            visual=visual,
            textual=textual,
            lm_loss_sum=encoded.lm_loss_sum,
            lm_num_tokens=encoded.constants.lm_num_tokens,
            crystal_prior=crystal_prior,
            text_prior=text_prior,
            structure_loss=structure_loss,
        )

    def encode_texts(self, batch: Batch, *, key: Key[jax.Array, ""] | None = None) -> TextOutput:
        """Runs only the text tower, before any projection; without a key there is no dropout."""
        stream = None
        if key is not None:
            ids = dropout_ids(batch.example_index, batch.texts.num_views)
            stream = DropoutStream(key, ids)
        output: TextOutput = self.text_encoder(batch.texts, stream=stream)
        return output

    def embed_graphs(self, graphs: GraphBatch) -> Float[jax.Array, "crystals features"]:
        """(rows, P) projections of unaugmented crystals into the joint space."""
        return self.cross_head.project_left(self.graph_encoder(graphs, train=False))

    def embed_texts(self, texts: TextBatch) -> Float[jax.Array, "texts features"]:
        """(rows, P) projections of full texts into the joint space."""
        return self.cross_head.project_right(self.text_encoder(texts).features)

    def scores(
        self,
        crystals: Float[jax.Array, "crystals features"],
        texts: Float[jax.Array, "texts features"],
    ) -> Float[jax.Array, "crystals texts"]:
        """(N, P), (M, P) projections -> (N, M) score of every crystal with every text."""
        scores: jax.Array = self.cross_head.scores(crystals, texts)
        return scores


def dropout_ids(
    example_index: Int[Array, "examples"], num_views: int
) -> UInt32[jax.Array, "{num_views}*examples"]:
    """(B,) global indices -> (V * B,) uint32 ids, one per view of an example, view major."""
    index = jnp.asarray(example_index).astype(jnp.uint32)
    view = jnp.arange(num_views, dtype=jnp.uint32)
    return jnp.ravel(index[None, :] * jnp.uint32(2) + view[:, None])
