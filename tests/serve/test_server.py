"""A real server in a process of its own, with good, bad, many and interrupted requests."""

import base64
import concurrent.futures
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.paths import ROOT
from helpers.word_model import TABLE, WordModel, crystal_with

from clac_jax.crystals.crystal import Crystal
from clac_jax.serve.app import HEADERS
from clac_jax.serve.messages import MAX_ATOMS, MAX_BODY, MAX_TEXT
from clac_jax.serve.server import ServerError, is_loopback, listen

JSON = {"Content-Type": "application/json"}


def start(folder):
    """A server process and its port."""
    (folder / "map").mkdir()
    (folder / "map" / "index.html").write_text("<title>the map</title>")
    (folder / "map" / "data.js").write_text("var data = 1;")
    (folder / "secret.txt").write_text("secret")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers.serve_words", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    return process, int(process.stdout.readline())


def stop(process, number=signal.SIGTERM):
    """(exit code, standard error) after a signal."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    process, port = start(tmp_path_factory.mktemp("serve"))
    yield port
    code, errors = stop(process)
    assert code == 0
    assert errors.count("Traceback") == 1  # of the request that fails on purpose


def request(port, method, path, body=None, headers=None):
    """(status, headers, content) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, JSON if headers is None else headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def post(port, path, **values):
    status, _, content = request(port, "POST", path, json.dumps(values))
    return status, json.loads(content)


def search(port, **values):
    status, content = post(port, "/search", **values)
    assert status == 200, content
    return content


def test_a_search_finds_what_the_library_finds(server):
    content = search(server, text="Pb O", k=2)
    assert len(content["hits"]) == 2 and content["hits"][0]["id"] == "a-5"
    (hit,) = search(server, text="Mg O white", where="band_gap > 3", k=1)["hits"]
    assert hit["row"] == 2 and hit["formula"] == "MgO" and hit["sentence"] == "Mg O ceramic."
    assert hit["properties"]["band_gap"] == 4.5
    assert content["model"]["checksum"] == WordModel().checksum
    assert content["index"]["count"] == len(TABLE) and content["took_ms"] > 0


def test_all_kinds_of_queries(server):
    cif = crystal_with(("Te", "Pb")).to_cif()
    assert search(server, crystal=cif, k=1)["hits"][0]["id"] == "a-4"
    assert search(server, row=5, k=1)["hits"][0]["id"] == "a-6"
    hits = search(server, **{"text": ["Pb", "O"], "not": "Te", "not_weight": 1}, k=1)["hits"]
    assert hits[0]["id"] == "a-5"
    assert search(server, text="Pb O", min_score=2)["hits"] == []
    assert search(server, text="Pb O", sentences=False, k=1)["hits"][0]["sentence"] is None


def test_the_scores_of_all_rows_are_sent_if_requested(server):
    content = search(server, text="Ti O", scores=True, k=6)
    scores = np.frombuffer(base64.b64decode(content["all"]), "<f2")
    assert len(scores) == len(TABLE)
    for hit in content["hits"]:
        assert scores[hit["row"]] == pytest.approx(hit["score"], abs=1e-3)
    assert "all" not in search(server, text="Ti O")


def test_vectors_of_texts_and_crystals(server):
    cif = crystal_with(("Ti", "O")).to_cif()
    status, content = post(server, "/embed", text=["Ti O", "Na"], crystal=cif)
    assert status == 200 and content["dim"] == WordModel.dim
    np.testing.assert_allclose(content["texts"], WordModel().embed_texts(["Ti O", "Na"]), atol=1e-6)
    np.testing.assert_allclose(content["crystals"], content["texts"][:1], atol=1e-6)


