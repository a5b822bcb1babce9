"""The config groups for encoders: the keys that select one, and the keys each encoder declares.

Every encoder declares its settings in a frozen dataclass next to its module. A key declared by
several encoders is a single key of the group. If their defaults differ, the group's default is
None, which stands for the default of the selected encoder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clac_jax.config.adapters import LORA_TARGETS
from clac_jax.config.effects import FRESH_RUNS, NEXT_EXAMPLE, NEXT_STEP
from clac_jax.config.key import Group, Key, declared, group, key

if TYPE_CHECKING:
    from clac_jax.models.graph.settings import GraphEncoderSettings
    from clac_jax.models.text.settings import TextEncoderSettings


@dataclasses.dataclass(frozen=True)
class ChosenGraphEncoder:
    """Keys that select a graph encoder, independent of which one."""

    name: str = key("painn", "the graph encoder")
    add_composition: bool = key(
        False, "adds what composition and unit cell tell, without the arrangement of the atoms"
    )
    add_descriptors: bool = key(
        False,
        "adds what is computed of the structure: space group, conventional cell, density, and the "
        "distances, angles and elements around each atom",
    )
    pretrained: str | None = key(
        None,
        "file of another program's weights to start from; None starts at random",
        kind=str,
        is_path=True,
        on_change=FRESH_RUNS,
        validation="",
        per_process=True,
    )


@dataclasses.dataclass(frozen=True)
class ChosenTextEncoder:
    """Keys that select a text encoder without pretrained weights, independent of which one."""

    model_type: str = key("bert", "architecture of a text encoder that starts at random")


def graph_encoders() -> Mapping[str, type[GraphEncoderSettings]]:
    """`config.graph_encoder.name` -> the dataclass of that encoder's settings."""
    # The settings are declared next to the modules, so import them only when needed.
    from clac_jax.models.graph import GRAPH_ENCODERS

    return GRAPH_ENCODERS


def text_encoders() -> Mapping[str, type[TextEncoderSettings]]:
    """`config.text_encoder.config.model_type` -> the dataclass of that encoder's settings."""
    from clac_jax.models.text import TEXT_ENCODERS

    return TEXT_ENCODERS


def graph_encoder() -> Group:
    """The group `config.graph_encoder`."""
    encoders = graph_encoders()
    keys = merged_keys(ChosenGraphEncoder, encoders, "graph_encoder", "name")
    readers = [name for name, kind in encoders.items() if kind.pretrained_files]
    used_with = f"graph_encoder.name={','.join(readers)}"
    keys["pretrained"] = dataclasses.replace(keys["pretrained"], used_with=used_with)
    return Group("", keys)


def text_encoder_sizes() -> Group:
    """The group `config.text_encoder.config`."""
    keys = merged_keys(ChosenTextEncoder, text_encoders(), "text_encoder.config", "model_type")
    return Group("", keys)


@dataclasses.dataclass(frozen=True)
class Lora:
    """The config group `config.text_encoder.lora`."""

    rank: int = key(
        0,
        "rank of the matrices that are added to the encoder's linear maps, whose own weights are "
        "then frozen (LoRA, arXiv:2106.09685); 0: none",
        low=0,
    )
    alpha: float = key(
        16.0,
        "what they add is multiplied by alpha / rank",
        low=0.0,
    )
    targets: tuple[str, ...] = key(
        ("query", "value"),
        "the linear maps, in every layer; gate, up and down are those of a Gemma's perceptron, "
        "intermediate and output those of other encoders'",
        choices=LORA_TARGETS,
    )


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """The config group `config.text_encoder`."""

    pretrained: str | None = key(
        None,
        "minilm, a folder or the hub id of a Hugging Face model; None starts at random",
        kind=str,
        is_path=True,
        per_process=True,
        on_change=FRESH_RUNS,
        validation="",
    )
    num_layers: int | None = key(
        None, "uses only the first layers, this many; None: all", kind=int, low=1
    )
    feed_forward_units: int | None = key(
        None,
        "hidden units of each layer's perceptron: of a pretrained encoder, those with the largest "
        "weights; None: all",
        kind=int,
        low=1,
    )
    tokenizer: str = key(
        "minilm",
        "minilm, or a folder or hub id with a tokenizer.json",
        is_path=True,
        per_process=True,
        on_change="texts become other tokens from the next example",
        validation="",
    )
    feature: str = key(
        "mean",
        "a text's feature: of its first or last token, the mean over its tokens, or that mean "
        "along with learned weighted ones (attention)",
        choices=("first", "last", "mean", "attention"),
    )
    numbers_at: tuple[int, ...] = key(
        (),
        "layers, from 0, before which the values of the numbers in a text are added to their "
        "tokens; the number of layers: after the last one; (): numbers are only words",
        low=0,
    )
    add_compositions: bool = key(
        False,
        "whether the composition that a text states, in formulas and names of elements, is added "
        "to its features; otherwise these are only words",
    )
    max_length: int = key(
        128, "tokens of a text; longer ones are cut", low=1, on_change=NEXT_EXAMPLE
    )
    dropout: float | None = key(
        None,
        "probability of every dropout; None: the model's own",
        kind=float,
        low=0.0,
        below=1.0,
        on_change=NEXT_STEP,
        validation="",
    )
    config: None = group(
        text_encoder_sizes,
        "The sizes of a text encoder that starts at random (text_encoder.pretrained is None).",
    )
    lora: None = group(
        Lora,
        "Adapters: low-rank matrices that are trained in place of the text encoder. See "
        "[Averages, soups, adapters](averages-and-adapters.md).",
    )


