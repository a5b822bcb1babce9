"""The tables of a sweep's database, and the values in them that are stored as JSON."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from clac_jax.sweeps.database import StorageError, advice_on_damage, shown_url

if TYPE_CHECKING:
    import sqlalchemy as sa

JSON_COLUMNS = ("params", "extra", "result", "progress")
"""The columns of a trial that hold JSON objects."""


@functools.cache
def tables() -> tuple[sa.MetaData, sa.Table, sa.Table]:
    """All tables, the one of the sweeps, and the one of the trials."""
    import sqlalchemy as sa

    metadata = sa.MetaData()
    studies = sa.Table(
        "clac_sweeps",
        metadata,
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("stops", sa.Integer, nullable=False),
    )
    trials = sa.Table(
        "clac_trials",
        metadata,
        sa.Column("sweep", sa.String(200), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in JSON_COLUMNS),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("holder", sa.Text),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("beat", sa.Integer, nullable=False),
        sa.Column("asked", sa.String(20), nullable=False),
    )
    return metadata, studies, trials


def from_json(text: Any, what: str, engine: sa.Engine) -> dict[str, Any]:
    """A JSON object from the database.

    Args:
        text: the content of a column.
        what: what it is about, for the message: "trial 3".
        engine: the database.

    Raises:
        StorageError: it is not a JSON object.
    """
    try:
        value = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(what, engine) from error
    if not isinstance(value, dict):
        raise damaged(what, engine)
    return value


def damaged(what: str, engine: sa.Engine) -> StorageError:
    """The error about content that the program has not written so."""
    where = shown_url(engine.url.render_as_string(hide_password=True))
    return StorageError(
        f"The database {where} is damaged: what it has on {what} cannot be read. "
        f"{advice_on_damage(engine)}"
    )
