"""The collectives of several processes, between threads of one."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from clac_jax.distributed import processes


def in_threads(monkeypatch, count, function):
    """The results of function(index) in threads that look like the processes of one run."""
    here = threading.local()
    barrier, rows = threading.Barrier(count, timeout=20), [None] * count

    def exchanged(row):
        rows[here.index] = row
        barrier.wait()
        everyone = list(rows)
        barrier.wait()
        return everyone

    def maximum(values):
        everyone = exchanged(np.asarray(values, np.int32))
        return lambda: np.max(everyone, axis=0)

    monkeypatch.setattr(processes, "are_several", lambda: True)
    monkeypatch.setattr(processes, "is_first", lambda: here.index == 0)
    monkeypatch.setattr(processes, "maximum", maximum)
    monkeypatch.setattr(processes, "bytes_from_first", lambda piece: exchanged(piece.copy())[0])
    monkeypatch.setattr(jax, "process_index", lambda: here.index)
    monkeypatch.setattr(jax, "process_count", lambda: count)

    def call(index):
        here.index = index
        return function(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))
