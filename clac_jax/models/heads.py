"""From features to losses: projections and their scores, a critic, and a prior."""

from __future__ import annotations

import math

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from clac_jax.models.anatomy import Anatomy, dense_axes
from clac_jax.models.normalization import view_members
from clac_jax.models.projection import ProjectionBlock, projection_anatomy
from clac_jax.typing import Array

# Rows of a critic's score matrix per chunk: its hidden layer holds a vector per entry.
_CRITIC_ROWS = 8


@flax.struct.dataclass
class CriticLayers:
    """A critic's layers after its first, which is linear in each side separately.

    Attributes:
        hidden_kernel: (H, H).
        hidden_bias: (H,).
        out_kernel: (H,).
        out_bias: ().
    """

    hidden_kernel: Float[jax.Array, "hidden hidden"]
    hidden_bias: Float[jax.Array, "hidden"]
    out_kernel: Float[jax.Array, "hidden"]
    out_bias: Float[jax.Array, ""]

    def __call__(self, first: Float[jax.Array, "*pairs hidden"]) -> Float[jax.Array, "*pairs"]:
        """(..., H) sum of both sides' first layers -> (...) scores."""
        hidden = nn.relu(nn.relu(first) @ self.hidden_kernel + self.hidden_bias)
        return hidden @ self.out_kernel + self.out_bias


@flax.struct.dataclass
class ProjectedPair:
    """The two sides of one contrast, and how they are scored against each other.

    Attributes:
        left: (V_left, B, P) float32, one slice per view; l2-normalized unless there is a critic.
        right: (V_right, B, P) float32, one slice per view; normalized like `left`.
        log_scale: () logarithm of the inverse temperature; None with a critic.
        logit_bias: () bias added to every score; None: no bias.
        critic: replaces the dot product as the score; None: the dot product is used.
    """

    left: Float[jax.Array, "views_left examples features"]
    right: Float[jax.Array, "views_right examples features"]
    log_scale: Float[jax.Array, ""] | None = None
    logit_bias: Float[jax.Array, ""] | None = None
    critic: CriticLayers | None = None

    def scores(
        self, left: Float[jax.Array, "rows features"], right: Float[jax.Array, "columns features"]
    ) -> Float[jax.Array, "rows columns"]:
        """(N, P), (M, P) -> (N, M) score of every row on the left with every row on the right."""
        critic = self.critic
        if critic is not None:
            by_row: jax.Array = jax.lax.map(
                lambda row: critic(row + right), left, batch_size=_CRITIC_ROWS
            )
            return by_row
        return self._scaled(left @ right.T)

    def scores_of_rows(
        self, left: Float[jax.Array, "rows features"], right: Float[jax.Array, "rows features"]
    ) -> Float[jax.Array, "rows"]:
        """(N, P), (N, P) -> (N,) score of each row on the left with the same row on the right."""
        if self.critic is not None:
            return self.critic(left + right)
        return self._scaled(jnp.sum(left * right, axis=-1))

    def _scaled(self, scores: jax.Array) -> jax.Array:
        if self.log_scale is not None:
            scores = scores * jnp.exp(self.log_scale)
        return scores if self.logit_bias is None else scores + self.logit_bias


def contrastive_anatomy() -> Anatomy:
    """The units of a `ContrastiveHead`, from "left" and "right" to "joint"."""
    block = projection_anatomy()
    return block.within("left", input="left", joint="joint").joined(
        block.within("right", input="right", joint="joint")
    )


def critic_anatomy() -> Anatomy:
    """The units of a `CriticHead`, from "left" and "right" to "first"."""
    return Anatomy(
        axes={
            **dense_axes("left", "left -> first"),
            **dense_axes("right", "right -> first"),
            "hidden_kernel": "first -> second",
            "hidden_bias": "-> second",
            "out_kernel": "second -> _",
        },
        output="first",
    )


def prior_anatomy() -> Anatomy:
    """The units of a `PriorDiscriminator`, which takes "input"."""
    note = "the loss on noise, which is as wide, changes"
    return Anatomy(axes={"layer_0/kernel": "input -> _"}, notes={"layer_0/kernel": note})


