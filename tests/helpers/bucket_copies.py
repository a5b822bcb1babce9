"""Folders copied to a bucket and changed there, as by a tool that copies files."""

from pathlib import Path

from clac_jax.stores.store import open_store


def copy_to(folder, url):
    """Copies the files of a folder, one by one."""
    store = open_store(url)
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            store.put(path.relative_to(folder).as_posix(), path)
    return url


def names_in(url):
    return [each.name for each in open_store(url).list()]


def flip_bit(url, name):
    store = open_store(url)
    content = bytearray(store.get(name).data)
    content[len(content) // 2] ^= 1
    store.put(name, bytes(content))


class FailingPuts:
    """Makes `Store.put` fail from the n-th call on; counts the calls."""

    def __init__(self, monkeypatch, error, after):
        from clac_jax.stores.store import Store

        self.calls, original = [], Store.put

        def put(store, name, *args, **options):
            if ".write_probe" not in name:
                self.calls.append(name)
                if len(self.calls) > after:
                    raise error
            return original(store, name, *args, **options)

        monkeypatch.setattr(Store, "put", put)
