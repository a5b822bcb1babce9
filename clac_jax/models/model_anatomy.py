"""The anatomy of the model that a config describes: its encoders' and its heads', joined."""

from __future__ import annotations

import ml_collections

from clac_jax.models.anatomy import Anatomy, dense_axes
from clac_jax.models.build import pair_loss_of
from clac_jax.models.encoders import graph_settings, text_settings
from clac_jax.models.graph.composition import CompositionSettings
from clac_jax.models.graph.descriptors import DescriptorSettings
from clac_jax.models.heads import contrastive_anatomy, critic_anatomy, prior_anatomy
from clac_jax.models.settings import settings_of


def model_anatomy(config: ml_collections.ConfigDict) -> Anatomy:
    """The anatomy of a config's model; modules that cannot be grown have no axes in it.

    Raises:
        ModelError: no encoder or loss has the name given in the config.
        PretrainedError: the config.json of the pretrained text encoder cannot be used.
    """
    graph = graph_anatomy(config)
    if config.task == "property":
        head = Anatomy(axes=dense_axes("property_head", f"{graph.output} -> _"))
        return graph.joined(head)
    options = config.text_encoder
    text = text_settings(config).anatomy(options.feature, config.lm_weight > 0)
    text = (text or Anatomy(output="output")).within("text_encoder")
    parts, heads = [graph, text], pair_loss_of(config.loss).heads
    for name, left, right, critic, used in (
        ("cross_head", graph, text, heads.cross_critic, True),
        ("visual_head", graph, graph, heads.intra_critic, config.use_visual_intramodal_loss),
        ("textual_head", text, text, heads.intra_critic, config.use_textual_intramodal_loss),
    ):
        if used:
            head = critic_anatomy() if critic == "concat" else contrastive_anatomy()
            parts.append(head.within(name, left=left.output, right=right.output))
    for name, tower, used in (
        ("crystal_discriminator", graph, heads.crystal_prior),
        ("text_discriminator", text, heads.text_prior),
    ):
        if used:
            parts.append(prior_anatomy().within(name, input=tower.output))
    if config.structure_weight > 0:
        axes = dense_axes(
            "structure_head/(?:space_group|cell|composition)", "cross_head/joint -> _"
        )
        parts.append(Anatomy(axes=axes))
    first, *others = parts
    return first.joined(*others)


def graph_anatomy(config: ml_collections.ConfigDict) -> Anatomy:
    """The anatomy of the module `graph_encoder` of a config's model; raises as `model_anatomy`."""
    options = config.graph_encoder
    settings = graph_settings(options)
    anatomy = settings.anatomy() or Anatomy(output="output")
    added: dict[str, Anatomy] = {}
    if options.add_composition and not settings.sees_composition:
        added["composition"] = settings_of(CompositionSettings, options).anatomy()
    if options.add_descriptors:
        added["descriptors"] = DescriptorSettings().anatomy()
    for name, other in added.items():  # the wrapped encoder is its wrapper's `encoder`
        anatomy = anatomy.within("encoder")
        anatomy = anatomy.joined(other.within(name, out=anatomy.output))
    return anatomy.within("graph_encoder")
