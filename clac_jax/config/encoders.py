"""The config's groups for encoders: the keys that choose one, and those that each one declares.

Every encoder declares its settings in a frozen dataclass beside its module. A key that several of
them declare is one key of the group. Where they declare it with different defaults, the group has
None, which stands for the default of the encoder that is chosen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clac_jax.config.effects import FRESH_RUNS
from clac_jax.config.key import Group, Key, declared, key

if TYPE_CHECKING:
    from clac_jax.models.graph.settings import GraphEncoderSettings
    from clac_jax.models.text.settings import TextEncoderSettings


@dataclasses.dataclass(frozen=True)
class ChosenGraphEncoder:
    """What is said of a graph encoder from outside of it."""

    name: str = key("painn", "the graph encoder")
    add_composition: bool = key(
        False, "adds what composition and unit cell tell, without the arrangement of the atoms"
    )
    pretrained: str | None = key(
        None,
        "file of another program's weights to start from; None starts at random",
        kind=str,
        is_path=True,
        on_change=FRESH_RUNS,
        validation="",
    )


@dataclasses.dataclass(frozen=True)
class ChosenTextEncoder:
    """What is said of a text encoder without pretrained weights from outside of it."""

    model_type: str = key("bert", "architecture of a text encoder that starts at random")


def graph_encoders() -> Mapping[str, type[GraphEncoderSettings]]:
    """`config.graph_encoder.name` -> the dataclass of that encoder's settings."""
    # The settings stand beside the modules: imported only by who asks for them.
    from clac_jax.models.graph import GRAPH_ENCODERS

    return GRAPH_ENCODERS


def text_encoders() -> Mapping[str, type[TextEncoderSettings]]:
    """`config.text_encoder.config.model_type` -> the dataclass of that encoder's settings."""
    from clac_jax.models.text import TEXT_ENCODERS

    return TEXT_ENCODERS


def graph_encoder() -> Group:
    """The group `config.graph_encoder`."""
    encoders = graph_encoders()
    keys = _merged(declared(ChosenGraphEncoder), encoders, "name", "graph_encoder.name")
    readers = [name for name, kind in encoders.items() if kind.pretrained_files]
    used_with = f"graph_encoder.name={','.join(readers)}"
    keys["pretrained"] = dataclasses.replace(keys["pretrained"], used_with=used_with)
    return Group("", keys)


def text_encoder_sizes() -> Group:
    """The group `config.text_encoder.config`."""
    dotted = "text_encoder.config.model_type"
    return Group("", _merged(declared(ChosenTextEncoder), text_encoders(), "model_type", dotted))


def _merged(
    keys: dict[str, Key], per_encoder: Mapping[str, type], chooser: str, dotted: str
) -> dict[str, Key]:
    """The keys of a group of encoders: `keys`, then what its encoders declare."""
    keys[chooser] = dataclasses.replace(keys[chooser], choices=tuple(per_encoder))
    owners: dict[str, dict[str, Key]] = {}
    for name, cls in per_encoder.items():
        for each, declaration in declared(cls).items():
            owners.setdefault(each, {})[name] = declaration
    for each, by_encoder in owners.items():
        kinds = {declaration.kind for declaration in by_encoder.values()}
        if each in keys or len(kinds) > 1:
            taken = "every encoder has that key" if each in keys else "their types differ"
            raise TypeError(
                f"The setting {each!r} of {' and '.join(by_encoder)} cannot be a config key: "
                f"{taken}. Give the setting another name."
            )
        keys[each] = _common(by_encoder, per_encoder, dotted)
    return keys


def _common(by_encoder: Mapping[str, Key], all_encoders: Mapping[str, type], dotted: str) -> Key:
    """One key for the encoders that declare it."""
    first, *others = by_encoder.values()
    meanings = dict.fromkeys(each.meaning for each in by_encoder.values() if each.meaning)
    used_with = None if len(by_encoder) == len(all_encoders) else f"{dotted}={','.join(by_encoder)}"
    return dataclasses.replace(
        first,
        meaning="; ".join(meanings),
        default=None if any(each.default != first.default for each in others) else first.default,
        used_with=first.used_with or used_with,
    )


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
            options = options[below] if _is_group(options) else None
        chosen = options.get(chooser) if _is_group(options) else None
        if not isinstance(chosen, str) or chosen not in encoders:
            continue  # refused by the checks
        for each, declaration in declared(encoders[chosen]).items():
            if options.get(each) is None and declaration.default is not None:
                options[each] = declaration.default


def _is_group(value: Any) -> bool:
    return hasattr(value, "items") and hasattr(value, "get")
