"""The units of transformers: what their `anatomy` methods have in common."""

from __future__ import annotations

from clac_jax.models.anatomy import Layers, adapted_axes, dense_axes

_ATTENTION = r"layer_\d+_attention"
_LAYER = r"layer_(\d+)_"
_SMALL = 1e-8
"""A larger epsilon changes what is normalized again, by half its ratio to the variance."""

_WITHOUT_EFFECT = {
    f"{_ATTENTION}/out/(?:kernel|bias|lora_b)": 0.0,
    r"layer_\d+_output/(?:kernel|bias|lora_b)": 0.0,
}


def layer_axes() -> dict[str, str]:
    """The axes of the linear maps in each layer: an attention and a perceptron."""
    return {
        **adapted_axes(f"{_ATTENTION}/query", "hidden -> heads*~keys"),
        **adapted_axes(f"{_ATTENTION}/key", "hidden -> heads*keys"),
        **adapted_axes(f"{_ATTENTION}/value", "hidden -> heads*values"),
        **adapted_axes(f"{_ATTENTION}/out", "heads*values -> hidden"),
        **adapted_axes(r"layer_\d+_intermediate", "hidden -> feed_forward"),
        **adapted_axes(r"layer_\d+_output", "feed_forward -> hidden"),
    }


def pooling_axes(hidden: str) -> dict[str, str]:
    """The axes of a pooling by attention.

    Args:
        hidden: units of the hidden states.
    """
    return {
        **dense_axes("pooling/values", f"{hidden} -> heads*pooled"),
        "pooling/scores/kernel": f"{hidden} -> heads",
    }


def pooled(feature: str, hidden: str) -> str:
    """The units of the vector of a text, see `pooling.pool`."""
    return f"{hidden} + heads*pooled" if feature == "attention" else hidden


def layers_with_norms_first() -> Layers:
    """Layers that add to what enters them."""
    return Layers(_LAYER, "layer", _WITHOUT_EFFECT)


def layers_with_norms_last(epsilon: float) -> Layers:
    """Layers that end with a norm.

    After a layer without effect there is another norm, of what is already normalized: it changes
    nothing if the previous norm has no scale and bias of its own, and if its epsilon is small.

    Args:
        epsilon: that of the norms.
    """
    norms = {r"layer_\d+_\w+_norm/bias": 0.0, r"layer_\d+_\w+_norm/scale": 1.0}
    refusal = ""
    if epsilon > _SMALL:
        refusal = f"a layer norm follows each, which divides again, with an epsilon of {epsilon:g}"
    return Layers(
        _LAYER,
        "layer",
        _WITHOUT_EFFECT | norms,
        last=(r"layer_\d+_output_norm/.*",),
        refusal=refusal,
    )
