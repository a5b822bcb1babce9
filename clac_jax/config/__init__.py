"""A run's config: every key is declared once; defaults, checks and docs derive from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clac_jax.config.schema import ConfigError, default_config

__all__ = ["ConfigError", "default_config"]


def __getattr__(name: str) -> Any:
    """Imports on first use, so that modules that need one small file load only that file."""
    if name in __all__:
        from clac_jax.config import schema

        return getattr(schema, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
