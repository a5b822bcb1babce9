"""Sentence splitting, random text views, tokenization and token masking."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencex
import tokenizers

from clac_jax.errors import UserError, one_line
from clac_jax.files.huggingface import resolve_folder
from clac_jax.files.json import read_json_object, read_text

IGNORED_LABEL = -100
"""Label of the tokens that do not contribute to the language-model loss."""

_ENDS_SENTENCE = re.compile(r"""[.!?…]["'”’)\]]*$""")
# Abbreviations in papers that sentencex does not know; the sentence continues after them.
_ENDS_ABBREVIATED = re.compile(
    # Not "Ca.", "Cf." and "No.", which may be elements at the end of a sentence.
    r"(?:^|[\s(\[])(?:[Aa]pprox|ca|cf|vs|[Ee]qs?|[Rr]efs?|[Ff]igs?|[Tt]abs?|resp|nos?)\.$"
    r"|\b(?:e\.g|i\.e|et al)\.$"
)
_STARTS_LIKE_A_SENTENCE = re.compile(r"""["'“‘(\[]*(?:[^\W\da-zα-ω]|[a-zα-ω][-‐–]|\d)""")
# sentencex mistakes element symbols, units and the end of "C2/m" for titles or abbreviations.
_SYMBOL_THEN_SENTENCE = re.compile(
    r"(?<=[\s,/(–-])(?:Sr|Mg|Mo|No|Co|[A-Z]|[a-dhmns])\)?\.\s+"
    r"(?=(?:A|An|All|Each|Every|In|It|Its|Of|On|The|There|These|This|Those|Both|Two|With)\s)"
)


# A word, a number, symbols, and characters that a vocabulary may lack.
_ALL_KINDS_OF_TEXT = "a Zx9qj 0.5 \u00c5 \u03b1 \u65e5\u672c \U0001f701 \x7f\n"
_MAX_UNUSED_IDS = 100_000  # gaps that a vocabulary may have


class TokenizerError(UserError, ValueError):
    """A tokenizer cannot be read or lacks a token that is required."""


def split_sentences(text: str) -> list[str]:
    """Splits a narrative into sentences, with whitespace normalized to single spaces.

    The boundaries are those of sentencex, corrected for crystallographic text: an abbreviation
    ("approx.", "eq.") or a line break does not end a sentence; an element symbol, a unit or a space
    group ("Sr.", "3 K.", "C2/m.") followed by a word that opens a sentence does.

    Returns:
        The sentences; an empty list for a text that is empty or only whitespace.
    """
    sentences: list[str] = []
    continues = False  # whether the last sentence is unfinished
    for raw in sentencex.segment("en", text):
        piece = " ".join(raw.split())
        if not piece:
            continue
        if continues and sentences:
            sentences[-1] += " " + piece
        else:
            sentences.append(piece)
        # Wrapped lines are joined later, where the start of the next piece is known.
        continues = _ENDS_ABBREVIATED.search(piece) is not None
    return _split_after_symbols(_join_wrapped(sentences))


def _join_wrapped(sentences: list[str]) -> list[str]:
    """Joins a piece without a final period to a next one that does not start a sentence."""
    joined: list[str] = []
    for piece in sentences:
        if (
            joined
            and not _ENDS_SENTENCE.search(joined[-1])
            and not _STARTS_LIKE_A_SENTENCE.match(piece)
        ):
            joined[-1] += " " + piece
        else:
            joined.append(piece)
    return joined


def _split_after_symbols(sentences: list[str]) -> list[str]:
    parts: list[str] = []
    for sentence in sentences:
        start = 0
        for match in _SYMBOL_THEN_SENTENCE.finditer(sentence):
            parts.append(sentence[start : match.end()].rstrip())
            start = match.end()
        parts.append(sentence[start:] if start else sentence)
    return parts


def chosen_sentences(number: int, rng: np.random.Generator, keep_prob: float = 0.5) -> np.ndarray:
    """(kept,) int64: a random subset of `number` sentences in random order.

    Args:
        number: number of sentences; 0 gives none.
        rng: source of randomness.
        keep_prob: probability of keeping each sentence. If none is kept, one drawn uniformly is.

    Raises:
        ValueError: `keep_prob` is not between 0 and 1.
    """
    if not 0.0 <= keep_prob <= 1.0:
        raise ValueError(f"keep_prob is {keep_prob}; it must lie between 0 and 1")
    if not number:
        return np.zeros(0, np.int64)
    kept = np.flatnonzero(rng.random(number) < keep_prob)
    if kept.size == 0:
        kept = rng.integers(number, size=1)
    return rng.permutation(kept)


