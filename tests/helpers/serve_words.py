"""A server of `words_index`, in a process of its own: python -m helpers.serve_words FOLDER."""

import sys
from pathlib import Path

from clac_jax.index.search import Searcher
from clac_jax.serve import server
from clac_jax.serve.app import Settings
from helpers.word_model import WordModel, words_index


class SlowWords(WordModel):
    """Takes two seconds for one text, so that requests can be made to wait."""

    def embed_texts(self, texts, **options):
        import time

        if any("slow" in text.split() for text in texts):
            time.sleep(2)
        if any("broken" in text.split() for text in texts):
            raise RuntimeError("a secret of the server")
        return super().embed_texts(texts)


def main(folder):
    model = SlowWords()
    searcher = Searcher(words_index(folder, model), model)
    listening = server.listen("127.0.0.1", 0)
    with listening:
        print(listening.getsockname()[1], flush=True)
        settings = Settings(folder / "map", server.host_names("127.0.0.1"), answer_seconds=30.0)
        server.serve(searcher, settings, listening)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
