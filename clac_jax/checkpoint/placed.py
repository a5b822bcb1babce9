"""The comparison of a restored state, once it is on the devices, with its checkpoint's digests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.matching import Match
from clac_jax.digests.digest import TOTAL, Digest, part_of
from clac_jax.digests.host import array_digest, state_digests
from clac_jax.errors import UserError, shown


class WrongStateError(UserError):
    """The state on a device is not the one that was saved."""

    prevents_saving = True


def expected_digests(
    info: CheckpointInfo,
    matches: Sequence[Match],
    restored: Mapping[str, Any],
    arrays: Mapping[str, Any],
) -> dict[str, Digest]:
    """The digests that the initial state of a run must have on the devices, by part of the state.

    Parts that were restored only in part, or into arrays with other paths, shapes or dtypes, are
    left out, and so are those of which the checkpoint has no digest.

    Args:
        info: description of the checkpoint.
        matches: outcome for each array.
        restored: slash path -> array, as restored.
        arrays: the same, some of them replaced by new ones.
    """
    changed = {m.name for m in matches if m.outcome != "restored" or m.path != m.source}
    for path, leaf in info.leaves.items():
        now = arrays.get(path)
        if now is None or (now.shape, str(now.dtype)) != (leaf.shape, leaf.dtype):
            changed.add(path)
    incomplete = {part_of(path) for path in changed}
    result = {}
    for part, text in info.digests.items():
        if part == TOTAL or part in incomplete:
            continue
        digest = Digest.of_text(text)
        for path in arrays:
            if part_of(path) == part and arrays[path] is not restored[path]:
                digest += array_digest(path, arrays[path])
                digest -= array_digest(path, restored[path])
        result[part] = digest
    return result


def check_placed(
    source: str,
    expected: Mapping[str, Digest],
    found: Sequence[Mapping[str, Digest]],
    arrays: Mapping[str, Any],
) -> None:
    """Compares the digests of a restored state on each device with the expected ones.

    Args:
        source: the checkpoint, for messages.
        expected: part of the state -> digest.
        found: the same for each local device.
        arrays: slash path -> array in host memory that was copied to the devices; sharded arrays
            are on the devices.

    Raises:
        WrongStateError: they differ; the message says whether the checkpoint or the memory of this
            machine is wrong.
    """
    for device, digests in enumerate(found):
        for part, digest in expected.items():
            if digests[part] != digest:
                raise WrongStateError(_explain(shown(source), device, part, digest, arrays))


def _explain(
    source: str, device: int, part: str, expected: Digest, arrays: Mapping[str, Any]
) -> str:
    some = {path: array for path, array in arrays.items() if part_of(path) == part}
    what = f"After restoring {source}, {part} on local device {device} is not what was saved"
    if not all(isinstance(array, np.ndarray) for array in some.values()):
        return f"{what}. Start the same command again, on a different machine if this returns."
    if state_digests(some)[part] == expected:
        return (
            f"{what}, although it was read correctly: the memory of that device or the transfer to "
            "it is faulty. Start the same command again, on a different machine if this returns."
        )
    return (
        f"{what}: its files are as they were written, but they were written from a faulty copy of "
        "the state, or were read into faulty memory. Start the same command again; if this "
        "returns, remove that checkpoint with `clac-jax ckpt rm`, and the one before is used."
    )
