"""The config's groups for encoders: what all of them share, and what each one has for itself.

Every encoder declares its settings in a frozen dataclass. A key that several of them declare is one
key of the group. Where they declare it with different defaults, the group has None, which stands
for the default of the encoder that is chosen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from clac_jax.config.effects import FRESH_RUNS, OTHER_EDGES
from clac_jax.config.key import Group, Key, declared, key

Settings = TypeVar("Settings")


@dataclasses.dataclass(frozen=True)
class SharedGraphKeys:
    """What every graph encoder has."""

    name: str = key("painn", "the graph encoder")
    add_composition: bool = key(
        False, "adds what composition and unit cell tell, without the arrangement of the atoms"
    )
    cutoff: float | None = key(
        None,
        "longest edge of the graph, angstrom; of PaiNN and ORB also the radius where their "
        "envelope reaches zero",
        kind=float,
        low=0.1,
        high=100.0,
        on_change=OTHER_EDGES,
    )
    max_neighbours: int = key(
        0, "nearest edges kept per atom; 0 keeps all", low=0, on_change=OTHER_EDGES
    )
    pretrained: str | None = key(
        None,
        "file of an orb-models checkpoint to start from; None starts at random",
        kind=str,
        is_path=True,
        used_with="graph_encoder.name=orb",
        on_change=FRESH_RUNS,
        validation="",
        per_process=True,
    )


@dataclasses.dataclass(frozen=True)
class PaiNNSettings:
    """The keys of PaiNN."""

    cutoff: float = key(5.0, "")
    out_dim: int = key(512, "width of the output", low=1)
    num_features: int = key(512, "width of the scalars and vectors", low=1)
    num_interactions: int = key(5, "message-passing steps", low=0)
    num_rbf: int = key(20, "radial basis functions", low=1)


@dataclasses.dataclass(frozen=True)
class CGCNNSettings:
    """The keys of CGCNN."""

    cutoff: float = key(6.0, "")
    out_dim: int = key(512, "width of the output", low=1)
    atom_fea_len: int = key(1024, "width of the nodes", low=1)
    nbr_fea_len: int = key(80, "Gaussians of the radial basis", low=2)
    rbf_max: float = key(
        8.0, "centre of the last Gaussian and zero of the envelope, angstrom", low=0.1, high=100.0
    )
    n_conv: int = key(3, "convolutions", low=0)
    h_fea_len: int = key(512, "width of the perceptron on the pooled nodes", low=1)
    n_h: int = key(1, "hidden layers of that perceptron", low=0)


@dataclasses.dataclass(frozen=True)
class OrbSettings:
    """The keys of ORB."""

    cutoff: float = key(6.0, "")
    num_features: int = key(512, "width of the nodes, the edges and the output", low=1)
    num_interactions: int = key(5, "message-passing steps", low=0)
    hidden_features: int = key(1024, "width of the perceptrons' hidden layers", low=1)


@dataclasses.dataclass(frozen=True)
class CompositionSettings:
    """The keys of the composition encoder, which looks at no edges."""

    cutoff: float = key(5.0, "")
    out_dim: int = key(512, "width of the output", low=1)
    num_features: int = key(512, "width of the hidden layers", low=1)


@dataclasses.dataclass(frozen=True)
class SharedTextSizes:
    """The sizes that every text encoder has."""

    model_type: str = key("bert", "architecture of a text encoder that starts at random")
    hidden_size: int = key(384, "width of the tokens", low=1)
    num_hidden_layers: int = key(6, "transformer layers", low=0)
    num_attention_heads: int = key(12, "attention heads; must divide hidden_size", low=1)
    intermediate_size: int = key(1536, "width of the perceptrons' hidden layer", low=1)
    max_position_embeddings: int = key(512, "longest text that has positions, tokens", low=1)


@dataclasses.dataclass(frozen=True)
class TextSizes:
    """A text encoder without sizes of its own."""


def graph_encoders() -> Mapping[str, type]:
    """`config.graph_encoder.name` -> the dataclass of that encoder's settings."""
    return {
        "painn": PaiNNSettings,
        "cgcnn": CGCNNSettings,
        "orb": OrbSettings,
        "composition": CompositionSettings,
    }


def text_encoders() -> Mapping[str, type]:
    """`config.text_encoder.config.model_type` -> the dataclass of the sizes only it has."""
    return dict.fromkeys(("bert", "opt", "gpt2", "gemma3_text"), TextSizes)


