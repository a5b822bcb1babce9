"""An object store in memory, for tests of what is built on stores; with hooks at each request."""

import hashlib
import threading
import zlib
from pathlib import Path

from clac_jax.stores.errors import ConflictError, NotFoundError
from clac_jax.stores.version import Listed, Stored, Version


class Memory:
    """The objects of a bucket: name -> (bytes, generation). Shared by its stores.

    Args:
        counts_versions: whether equal contents have different versions, as on GCS; on S3 they have
            the same.
        late: number of the newest objects that listings leave out.
    """

    def __init__(self, counts_versions=True, late=0):
        self.objects = {}
        self.counts_versions = counts_versions
        self.late = late
        self.lock = threading.RLock()
        self.generation = 0

    def version(self, name):
        data, generation = self.objects[name]
        tag = hashlib.md5(data).hexdigest()
        return Version(tag, str(generation) if self.counts_versions else None)

    def write(self, name, data):
        self.generation += 1
        self.objects[name] = (data, self.generation)
        return self.version(name)


class MemoryStore:
    """A `Store` on a `Memory`, as one process sees it.

    Args:
        memory: the bucket.
        prefix: folder of the store.
        before, after: called with (operation, name) before a request takes effect and before its
            answer arrives; they may raise or block.
    """

    def __init__(self, memory, prefix="", before=lambda *_: None, after=lambda *_: None):
        self.memory, self.prefix = memory, prefix
        self.before, self.after = before, after
        self.url = f"s3://bucket/{prefix}".rstrip("/")

    def child(self, prefix):
        return MemoryStore(self.memory, f"{self.prefix}{prefix}/", self.before, self.after)

    def url_of(self, name):
        return f"{self.url}/{name}"

    def _request(self, operation, name, effect):
        self.before(operation, name)
        with self.memory.lock:
            result = effect(self.prefix + name)
        self.after(operation, name)
        return result

    def get(self, name, start=None, end=None):
        def effect(key):
            if key not in self.memory.objects:
                raise NotFoundError(f"There is no {key}.")
            data = self.memory.objects[key][0]
            return Stored(data[slice(start, end)], self.memory.version(key))

        return self._request("get", name, effect)

    def head(self, name):
        def effect(key):
            if key not in self.memory.objects:
                return None
            return Listed(name, len(self.memory.objects[key][0]), self.memory.version(key))

        return self._request("head", name, effect)

    def download(self, name, path):
        data = self.get(name).data
        Path(path).write_bytes(data)
        return zlib.crc32(data)

    def put(self, name, source, *, if_absent=False, if_version=None):
        data = source if isinstance(source, bytes) else Path(source).read_bytes()

        def effect(key):
            is_there = key in self.memory.objects
            wrong = if_version is not None and (
                not is_there or self.memory.version(key) != if_version
            )
            if (if_absent and is_there) or wrong:
                if is_there and self.memory.objects[key][0] == data:
                    return self.memory.version(key)  # as `Store.put`
                raise ConflictError(f"{key} is not what it was.")
            return self.memory.write(key, data)

        return self._request("put", name, effect)

    def copy(self, source, target, size):
        def effect(key):
            data = self.memory.objects.get(self.prefix + source, (b"", 0))[0]
            if len(data) != size:
                return False
            self.memory.write(key, data)
            return True

        return self._request("copy", target, effect)

    def delete(self, name):
        self._request("delete", name, lambda key: self.memory.objects.pop(key, None) and None)

    def list(self, prefix=""):
        folder = prefix.strip("/") + "/" if prefix else ""

        def effect(key):
            newest = sorted(self.memory.objects, key=lambda each: self.memory.objects[each][1])
            shown = newest[: len(newest) - self.memory.late]
            start = self.prefix + folder
            return [
                Listed(
                    each[len(self.prefix) :],
                    len(self.memory.objects[each][0]),
                    self.memory.version(each),
                )
                for each in sorted(shown)
                if each.startswith(start)
            ]

        return self._request("list", prefix, effect)
