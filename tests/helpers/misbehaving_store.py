"""A small S3 server that misbehaves by a seed: a program, so that it survives kills of its users.

    python -m helpers.misbehaving_store --seed=1    prints its port; ends when its input ends

It keeps objects in memory and answers what obstore, boto3 and TensorStore send. Three more paths:

    POST /_control    a JSON object of settings (fields of `Settings`, or a new "seed"); answers as
                      `GET /_control`
    GET /_control     what happened: requests and faults by kind, writes by object
    GET /_truth/b/k   the bytes of an object, whatever the faults
"""

import argparse
import contextlib
import json
import os
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from helpers.s3_in_memory import Buckets, Request, S3Error

# Faults, and the requests at which each may happen.
FAULTS = {
    "unavailable": "any",  # 503 without a reason
    "internal": "any",  # 500
    "throttled": "any",  # 503 SlowDown
    "reset": "any",  # the connection breaks, nothing has happened
    "slow": "any",  # an answer after `slow_seconds`
    "torn_upload": "put",  # the connection breaks in the middle of the body, nothing is stored
    "lost_answer": "write",  # it took place, and the connection breaks
    "late_answer": "write",  # it took place, and the answer comes after `late_seconds`
    "answered_twice": "conditional",  # it is carried out twice; the second answer is sent
    "false_conflict": "conditional",  # it took place, and the answer is 412
    "delayed_write": "conditional",  # the connection breaks; it is carried out some requests later
    "torn_download": "get",  # the connection breaks in the middle of the body
    "short_answer": "get",  # of a range: the last byte is missing, and the length agrees
    "lost_part": "complete",  # an upload in parts is completed without its last part
}
# Those that cost a client no more than a repeated request and its pause.
QUICK_FAULTS = [name for name in FAULTS if name not in ("late_answer", "slow", "throttled")]
ANSWERS = {
    "unavailable": (503, "ServiceUnavailable"),
    "internal": (500, "InternalError"),
    "throttled": (503, "SlowDown"),
}


@dataclass
class Settings:
    """Settings; `POST /_control` changes them."""

    faults: dict = field(default_factory=dict)  # name -> probability
    slow_seconds: float = 0.05
    late_seconds: float = 1.0
    outage: bool = False  # every request ends in a reset or in 503, in turn
    expired: bool = False  # 400 ExpiredToken
    accepted_key: str = ""  # 400 ExpiredToken for other access keys; any if empty
    denied: bool = False  # 403, with the signature of the request in the answer
    ignored_headers: list = field(default_factory=list)  # "if-match": as old stores do
    listing_lag_requests: int = 0  # listings show the objects of this many requests ago
    listing_lag_seconds: float = 0.0
    corrupted: str = ""  # objects whose name contains this are read with one bit flipped


class Reset(Exception):
    """The connection is to break."""


