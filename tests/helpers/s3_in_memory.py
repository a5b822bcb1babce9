"""S3 in memory: objects with conditional puts, ranges, late listings and uploads in parts."""

import binascii
import hashlib
import os
import re
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import unquote
from xml.sax.saxutils import escape, unescape

XML = '<?xml version="1.0" encoding="UTF-8"?>\n'


class S3Error(Exception):
    """An answer that is an error, with a status, a code and a text."""

    def __init__(self, status, code, note=""):
        super().__init__(code)
        self.status, self.code, self.note = status, code, note

    def body(self):
        note = escape(self.note)
        return f"{XML}<Error><Code>{self.code}</Code><Message>{note}</Message></Error>".encode()


@dataclass
class Object:
    """The content of an object."""

    data: bytes

    def __post_init__(self):
        self.e_tag = f'"{hashlib.md5(self.data).hexdigest()}"'
        self.time = time.time()

    @property
    def headers(self):
        when = formatdate(self.time, usegmt=True)
        return {"ETag": self.e_tag, "Last-Modified": when, "Accept-Ranges": "bytes"}


@dataclass
class Request:
    """A request as it arrived; `number` counts them."""

    number: int
    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]  # with names in lower case
    body: bytes = b""
    listing_lag: tuple[int, float] = (0, 0.0)  # listings are late by requests and by seconds

    @property
    def condition(self):
        """ "*" or a tag, of a conditional put."""
        if self.method != "PUT":
            return None
        return self.headers.get("if-none-match") or self.headers.get("if-match")


