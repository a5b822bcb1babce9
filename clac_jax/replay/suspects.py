"""Differences between two starts of runs, by how likely they explain different bits."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clac_jax.config import schema as config_lib
from clac_jax.replay.history import History

_DATA = ("dataset.*", "data")
_MODEL = (
    "graph_encoder.*", "text_encoder.*", "loss.*", "projection_dim", "use_*", "lm_weight", "remat",
    "precision*", "gradient_cache_chunks", "*logit*", "task", "property.*", "restore.*",
    "resume_from", "seed", "frozen", "parallel", "sharding.*", "deterministic",
)  # fmt: skip
_MACHINE = ("devices", "jax", "jaxlib", "source", "commit", "settings", "host", "flax", "numpy")
# Digest of a step -> patterns of what decides it, the most likely first.
LIKELY = {
    "ids": ("seed", "batch_size", "accumulate_steps", "input.group_by", *_DATA),
    "texts": (
        "augment.*", "text_encoder.tokenizer", "text_encoder.max_length", "replace_formula*",
        "lm_weight", "seed", *_DATA, "tokenizers", "source", "numpy",
    ),
    "crystals": (
        "augment.*", "graph_encoder.cutoff", "graph_encoder.max_neighbours", "use_*", "seed",
        *_DATA, "source", "numpy",
    ),
    "loss": (*_MODEL, *_MACHINE),
    "gradients": ("remat", "frozen", "gradient_cache_chunks", "parallel", *_MACHINE, *_MODEL),
    "opt_state": ("optimizer.*", "gradient_clip", "weight_decay", "frozen", *_MACHINE),
    "params": (
        "learning_rate", "schedule*", "warmup_steps", "max_epochs", "min_learning_rate", "cosine.*",
        "one_cycle.*", "plateau.*", "optimizer.*", "weight_decay", "frozen", *_MACHINE,
    ),
    "batch_stats": (*_MODEL, *_MACHINE),
    "ema": ("ema.*", *_MACHINE),
    "counters": ("seed", "schedule*", "plateau.*", *_MACHINE),
}  # fmt: skip
# Keys that decide where and when something is written, and no bit of a step.
HARMLESS = (
    "logging.*", "checkpoint.*", "watchdog.*", "bucket.*", "log_every_n_steps", "journal.*",
    "compilation_cache", "input.num_threads", "input.prefetch", "eval_batch_size", "distributed.*",
    "resume", "dataset.data_dir", "early_stopping*", "stop_at*", "debug",
)  # fmt: skip


@dataclass(frozen=True)
class Suspect:
    """Something that differs.

    Attributes:
        name: a config key, a package, or "devices", "source", ...
        left: its value in the first run.
        right: its value in the second one.
        rank: place among the patterns of the digest that differs; a high one if in none.
    """

    name: str
    left: Any
    right: Any
    rank: int

    @property
    def words(self) -> str:
        """The suspect in words."""
        return f"{self.name}: {_short(self.left)} and {_short(self.right)}"


def suspects(left: History, right: History, step: int, stage: str) -> list[Suspect]:
    """The differences between the starts that did a step in two runs, the likeliest first.

    Args:
        left: one run.
        right: the other one.
        step: the step.
        stage: the first digest that differs.
    """
    starts = left.start_of(step), right.start_of(step)
    facts = [_facts(history, start) for history, start in zip((left, right), starts, strict=True)]
    found = []
    configs = [config_lib.with_defaults(dict(start.config)) for start in starts]
    for key, first, second in config_lib.differences(*configs):
        if not _matches(key, HARMLESS):
            found.append(Suspect(key, first, second, _rank(key, stage)))
    for name in sorted(facts[0].keys() & facts[1].keys()):
        if facts[0][name] != facts[1][name]:
            found.append(Suspect(name, facts[0][name], facts[1][name], _rank(name, stage)))
    return sorted(found, key=lambda each: each.rank)


def _facts(history: History, start: Any) -> dict[str, Any]:
    facts = {**start.versions, **{name: value for name, value in start.facts.items()}}
    if start.devices:
        names = [name for name in ("count", "kind", "processes") if name in start.devices]
        facts["devices"] = ", ".join(f"{name} {start.devices[name]}" for name in names)
    facts.pop("start", None)
    settings = facts.pop("settings", None)
    if isinstance(settings, Mapping):
        facts |= {f"settings {name}": value for name, value in settings.items()}
    facts["data"] = history.fingerprint(start)
    return facts


def _rank(name: str, stage: str) -> int:
    patterns = LIKELY.get(stage, ())
    base = name.partition(" ")[0]
    for number, pattern in enumerate(patterns):
        if fnmatch.fnmatchcase(name, pattern) or base == pattern:
            return number
    return len(patterns) + 1


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:40]}...{text[-15:]}"