def merged_keys(
    chosen: type, table: Mapping[str, type], group: str, chooser: str
) -> dict[str, Key]:
    """The keys of a group in which one of several encoders or losses is selected.

    Args:
        chosen: dataclass of the keys that are independent of the selection.
        table: name of each encoder or loss -> dataclass of its settings.
        group: dotted name of the group, for the docs.
        chooser: key of `chosen` whose value is a name in the table.

    Raises:
        TypeError: a setting cannot be a key of the group.
    """
    keys = declared(chosen)
    keys[chooser] = dataclasses.replace(keys[chooser], choices=tuple(table))
    owners: dict[str, dict[str, Key]] = {}
    for name, cls in table.items():
        for each, declaration in declared(cls).items():
            owners.setdefault(each, {})[name] = declaration
    for each, by_name in owners.items():
        kinds = {declaration.kind for declaration in by_name.values()}
        if each in keys or len(kinds) > 1:
            taken = "the group has that key" if each in keys else "their types differ"
            raise TypeError(
                f"The setting {each!r} of {' and '.join(by_name)} cannot be a config key: "
                f"{taken}. Give the setting another name."
            )
        declaration = _common(by_name, table, f"{group}.{chooser}")
        if declaration.default is None:
            own = "; ".join(f"{name} {key.default}" for name, key in by_name.items())
            what = group.split(".")[0].replace("_", " ")
            meaning = f"{declaration.meaning}; None: the {what}'s own ({own})"
            declaration = dataclasses.replace(declaration, meaning=meaning)
        keys[each] = declaration
    return keys


def _common(by_name: Mapping[str, Key], table: Mapping[str, type], dotted: str) -> Key:
    """One key for all encoders that declare it; its default is None if their defaults differ."""
    first, *others = by_name.values()
    meanings: dict[str, list[str]] = {}
    for name, each in by_name.items():
        meanings.setdefault(each.meaning, []).append(name)
    texts = [f"{', '.join(names)}: {meaning}" for meaning, names in meanings.items()]
    used_with = None if len(by_name) == len(table) else f"{dotted}={','.join(by_name)}"
    return dataclasses.replace(
        first,
        meaning="; ".join(texts) if len(texts) > 1 else first.meaning,
        default=None if any(each.default != first.default for each in others) else first.default,
        used_with=first.used_with or used_with,
    )


def fill_defaults(config: Any) -> None:
    """Replaces each None by the selected encoder's own default, in place.

    A run's config then records what it used, even if a later version changes the default.

    Args:
        config: nested, with all keys present: a `ConfigDict`, or a dict from any source.
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
            continue  # rejected by the checks
        for each, declaration in declared(encoders[chosen]).items():
            if options.get(each) is None and declaration.default is not None:
                options[each] = declaration.default


def _is_group(value: Any) -> bool:
    return hasattr(value, "items") and hasattr(value, "get")