def text_view(sentences: Sequence[str], rng: np.random.Generator, keep_prob: float = 0.5) -> str:
    """A random view of a text: some of its sentences, see `chosen_sentences`.

    Raises:
        ValueError: `keep_prob` is not between 0 and 1.
    """
    return " ".join(sentences[i] for i in chosen_sentences(len(sentences), rng, keep_prob))


class Tokenizer:
    """A Hugging Face tokenizer: immutable, hence thread-safe, and picklable.

    Attributes:
        pad_id: id of the padding token.
        mask_id: id of the mask token; None if the vocabulary has none.
        special_ids: ids of the special tokens, which are never masked.
        vocab_size: number of ids, including special and unused ones.
    """

    pad_id: int
    mask_id: int | None
    special_ids: frozenset[int]
    vocab_size: int

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        pad_token: str | None = None,
        mask_token: str | None = None,
    ):
        """Wraps a backend and disables its padding and truncation.

        Args:
            backend: the tokenizer, which must not be used elsewhere afterwards.
            pad_token: padding token; None tries the usual names.
            mask_token: mask token; None tries the usual names.

        Raises:
            TokenizerError: there is no padding token, or the ids are far from contiguous.
        """
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        largest = max(backend.get_vocab(with_added_tokens=True).values(), default=0)
        if largest >= self.vocab_size + _MAX_UNUSED_IDS:
            raise TokenizerError(
                f"The tokenizer has {self.vocab_size:,} tokens but ids up to {largest:,}. Use a "
                "tokenizer with contiguous ids."
            )
        self.vocab_size = max(self.vocab_size, largest + 1)
        self.special_ids = frozenset(
            i for i, token in backend.get_added_tokens_decoder().items() if token.special
        )
        pad_id = self._first_id((pad_token, "[PAD]", "<pad>", "<|endoftext|>", "</s>"))
        if pad_id is None:
            raise TokenizerError(
                "The tokenizer has no pad token. Name one as pad_token in tokenizer_config.json."
            )
        self.pad_id = pad_id
        self.mask_id = self._first_id((mask_token, "[MASK]", "<mask>"))
        # The tokens that the post-processor adds around a text, which truncation must keep.
        backend.encode(_ALL_KINDS_OF_TEXT)  # fails where a token for unknown words is missing
        around = backend.encode("a").ids
        bare = backend.encode("a", add_special_tokens=False).ids
        starts = range(len(around) - len(bare) + 1)
        at = next((k for k in starts if around[k : k + len(bare)] == bare), 0)
        self._prefix, self._suffix = tuple(around[:at]), tuple(around[at + len(bare) :])
        ordinary = np.ones(self.vocab_size, bool)
        ordinary[list(self.special_ids)] = False
        self._ordinary_ids = np.flatnonzero(ordinary).astype(np.int32)

    @classmethod
    def from_folder(cls, name: str | Path) -> Tokenizer:
        """Loads a tokenizer from tokenizer.json or, for BERT, vocab.txt.

        The special tokens are taken from tokenizer_config.json if it exists.

        Args:
            name: "minilm", path of a Hugging Face folder, or Hub id.

        Raises:
            PretrainedError: the folder does not exist.
            TokenizerError: a file is missing or cannot be read.
        """
        folder = resolve_folder(name)
        path = folder / "tokenizer.json"
        vocabulary = folder / "vocab.txt"
        if not path.exists() and vocabulary.exists():
            with _tokenizer_errors(vocabulary):
                return cls(_word_pieces(vocabulary))
        try:
            content = read_text(path)
        except (OSError, ValueError) as error:
            raise TokenizerError(
                f"{path} cannot be read ({one_line(error)}). Use a folder with tokenizer.json, or "
                "with the vocab.txt of a BERT model."
            ) from error
        names = _token_names(folder / "tokenizer_config.json")
        with _tokenizer_errors(path):
            backend = tokenizers.Tokenizer.from_str(content)
            return cls(backend, names.get("pad_token"), names.get("mask_token"))

    def ids(self) -> dict[str, int]:
        """The id of each token, special ones included."""
        return self._backend.get_vocab(with_added_tokens=True)

    def identity(self) -> str:
        """A hash of everything that the token ids of a text depend on."""
        facts = [self._backend.to_str(), repr((self.pad_id, self.mask_id))]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    def encode(self, text: str, max_length: int) -> np.ndarray:
        """Token ids of a text, special tokens included.

        Returns:
            (L,) int32 with L <= max_length. Text beyond that is cut off; the special tokens are
            kept.

        Raises:
            TokenizerError: max_length leaves no space for text next to the special tokens.
        """
        return self._with_special(self._encoding(text, max_length).ids, max_length)

    def encode_with_offsets(self, text: str, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of a text as `encode` returns them, and where they are in it.

        Returns:
            (L,) int32 ids, and (L, 2) int64: the position in the text of each token's first
            character, and the one after its last; 0 and 0 for special tokens.

        Raises:
            TokenizerError: as for `encode`.
        """
        encoding = self._encoding(text, max_length)
        ids = self._with_special(encoding.ids, max_length)
        offsets = np.zeros((len(ids), 2), np.int64)
        first, end = len(self._prefix), len(ids) - len(self._suffix)
        offsets[first:end] = np.reshape(encoding.offsets[: end - first], (-1, 2))
        return ids, offsets

    def _encoding(self, text: str, max_length: int) -> tokenizers.Encoding:
        least = len(self._prefix) + len(self._suffix) + 1
        if max_length < least:
            raise TokenizerError(
                f"max_length is {max_length}, but the tokenizer adds {least - 1} special "
                f"tokens to a text. Set it to at least {least}."
            )
        return self._backend.encode(text, add_special_tokens=False)

    def _with_special(self, ids: Sequence[int], max_length: int) -> np.ndarray:
        budget = max_length - len(self._prefix) - len(self._suffix)
        return np.array([*self._prefix, *ids[:budget], *self._suffix], np.int32)

    def decode(self, ids: np.ndarray) -> str:
        """The text of token ids, without special tokens."""
        return self._backend.decode(np.asarray(ids).tolist(), skip_special_tokens=True)

    def mask_tokens(
        self, ids: np.ndarray, rng: np.random.Generator, prob: float = 0.15
    ) -> tuple[np.ndarray, np.ndarray]:
        """Masks tokens for the masked-language-model loss (Devlin et al., NAACL 2019, section 3.1).

        Each token that is not special is selected with probability `prob`. Of those, 80 % become
        the mask token, 10 % a random token that is not special, and 10 % stay the same.

        Args:
            ids: (L,) int32.
            rng: source of randomness; the number of draws depends only on L.
            prob: probability of selecting a token, between 0 and 1.

        Returns:
            Masked ids (L,) int32, and labels (L,) int32: the original id where a token was
            selected, IGNORED_LABEL elsewhere.

        Raises:
            TokenizerError: the vocabulary has no mask token.
        """
        if self.mask_id is None:
            raise TokenizerError(
                "The tokenizer has no mask token. Set lm_weight to 0 or use a BERT tokenizer."
            )
        ids = np.asarray(ids, np.int32)
        choice, fate = rng.random(ids.size), rng.random(ids.size)
        random_ids = self._ordinary_ids[rng.integers(self._ordinary_ids.size, size=ids.size)]
        chosen = (choice < prob) & ~np.isin(ids, list(self.special_ids))
        masked = np.where(chosen & (fate < 0.8), np.int32(self.mask_id), ids)
        masked = np.where(chosen & (fate >= 0.8) & (fate < 0.9), random_ids, masked)
        return masked, np.where(chosen, ids, np.int32(IGNORED_LABEL))

    def _first_id(self, tokens: Sequence[str | None]) -> int | None:
        ids = (self._backend.token_to_id(token) for token in tokens if token is not None)
        return next((i for i in ids if i is not None), None)


@contextlib.contextmanager
def _tokenizer_errors(path: Path) -> Iterator[None]:
    """Converts every error that the tokenizers library raises for a file to `TokenizerError`."""
    try:
        yield
    except TokenizerError as error:
        raise TokenizerError(f"{path} cannot be used: {error}") from error
    except BaseException as error:
        # The library raises plain Exception; a Rust panic derives from BaseException only.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(
            f"{path} is not a valid tokenizer file ({one_line(error)}). Download it again."
        ) from error


def _word_pieces(vocabulary: Path) -> tokenizers.Tokenizer:
    """BERT's tokenizer from a WordPiece vocabulary; older models such as SciBERT have no other."""
    path = vocabulary.with_name("tokenizer_config.json")
    settings = _read_json(path) if path.exists() else {}
    try:
        lines = read_text(vocabulary).split("\n")
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{one_line(error)}. Download it again.") from error
    if not lines[-1]:
        lines.pop()
    ids = {piece.rstrip("\r"): k for k, piece in enumerate(lines)}
    for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"):
        if token not in ids:
            raise TokenizerError(
                f"it lacks {token}, so it is not a BERT vocabulary. Use the folder of a "
                "different model."
            )
    backend = tokenizers.BertWordPieceTokenizer(
        ids,
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    return tokenizers.Tokenizer.from_str(backend.to_str())


def _token_names(path: Path) -> dict[str, str]:
    """The special tokens named in tokenizer_config.json; empty if the file is missing."""
    if not path.exists():
        return {}
    config = _read_json(path)
    names = {}
    for key in ("pad_token", "mask_token"):
        value = config.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            names[key] = value
    return names


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except (OSError, ValueError) as error:
        raise TokenizerError(
            f"{path} cannot be read ({one_line(error)}). Download it again."
        ) from error