def l2_normalize(x: Float[jax.Array, "*shape"]) -> Float[jax.Array, "*shape"]:
    """Unit vectors along the last axis; the zero vector stays zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))


class ContrastiveHead(nn.Module):
    """Two projection blocks and a temperature: one contrast between two kinds of features.

    Attributes:
        features: width P of the projections.
        logit_scale_init: initial inverse temperature.
        logit_bias_init: initial value of a learned bias on every score; None: no bias.
    """

    features: int
    logit_scale_init: float
    logit_bias_init: float | None = None

    def setup(self) -> None:  # noqa: D102
        self.left = ProjectionBlock(self.features)
        self.right = ProjectionBlock(self.features)
        self.log_scale = self.param(
            "log_scale", nn.initializers.constant(math.log(self.logit_scale_init)), ()
        )
        self.logit_bias = None
        if self.logit_bias_init is not None:
            self.logit_bias = self.param(
                "logit_bias", nn.initializers.constant(self.logit_bias_init), ()
            )

    def __call__(
        self,
        left: Float[jax.Array, "views_left examples left_features"],
        right: Float[jax.Array, "views_right examples right_features"],
        example_mask: Bool[Array, "examples"],
        *,
        train: bool,
        axis_name: str | None = None,
    ) -> ProjectedPair:
        """Projects both sides.

        Args:
            left: (V_left, B, F_left) features.
            right: (V_right, B, F_right) features.
            example_mask: (B,) bool, the examples that enter the batch statistics.
            train: use batch statistics instead of running averages.
            axis_name: mapped axis of the devices.
        """
        # The reference runs a block once per scored pair of views, left views innermost. Computing
        # each view once and repeating its update gives the same running averages.
        left_order = tuple(range(left.shape[0])) * right.shape[0]
        right_order = tuple(k for k in range(right.shape[0]) for _ in range(left.shape[0]))

        def project(block: ProjectionBlock, x: jax.Array, order: tuple[int, ...]) -> jax.Array:
            num_views, num_examples, width = x.shape
            y: jax.Array = block(
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
            logit_bias=self.logit_bias,
        )

    def project_left(self, x: Float[jax.Array, "rows inputs"]) -> Float[jax.Array, "rows features"]:
        """(N, F_left) -> (N, P), using the running averages."""
        return l2_normalize(self.left(x, jnp.ones((1, x.shape[0]), bool), train=False))

    def project_right(
        self, x: Float[jax.Array, "rows inputs"]
    ) -> Float[jax.Array, "rows features"]:
        """(N, F_right) -> (N, P), using the running averages."""
        return l2_normalize(self.right(x, jnp.ones((1, x.shape[0]), bool), train=False))

    def scores(
        self, left: Float[jax.Array, "rows features"], right: Float[jax.Array, "columns features"]
    ) -> Float[jax.Array, "rows columns"]:
        """(N, P), (M, P) projections -> (N, M)."""
        return ProjectedPair(left, right, self.log_scale, self.logit_bias).scores(left, right)


class CriticHead(nn.Module):
    """A three-layer perceptron on two concatenated feature vectors: the "concat" score.

    Its first layer is evaluated once per side, W [a, b] + c = (W_a a + c) + W_b b, so that scoring
    all pairs needs no first layer per pair. Source: CLIP-Lite (arXiv:2112.07133).

    Attributes:
        features: width H of both hidden layers.
    """

    features: int

    def setup(self) -> None:  # noqa: D102
        self.left = nn.Dense(self.features)
        self.right = nn.Dense(self.features, use_bias=False)
        init, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
        self.layers = CriticLayers(
            hidden_kernel=self.param("hidden_kernel", init, (self.features, self.features)),
            hidden_bias=self.param("hidden_bias", zeros, (self.features,)),
            out_kernel=self.param("out_kernel", init, (self.features, 1))[:, 0],
            out_bias=self.param("out_bias", zeros, (1,))[0],
        )

    def __call__(
        self,
        left: Float[jax.Array, "views_left examples left_features"],
        right: Float[jax.Array, "views_right examples right_features"],
        example_mask: Bool[Array, "examples"],
        *,
        train: bool,
        axis_name: str | None = None,
    ) -> ProjectedPair:
        """Computes each side's part of the first layer; arguments as for ContrastiveHead."""
        del example_mask, train, axis_name
        return ProjectedPair(self.left(left), self.right(right), critic=self.layers)

    def project_left(self, x: Float[jax.Array, "rows inputs"]) -> Float[jax.Array, "rows hidden"]:
        """(N, F_left) -> (N, H)."""
        first: jax.Array = self.left(x)
        return first

    def project_right(self, x: Float[jax.Array, "rows inputs"]) -> Float[jax.Array, "rows hidden"]:
        """(N, F_right) -> (N, H)."""
        first: jax.Array = self.right(x)
        return first

    def scores(
        self, left: Float[jax.Array, "rows features"], right: Float[jax.Array, "columns features"]
    ) -> Float[jax.Array, "rows columns"]:
        """(N, H), (M, H) first-layer outputs -> (N, M) scores."""
        return ProjectedPair(left, right, critic=self.layers).scores(left, right)


class PriorDiscriminator(nn.Module):
    """Distinguishes features from uniform noise; its loss pulls features towards the unit cube.

    Source: the prior of Deep InfoMax (arXiv:1808.06670), as used by CLIP-Lite.

    Attributes:
        hidden: widths of the hidden layers.
    """

    hidden: tuple[int, ...] = (1000, 200)

    @nn.compact
    def __call__(
        self,
        features: Float[jax.Array, "examples features"],
        noise: Float[jax.Array, "examples features"],
    ) -> Float[jax.Array, "examples"]:
        """(B, F) features, (B, F) noise -> (B,) loss: -log d(noise) - log(1 - d(features))."""
        x = jnp.concatenate([noise, features])
        for k, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, name=f"layer_{k}")(x))
        logits = nn.Dense(1, name="out")(x)[:, 0]
        of_noise, of_features = jnp.split(logits, 2)
        return nn.softplus(-of_noise) + nn.softplus(of_features)


def prior_noise(
    key: Key[jax.Array, ""], example_index: Int[Array, "examples"], width: int
) -> Float[jax.Array, "examples {width}"]:
    """(B, width) uniform in [0, 1); depends only on the key and the example, not the device."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(example_index))
    return jax.vmap(lambda k: jax.random.uniform(k, (width,)))(keys)
