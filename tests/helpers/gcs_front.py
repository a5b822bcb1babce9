"""The XML API of Google Cloud Storage, before fake-gcs-server, which writes by the JSON API only.

obstore uses the XML API, TensorStore the JSON API: this server, in a thread, passes requests of the
JSON API on unchanged and translates those of the XML API, so both see the same objects. Uploads in
parts are collected here.
"""

import http.client
import json
import re
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit
from xml.sax.saxutils import escape

from helpers.s3_in_memory import XML, S3Error

JSON_API = ("storage", "upload", "download", "resumable", "batch")
# Of an XML request, the header with a condition; of a JSON request, the parameter.
CONDITION = "x-goog-if-generation-match"


class Front(ThreadingHTTPServer):
    """Server with the port of fake-gcs-server and the uploads in progress."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port):
        self.backend_port = port
        self.uploads = {}
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # fake-gcs-server has not started yet
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    timeout = 120

    def log_message(self, *_):
        pass

    def handle_request(self):
        url = urlsplit(self.path)
        self.bucket, _, self.key = unquote(url.path).lstrip("/").partition("/")
        self.query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        length = int(self.headers.get("Content-Length") or 0)
        self.content = self.rfile.read(length)
        try:
            if self.bucket in JSON_API:
                headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                self.answer(*self.ask(self.command, self.path, self.content, headers))
            else:
                self.answer(*self.translate())
        except S3Error as error:
            self.answer(error.status, error.body(), {})

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_request

    def ask(self, method, path, body=b"", headers=None):
        """A request to fake-gcs-server: status, body and headers of its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.backend_port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()

    def translate(self):
        if not self.key:
            return 200, self.listing(), {}
        if "uploads" in self.query or "uploadId" in self.query:
            return self.upload_parts()
        if self.command == "PUT" and "x-goog-copy-source" in self.headers:
            return self.copy(unquote(self.headers["x-goog-copy-source"]).lstrip("/"))
        if self.command == "PUT":
            return 200, b"", self.store(self.content)
        if self.command == "DELETE":
            self.check(*self.ask("DELETE", self.object_path()))
            return 204, b"", {}
        return self.read()

    def object_path(self):
        return f"/storage/v1/b/{quote(self.bucket)}/o/{quote(self.key, safe='')}"

    def check(self, status, body, _headers):
        """Raises the XML error of a JSON answer; returns its body."""
        if status < 300:
            return body
        if status == 404:
            bucket, _, _ = self.ask("GET", f"/storage/v1/b/{quote(self.bucket)}")
            raise S3Error(404, "NoSuchKey" if bucket == 200 else "NoSuchBucket")
        raise S3Error(status, "PreconditionFailed" if status == 412 else "Error")

    def store(self, data):
        # fake-gcs-server checks conditions of this type of upload only.
        query = {"uploadType": "multipart", "name": self.key}
        if CONDITION in self.headers:
            query["ifGenerationMatch"] = self.headers[CONDITION]
        path = f"/upload/storage/v1/b/{quote(self.bucket)}/o?{urlencode(query)}"
        line = secrets.token_hex(16).encode()
        facts = json.dumps({"name": self.key}).encode()
        parts = (b"application/json", facts), (b"application/octet-stream", data)
        body = b"".join(b"--%b\r\nContent-Type: %b\r\n\r\n%b\r\n" % (line, *part) for part in parts)
        kind = {"Content-Type": f"multipart/related; boundary={line.decode()}"}
        facts = json.loads(self.check(*self.ask("POST", path, body + b"--%b--\r\n" % line, kind)))
        return headers_of(facts)

    def copy(self, source):
        bucket, _, key = source.partition("/")
        path = f"/storage/v1/b/{quote(bucket)}/o/{quote(key, safe='')}?alt=media"
        headers = self.store(self.check(*self.ask("GET", path)))
        return 200, in_tags("CopyObjectResult", "ETag", headers["ETag"]), headers

    def read(self):
        facts = json.loads(self.check(*self.ask("GET", self.object_path())))
        size, headers = int(facts["size"]), headers_of(facts)
        if self.command == "HEAD":
            return 200, bytes(size), headers
        # By generation: the object may have been replaced since.
        path = f"{self.object_path()}?alt=media&generation={facts['generation']}"
        data = self.check(*self.ask("GET", path))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return 200, data, headers
        start, end = int(wanted[1]), min(size, int(wanted[2] or size - 1) + 1)
        if start >= end:
            raise S3Error(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return 206, data[start:end], headers

    def listing(self):
        query = urlencode({"prefix": self.query.get("prefix", "")})
        path = f"/storage/v1/b/{quote(self.bucket)}/o?{query}"
        found = json.loads(self.check(*self.ask("GET", path))).get("items", [])
        items = "".join(
            f"<Contents><Key>{escape(item['name'])}</Key><Size>{item['size']}</Size>"
            f"<LastModified>{item['updated']}</LastModified>"
            f"<ETag>{escape(headers_of(item)['ETag'])}</ETag></Contents>"
            for item in found
        )
        return f"{XML}<ListBucketResult>{items}</ListBucketResult>".encode()

    def upload_parts(self):
        uploads, upload = self.server.uploads, self.query.get("uploadId", "")
        if "uploads" in self.query:
            upload = secrets.token_hex(8)
            uploads[upload] = {}
            return 200, in_tags("InitiateMultipartUploadResult", "UploadId", upload), {}
        if upload not in uploads:
            raise S3Error(404, "NoSuchUpload")
        if self.command == "PUT":
            uploads[upload][int(self.query["partNumber"])] = self.content
            return 200, b"", {"ETag": f'"{len(self.content)}"'}
        parts = uploads.pop(upload)
        if self.command == "DELETE":
            return 204, b"", {}
        headers = self.store(b"".join(parts[number] for number in sorted(parts)))
        return 200, in_tags("CompleteMultipartUploadResult", "ETag", headers["ETag"]), headers

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date"):
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body)
        self.wfile.flush()


def in_tags(result, name, value):
    """An XML answer with one value."""
    return f"{XML}<{result}><{name}>{escape(value)}</{name}></{result}>".encode()


def headers_of(facts):
    """Headers of an XML answer, from the JSON description of an object."""
    when = "Thu, 01 Jan 2026 00:00:00 GMT"
    tag = f'"{facts["md5Hash"]}"'
    return {"ETag": tag, "x-goog-generation": str(facts["generation"]), "Last-Modified": when}


@contextmanager
def front_of(port: int) -> Iterator[str]:
    """Serves both APIs of the fake-gcs-server at a port; yields the endpoint."""
    server = Front(port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