def graph_encoder() -> Group:
    """The group `config.graph_encoder`."""
    return graph_encoder_group(SharedGraphKeys, graph_encoders())


def text_encoder_sizes() -> Group:
    """The group `config.text_encoder.config`."""
    return text_encoder_group(SharedTextSizes, text_encoders())


def graph_encoder_group(shared: type, per_encoder: Mapping[str, type]) -> Group:
    """The group `config.graph_encoder`.

    Args:
        shared: dataclass of the keys that all encoders have. Its default None for a key that the
            encoders declare too stands for the encoder's own default.
        per_encoder: name of each encoder -> dataclass of its settings.
    """
    return _merged(shared, per_encoder, "name", "graph_encoder.name")


def text_encoder_group(shared: type, per_encoder: Mapping[str, type]) -> Group:
    """The group `config.text_encoder.config`; arguments as for `graph_encoder_group`."""
    return _merged(shared, per_encoder, "model_type", "text_encoder.config.model_type")


def _merged(shared: type, per_encoder: Mapping[str, type], chooser: str, dotted: str) -> Group:
    keys = declared(shared)
    keys[chooser] = dataclasses.replace(keys[chooser], choices=tuple(per_encoder))
    owners: dict[str, dict[str, Key]] = {}
    for name, cls in per_encoder.items():
        for each, declaration in declared(cls).items():
            owners.setdefault(each, {})[name] = declaration
    for each, by_encoder in owners.items():
        declaration = keys.get(each) or _common(by_encoder, per_encoder, dotted)
        if declaration.default is None:
            own = "; ".join(f"{name} {key.default}" for name, key in by_encoder.items())
            meaning = f"{declaration.meaning}; None: the encoder's own ({own})"
            declaration = dataclasses.replace(declaration, meaning=meaning)
        keys[each] = declaration
    return Group("", keys)


def _common(by_encoder: Mapping[str, Key], all_encoders: Mapping[str, type], dotted: str) -> Key:
    """One key for the encoders that declare it, None where their defaults differ."""
    first, *others = by_encoder.values()
    meanings: dict[str, list[str]] = {}
    for name, each in by_encoder.items():
        meanings.setdefault(each.meaning, []).append(name)
    texts = [f"{', '.join(names)}: {meaning}" for meaning, names in meanings.items()]
    used_with = None if len(by_encoder) == len(all_encoders) else f"{dotted}={','.join(by_encoder)}"
    return dataclasses.replace(
        first,
        meaning="; ".join(texts) if len(texts) > 1 else first.meaning,
        default=None if any(each.default != first.default for each in others) else first.default,
        used_with=first.used_with or used_with,
    )


def own_settings(options: Mapping[str, Any], cls: type[Settings]) -> Settings:
    """An encoder's settings out of its group of the config, None replaced by its own default.

    Args:
        options: `config.graph_encoder` or `config.text_encoder.config`.
        cls: dataclass of the encoder's settings, fields declared with `key`.
    """
    given = {name: options[name] for name in declared(cls)}
    return cls(**{name: value for name, value in given.items() if value is not None})


def graph_cutoff(options: Mapping[str, Any]) -> float:
    """The cutoff of `config.graph_encoder` in angstrom, its encoder's own where that is None.

    Raises:
        KeyError: no encoder has that name.
    """
    if options["cutoff"] is not None:
        return float(options["cutoff"])
    return float(declared(graph_encoders()[options["name"]])["cutoff"].default)


def fill_defaults(config: Any) -> None:
    """Replaces None by the chosen encoder's own default, in place.

    So that the config of a run says what it used, also where a later version's default differs.

    Args:
        config: nested, all keys there: a `ConfigDict`, or a dict of any origin.
    """
    for path, chooser, encoders in (
        (("graph_encoder",), "name", graph_encoders()),
        (("text_encoder", "config"), "model_type", text_encoders()),
    ):
        options = config
        for below in path:
            options = options.get(below) if _is_group(options) else None
        chosen = options.get(chooser) if _is_group(options) else None
        if not isinstance(chosen, str) or chosen not in encoders:
            continue  # refused by the checks
        for each, declaration in declared(encoders[chosen]).items():
            if options.get(each) is None and declaration.default is not None:
                options[each] = declaration.default


def _is_group(value: Any) -> bool:
    return hasattr(value, "items") and hasattr(value, "get")