@dataclass
class Buckets:
    """All objects, and the history of their writes."""

    names: set = field(default_factory=set)
    objects: dict = field(default_factory=dict)  # (bucket, key) -> Object
    uploads: dict = field(default_factory=dict)  # id -> number of the part -> bytes
    events: list = field(default_factory=list)  # (request number, time, bucket, key, Object | None)
    writes: dict = field(default_factory=dict)  # "bucket/key" -> the start of each content it had

    def carry_out(self, request):
        """Carries a request out; returns status, body and headers of the answer."""
        if request.method == "PUT" and not request.key:
            self.names.add(request.bucket)
            return 200, b"", {}
        if request.bucket not in self.names:
            raise S3Error(404, "NoSuchBucket")
        if not request.key:
            if "delete" in request.query:
                return self._delete_many(request)
            return (200, self._listing(request) if request.method == "GET" else b"", {})
        if "uploads" in request.query or "uploadId" in request.query:
            return self._upload_parts(request)
        if request.method == "PUT" and (source := request.headers.get("x-amz-copy-source")):
            data = self.find(*unquote(source).lstrip("/").split("/", 1)).data
            e_tag = escape(self._store(request, data).e_tag)
            return (
                200,
                f"{XML}<CopyObjectResult><ETag>{e_tag}</ETag></CopyObjectResult>".encode(),
                {},
            )
        if request.method == "PUT":
            return 200, b"", {"ETag": self._store(request, request.body).e_tag}
        if request.method == "DELETE":
            self._delete(request, request.key)
            return 204, b"", {}
        return self._read(request)

    def find(self, bucket, key):
        """The object of a name."""
        if (bucket, key) not in self.objects:
            raise S3Error(404, "NoSuchKey")
        return self.objects[bucket, key]

    def _store(self, request, data):
        name, condition = (request.bucket, request.key), request.condition
        present = self.objects.get(name)
        if condition == "*" and present:
            raise S3Error(412, "PreconditionFailed")
        if condition not in (None, "*"):
            if present is None:
                raise S3Error(404, "NoSuchKey")
            if present.e_tag != condition:
                raise S3Error(412, "PreconditionFailed")
        stored = self.objects[name] = Object(data)
        self.events.append((request.number, time.time(), *name, stored))
        start = data[:100].decode("utf-8", "replace")
        self.writes.setdefault("/".join(name), []).append(start)
        return stored

    def _delete(self, request, key):
        if self.objects.pop((request.bucket, key), None):
            self.events.append((request.number, time.time(), request.bucket, key, None))

    def _delete_many(self, request):
        keys = re.findall(r"<Key>(.*?)</Key>", request.body.decode(), re.DOTALL)
        for key in keys:
            self._delete(request, unescape(key, {"&quot;": '"', "&apos;": "'"}))
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        return 200, f"{XML}<DeleteResult>{deleted}</DeleteResult>".encode(), {}

    def _read(self, request):
        stored = self.find(request.bucket, request.key)
        size, headers = len(stored.data), stored.headers
        if (tag := request.headers.get("if-match")) and tag != stored.e_tag:
            raise S3Error(412, "PreconditionFailed")
        if request.headers.get("if-none-match") == stored.e_tag:
            return 304, b"", headers
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
        if not wanted or request.method == "HEAD":
            return 200, stored.data, headers
        first, last = wanted.groups()
        start = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if start >= end:
            raise S3Error(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return 206, stored.data[start:end], headers

    def _listed(self, request, prefix):
        """Objects by name, as they were some requests or seconds ago."""
        requests, seconds = request.listing_lag
        found = {}
        for number, moment, bucket, key, stored in self.events:
            is_seen = number <= request.number - requests and moment <= time.time() - seconds
            if is_seen and bucket == request.bucket and key.startswith(prefix):
                found[key] = stored
        return {key: found[key] for key in sorted(found) if found[key]}

    def _listing(self, request):
        query = request.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        after = query.get("continuation-token") or query.get("start-after", "")
        found = self._listed(request, prefix)
        names = [name for name in found if name > after]
        page = names[: int(query.get("max-keys", 1000))]
        items, folders = [], {}
        for name in page:
            folder, separator, _ = name[len(prefix) :].partition(delimiter or "\0")
            if separator:
                folder = escape(prefix + folder + separator)
                folders[f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"] = None
                continue
            stored = found[name]
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stored.time))
            items.append(
                f"<Contents><Key>{escape(name)}</Key><LastModified>{when}</LastModified>"
                f"<ETag>{escape(stored.e_tag)}</ETag><Size>{len(stored.data)}</Size></Contents>"
            )
        next_page = ""
        if has_more := len(page) < len(names):
            next_page = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"
        return (
            f"{XML}<ListBucketResult><Name>{request.bucket}</Name><KeyCount>{len(items)}</KeyCount>"
            f"<IsTruncated>{str(has_more).lower()}</IsTruncated>{next_page}{''.join(items)}"
            f"{''.join(folders)}</ListBucketResult>"
        ).encode()

    def _upload_parts(self, request):
        bucket, key = request.bucket, escape(request.key)
        if "uploads" in request.query:
            upload = binascii.hexlify(os.urandom(8)).decode()
            self.uploads[upload] = {}
            return (
                200,
                _in_tags("InitiateMultipartUploadResult", bucket, key, "UploadId", upload),
                {},
            )
        upload = request.query["uploadId"]
        if upload not in self.uploads:
            raise S3Error(404, "NoSuchUpload")
        if request.method == "PUT":
            self.uploads[upload][int(request.query["partNumber"])] = request.body
            return 200, b"", {"ETag": Object(request.body).e_tag}
        parts = self.uploads.pop(upload)
        if request.method == "DELETE":
            return 204, b"", {}
        e_tag = escape(self._store(request, b"".join(parts[n] for n in sorted(parts))).e_tag)
        return 200, _in_tags("CompleteMultipartUploadResult", bucket, key, "ETag", e_tag), {}


def _in_tags(result, bucket, key, name, value):
    inner = f"<Bucket>{bucket}</Bucket><Key>{key}</Key><{name}>{value}</{name}>"
    return f"{XML}<{result}>{inner}</{result}>".encode()
