"""The making of an index that is interrupted while it writes its parts."""

import contextlib

import pytest

from clac_jax.index import parts


@contextlib.contextmanager
def interrupted_at(name):
    """Within, an index is made, and Ctrl-C arrives when its part of this name is to be written."""
    write = parts.write

    def stop(path, part):
        if path.name == name:
            raise KeyboardInterrupt
        write(path, part)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(parts, "write", stop)
        yield