class Server(ThreadingHTTPServer):
    """The state that the handlers of all connections share."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, seed, port):
        self.settings = Settings()
        self.buckets = Buckets()
        self.lock = threading.RLock()
        self.random = random.Random(seed)
        self.number = 0
        self.requests, self.faults = Counter(), Counter()
        self.delayed = []  # (number of the request before which it is carried out, request)
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError | ValueError):  # a client that was killed
            super().handle_error(request, client_address)

    def register(self, method, kinds):
        """Counts a request and draws its fault; carries out writes that were delayed until now."""
        with self.lock:
            self.number += 1
            self.requests[method] += 1
            due = [entry for entry in self.delayed if entry[0] <= self.number]
            for entry in due:
                self.delayed.remove(entry)
                with contextlib.suppress(S3Error):
                    self.buckets.carry_out(entry[1])
            for name, probability in self.settings.faults.items():
                if FAULTS[name] in kinds and self.random.random() < probability:
                    self.faults[name] += 1
                    return self.number, name
            return self.number, ""

    def report(self):
        return {
            "requests": dict(self.requests),
            "faults": dict(self.faults),
            "writes": self.buckets.writes,
            "objects": sorted("/".join(name) for name in self.buckets.objects),
            "uploads": len(self.buckets.uploads),
        }


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for each answer
    disable_nagle_algorithm = True
    timeout = 120

    def log_message(self, *_):
        pass

    def handle_request(self):
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(0, self.command, bucket, key, query, headers)
        try:
            if bucket in ("_control", "_truth"):
                self.serve_tests(request)
            else:
                self.serve(request)
        except S3Error as error:
            self.answer(error.status, error.body())
        except Reset:
            self.reset()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_request

    def serve_tests(self, request):
        server = self.server
        with server.lock:
            if request.bucket == "_truth":
                bucket, _, key = request.key.partition("/")
                return self.answer(200, server.buckets.find(bucket, key).data)
            if self.command == "POST":
                changes = json.loads(self.body())
                if "seed" in changes:
                    server.random.seed(changes.pop("seed"))
                server.settings = replace(server.settings, **changes)
            self.answer(200, json.dumps(server.report()).encode())

    def serve(self, request):
        server, settings = self.server, self.server.settings
        request.number, fault = server.register(self.command, kinds_of(request))
        for name in settings.ignored_headers:
            request.headers.pop(name, None)
        request.listing_lag = settings.listing_lag_requests, settings.listing_lag_seconds
        if settings.outage:
            fault = "reset" if request.number % 2 else "unavailable"
        if fault == "torn_upload":
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            raise Reset
        request.body = self.body()
        if fault == "reset":
            raise Reset
        refuse(request, settings)
        if fault in ANSWERS:
            raise S3Error(*ANSWERS[fault])
        if fault == "slow":
            time.sleep(settings.slow_seconds)
        if fault == "delayed_write":
            with server.lock:
                server.delayed.append((request.number + server.random.randint(1, 4), request))
            raise Reset
        with server.lock:
            if fault == "lost_part":
                server.buckets.uploads.get(request.query["uploadId"], {0: b""}).popitem()
            status, body, headers = server.buckets.carry_out(request)
            if fault == "answered_twice":
                status, body, headers = server.buckets.carry_out(request)
        if fault == "false_conflict":
            raise S3Error(412, "PreconditionFailed")
        if fault == "lost_answer":
            raise Reset
        if fault == "late_answer":
            time.sleep(settings.late_seconds)
        if body and settings.corrupted and settings.corrupted in request.key:
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault == "short_answer" and status == 206:
            body = body[:-1]
        self.answer(status, body, headers, is_torn=fault == "torn_download")

    def body(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        decoded = b""
        while data:
            head, _, data = data.partition(b"\r\n")
            size = int(head.split(b";")[0], 16)
            if not size:
                break
            decoded, data = decoded + data[:size], data[size + 2 :]
        return decoded

    def answer(self, status, body, headers=None, is_torn=False):
        has_body = self.command != "HEAD" and status not in (204, 304)
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if has_body:
            self.wfile.write(body[: len(body) // 2] if is_torn else body)
        self.wfile.flush()
        if has_body and is_torn:
            raise Reset

    def reset(self):
        """Breaks the connection without a word."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            without_waiting = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, without_waiting)
            self.connection.shutdown(socket.SHUT_RDWR)


def kinds_of(request):
    """Kinds of a request, as in `FAULTS`."""
    return {
        "any",
        "get" if request.method == "GET" and request.key else "",
        "put" if request.method == "PUT" and request.key else "",
        "write" if request.method in ("PUT", "POST", "DELETE") else "",
        "complete" if request.method == "POST" and "uploadId" in request.query else "",
        "conditional" if request.condition is not None else "",
    }


def refuse(request, settings):
    """Raises the error of a request whose credentials are not accepted."""
    signature = request.headers.get("authorization", "")
    if settings.expired or settings.accepted_key not in signature:
        raise S3Error(400, "ExpiredToken", "The provided token has expired.")
    if settings.denied or not signature:
        raise S3Error(403, "AccessDenied", f"Denied: {signature}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    server = Server(arguments.seed, arguments.port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.buffer.read()  # until the program that started this closes it, or has ended
    os._exit(0)


if __name__ == "__main__":
    main()
