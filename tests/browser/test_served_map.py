"""The page under `clac-jax serve`: queries are answered by the model, as on the command line."""

import contextlib
import shutil
import socket
import threading

import pytest
import uvicorn
from helpers.browser import CHROMIUM, Visit, chromium
from helpers.word_model import WordModel, words_index

from clac_jax.index.query import Query
from clac_jax.index.search import Options, Searcher
from clac_jax.map.data import read
from clac_jax.map.page import write_page
from clac_jax.serve.app import Settings, make_app

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
]


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    return Searcher(words_index(tmp_path_factory.mktemp("words")), WordModel())


@pytest.fixture(scope="module")
def folder(searcher, tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "map"
    write_page(read(searcher.index, "pca", 0), path)
    return path


@contextlib.contextmanager
def serving(searcher, folder):
    """The address of the service, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = make_app(searcher, Settings(folder))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def visiting(searcher, folder, fragment=""):
    with chromium() as browser, serving(searcher, folder) as address:
        one = Visit(browser, address + fragment)
        yield one
        assert one.elsewhere == [] and one.failed == []
        one.page.close()


def test_queries_are_ranked_as_by_the_search_of_the_command_line(searcher, folder):
    with visiting(searcher, folder) as one:
        assert one.page.inner_text("#mode") == "model search"
        for text, query in (
            ("Ti O", Query(("Ti O",))),
            ("Mg O", Query(("Mg O",))),
            ("O -Ti", Query(("O",), not_texts=("Ti",))),
        ):
            one.search(text)
            hits = searcher.search(query, Options(50))
            assert one.hits() == [hit.id for hit in hits]
            shown = one.page.locator("#hits td.num:last-child").all_inner_texts()
            assert [float(s) for s in shown] == pytest.approx([h.score for h in hits], abs=1e-3)
        assert "ranked by the model" in one.page.inner_text("#results-note")
        # The sentence that the model finds closest arrives after the hits.
        one.search("Ti O")
        marked = one.page.wait_for_selector("#crystal mark").inner_text()
        assert marked == "Ti O oxide."
        # All crystals have a score, and so a colour.
        assert one.ask("Array.from(ClacMap.result.scores).every(Number.isFinite)")
        assert one.messages == []


def test_a_refused_query_is_explained(searcher, folder):
    with visiting(searcher, folder) as one:
        one.search("x" * 20_000)
        assert "characters" in one.page.inner_text("#message")


def test_a_map_of_a_different_index_searches_words_only(searcher, folder, tmp_path):
    copy = tmp_path / "map"
    shutil.copytree(folder, copy)
    head = copy / "data" / "head.js"
    head.write_text(head.read_text().replace(searcher.index.checksum, "0" * 64))
    with visiting(searcher, copy) as one:
        assert one.page.inner_text("#mode") == "word search"
        assert "Make the map again" in one.page.inner_text("#message")
        assert one.messages == []
