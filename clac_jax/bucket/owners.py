"""Who has worked in a mirror, which decides whether the bucket or the mirror counts."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from clac_jax.bucket.ledger import Ledger
from clac_jax.files.atomic import write_atomically

OWNER = ".lease"  # in the mirror: which holder of the bucket has worked here
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def dead_holders(mirror: Path) -> list[str]:
    """Nonces of holders that have ended: those that worked here, as their lock is now ours."""
    here = [each for each in _owners(mirror) if each.boot == _boot()]
    return [each.nonce for each in here if each.nonce]


def claim(mirror: Path, previous: Ledger | None, new: Ledger, continues: bool = False) -> None:
    """Records who is about to take the workdir; if it ends before `fill`, the folder still counts.

    Such a start is then the last holder, and has changed nothing here.

    Args:
        mirror: the local folder.
        previous: the ledger before the change; None if there is none.
        new: the ledger with this process as its holder, which may never be written.
        continues: whether the folder is known to continue what is in the bucket.

    Raises:
        WorkdirError: the folder cannot be written.
    """
    last = [each for each in _owners(mirror) if _is_that_of(each, previous)]
    _write_owners(mirror, [*last[:1], _Owner.of(new, is_filled=bool(last) or continues)])


def own(mirror: Path, ledger: Ledger, is_filled: bool) -> None:
    """Records the holder that works here from now on.

    Args:
        mirror: the local folder.
        ledger: the ledger with this process as its holder.
        is_filled: whether the content of the folder is that of the run.
    """
    _write_owners(mirror, [_Owner.of(ledger, is_filled)])


def is_of(mirror: Path, ledger: Ledger | None) -> bool:
    """Whether the run that held the workdir last has worked in this folder."""
    return any(_is_that_of(each, ledger) for each in _owners(mirror))


@dataclass(frozen=True)
class _Owner:
    """A holder that has worked in a mirror, or was about to.

    Attributes:
        nonce: its random number.
        boot: see `_boot`.
        holder: which holder: kept in the ledger after its release, when the nonce is gone.
        is_filled: whether the content of the folder is that of the run.
    """

    nonce: str
    boot: str
    holder: str
    is_filled: bool

    @classmethod
    def of(cls, ledger: Ledger, is_filled: bool) -> _Owner:
        """This process, as the holder in a ledger."""
        return cls(ledger.nonce, _boot(), ledger.identity, is_filled)


def _is_that_of(owner: _Owner, ledger: Ledger | None) -> bool:
    return ledger is not None and owner.is_filled and owner.holder == ledger.last_run


def fence_of(mirror: Path) -> int:
    """The largest fencing number of a run that has worked here; 0 if none has."""
    numbers = (each.holder.partition(" ")[0] for each in _owners(mirror) if each.is_filled)
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _owners(mirror: Path) -> list[_Owner]:
    try:
        values = json.loads((mirror / OWNER).read_text(encoding="utf-8"))
        return [_Owner(**each) for each in values]
    except (OSError, ValueError, TypeError):
        return []


def _write_owners(mirror: Path, owners: list[_Owner]) -> None:
    write_atomically(mirror / OWNER, json.dumps([dataclasses.asdict(each) for each in owners]))


def _boot() -> str:
    """Differs between machines, and between starts of one machine."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