def test_health_and_pages(server):
    status, headers, content = request(server, "GET", "/health")
    assert status == 200 and json.loads(content)["status"] == "ok"
    assert json.loads(content)["has_map"] is True
    status, headers, _ = request(server, "GET", "/")
    assert status == 307 and headers["location"] == "/map/"
    for path, words in (("/map/", b"the map"), ("/map/data.js", b"var data")):
        status, headers, content = request(server, "GET", path)
        assert status == 200 and words in content
        assert {name: headers[name] for name in HEADERS} == HEADERS
        assert "server" not in headers and "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "path",
    [
        "/map/../secret.txt",
        "/map/..%2fsecret.txt",
        "/map/%2e%2e/secret.txt",
        "/map//../secret.txt",
        "/map/..%5csecret.txt",
        "/secret.txt",
        "/map/nothing.js",
        "/map/%00",
        "//etc/passwd",
    ],
)
def test_no_other_file_is_served(server, path):
    status, headers, content = request(server, "GET", path)
    assert status in (400, 404) and b"secret" not in content.replace(b"secret.txt", b"")
    assert headers["content-type"] == "application/json" and "error" in json.loads(content)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("", 400, "is not JSON"),
        ("{", 400, "is not JSON"),
        ("[" * 100_000, 400, "is not JSON"),
        (b"\xff\xfe", 400, "is not JSON"),
        ('{"text": "a", "min_score": NaN}', 400, "NaN is not a number"),
        ('{"text": "a", "min_score": 1e999}', 400, "min_score is float"),
        ('{"text": "a", "k": ' + "9" * 5000 + "}", 400, "is not JSON"),
        ("[1, 2]", 400, "not a JSON object"),
        ("{}", 400, "The query is empty"),
        ('{"text": 3}', 400, "text is int 3. Give a string"),
        ('{"text": ["a", 3]}', 400, "a list of strings"),
        ('{"text": "  "}', 400, "is empty"),
        ('{"text": "\\ud800"}', 400, "not valid Unicode"),
        ('{"text": "a", "K": 3}', 400, "There is no key 'K'. The keys are text, not"),
        ('{"text": "a", "k": 0}', 400, "k is 0"),
        ('{"text": "a", "k": 1000000}', 400, "Ask for 1 to 1,000"),
        ('{"text": "a", "k": true}', 400, "k is bool True. Give an integer"),
        ('{"text": "a", "k": 1.5}', 400, "Give an integer"),
        ('{"text": "a", "not": "b", "not_weight": -1}', 400, "weight -1.0"),
        ('{"text": "a", "sentences": "no"}', 400, "Give true or false"),
        ('{"row": 6}', 400, "There is no row 6"),
        ('{"row": -1}', 400, "There is no row -1"),
        ('{"text": "a", "where": "gap > 1"}', 400, "no column gap"),
        ('{"text": "a", "where": "__import__(1)"}', 400, "not supported"),
        ('{"text": "a", "where": "' + "x" * 3000 + '"}', 400, "more than 2,000 characters"),
        ('{"crystal": "data_x"}', 400, "no atom sites"),
        ('{"crystal": "/etc/passwd"}', 400, "The crystal cannot be used"),
        (json.dumps({"text": ["a"] * 33}), 400, "Use at most 32"),
        (json.dumps({"text": "a" * (MAX_TEXT + 1)}), 413, "Use at most 10,000"),
        (" " * (MAX_BODY + 1), 413, "larger than"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_bad_bodies_are_explained(server, body, status, words):
    found, headers, content = request(server, "POST", "/search", body)
    assert (found, headers["content-type"]) == (status, "application/json")
    message = json.loads(content)["error"]
    assert words in message and "Traceback" not in message


def test_crystals_that_are_too_large_are_refused(server):
    places = np.stack(np.meshgrid(*3 * [np.arange(8) / 8]), axis=-1).reshape(-1, 3)
    assert len(places) > MAX_ATOMS
    crystal = Crystal.from_arrays(30 * np.eye(3), [11] * len(places), places)
    status, content = post(server, "/search", crystal=crystal.to_cif())
    assert status == 413 and "512 atoms" in content["error"]


def test_other_types_methods_and_hosts_are_refused(server):
    body = '{"text": "a"}'
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/jsonp"}):
        status, _, content = request(server, "POST", "/search", body, headers)
        assert status == 415 and "Content-Type" in json.loads(content)["error"]
    for own in ('Application/JSON; charset="utf-8"', "application/json;charset=UTF-8; x=1"):
        assert request(server, "POST", "/search", body, {"Content-Type": own})[0] == 200
    for method, path, expected in (("GET", "/search", 405), ("POST", "/health", 405),
                                   ("PUT", "/map/x", 405), ("GET", "/docs", 404)):  # fmt: skip
        status, _, content = request(server, method, path)
        assert status == expected and "error" in json.loads(content)
    own_names = (f"localhost:{server}", f"LOCALHOST:{server}", "localhost.", "localhost:", "[::1]")
    hosts = (*((name, 200) for name in own_names), ("evil.example", 403), ("", 403), (":", 403))
    for host, expected in hosts:
        status, _, _ = request(server, "GET", "/health", None, {"Host": host})
        assert status == expected


def test_a_failure_inside_is_reported_without_its_details(server):
    status, content = post(server, "/search", text="broken")
    assert status == 500 and "secret" not in content["error"]
    assert search(server, text="Pb O", k=1)["hits"][0]["id"] == "a-5"


def test_many_concurrent_clients_get_their_own_answers(server):
    texts = [" ".join(row[1]) for row in TABLE]

    def ask(number):
        body = json.dumps({"text": texts[number % 6], "k": 1, "where": "n_atoms < 9"})
        if number % 5 == 4:  # a bad one among them
            return request(server, "POST", "/search", body.replace('"k": 1', '"k": 0'))[0]
        return json.loads(request(server, "POST", "/search", body)[2])["hits"][0]["row"]

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(100)))
    assert answers == [400 if number % 5 == 4 else number % 6 for number in range(100)]


def test_a_client_that_hangs_or_leaves_stops_no_other(server):
    for content in (b"", b"POST /search HTTP/1.1\r\nHost: localhost\r\n", b"\x00\x01\x02\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server)) as connection:
            connection.sendall(content)
            assert search(server, text="Pb O", k=1)["hits"]


def test_a_signal_lets_requests_finish_and_ends_with_code_0(tmp_path):
    process, port = start(tmp_path)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answer = pool.submit(search, port, text="slow Pb O", k=1)
        time.sleep(1)
        code, errors = stop(process, signal.SIGINT)
        assert answer.result()["hits"][0]["row"] == 4
    assert (code, errors) == (0, "")


def test_a_port_in_use_is_explained():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"Cannot listen on 127.0.0.1:{port}: .*in use"):
            listen("127.0.0.1", port)
    with pytest.raises(ServerError, match="Choose another --port"):
        listen("127.0.0.1", 99999)
    with pytest.raises(ServerError, match="--host is empty"):  # to the system, all interfaces
        listen("", 0)


def test_addresses_that_only_this_machine_reaches():
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost", "127.9.9.9")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "example.org")))


def test_a_client_that_leaves_in_the_middle_of_a_body_is_not_an_error(server):
    """The fixture counts the tracebacks."""
    head = "POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n"
    with socket.create_connection(("127.0.0.1", server)) as connection:
        connection.sendall(f'{head}Content-Type: application/json\r\n\r\n{{"text": '.encode())
    assert search(server, text="Pb O", k=1)["hits"]
