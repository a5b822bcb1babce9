"""Text views: sentences, tokens and masked tokens."""

from __future__ import annotations

import contextlib
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
"""Label of a token that the language-model loss skips."""

_ENDS_SENTENCE = re.compile(r"""[.!?…]["'”’)\]]*$""")
# Abbreviations of papers that sentencex does not know; what follows one is the same sentence.
_ENDS_ABBREVIATED = re.compile(
    # "Ca.", "Cf." and "No." with a capital may be elements at the end of a sentence.
    r"(?:^|[\s(\[])(?:[Aa]pprox|ca|cf|vs|[Ee]qs?|[Rr]efs?|[Ff]igs?|[Tt]abs?|resp|nos?)\.$"
    r"|\b(?:e\.g|i\.e|et al)\.$"
)
_STARTS_LIKE_A_SENTENCE = re.compile(r"""["'“‘(\[]*(?:[^\W\da-zα-ω]|[a-zα-ω][-‐–]|\d)""")
# sentencex takes element symbols, units and the end of "C2/m" for titles or abbreviations.
_SYMBOL_THEN_SENTENCE = re.compile(
    r"(?<=[\s,/(–-])(?:Sr|Mg|Mo|No|Co|[A-Z]|[a-dhmns])\)?\.\s+"
    r"(?=(?:A|An|All|Each|Every|In|It|Its|Of|On|The|There|These|This|Those|Both|Two|With)\s)"
)


# A word, a number, signs, and letters that a vocabulary may lack.
_EVERY_KIND = "a Zx9qj 0.5 \u00c5 \u03b1 \u65e5\u672c \U0001f701 \x7f\n"
_UNUSED_IDS = 100_000  # that a vocabulary may leave out


class TokenizerError(UserError, ValueError):
    """A tokenizer cannot be read or lacks what was asked of it."""


def split_sentences(text: str) -> list[str]:
    """Splits a narrative into its sentences, white space reduced to single spaces.

    The cuts are sentencex's, mended where crystallography misleads it: an abbreviation ("approx.",
    "eq.") or a wrapped line does not end a sentence; an element symbol, a unit or a space group
    ("Sr.", "3 K.", "C2/m.") before an opening word does. A text without any sentence (empty, only
    white space) gives an empty list.
    """
    sentences: list[str] = []
    open_end = False  # whether the sentence before goes on
    for raw in sentencex.segment("en", text):
        piece = " ".join(raw.split())
        if not piece:
            continue
        if open_end and sentences:
            sentences[-1] += " " + piece
        else:
            sentences.append(piece)
        # A wrapped line: no stop before the break, no capital after it (seen at the next piece).
        open_end = _ENDS_ABBREVIATED.search(piece) is not None
    return _split_after_symbols(_join_wrapped(sentences))


def _join_wrapped(sentences: list[str]) -> list[str]:
    """Joins a piece without a final stop to a next one that starts in the middle of a sentence."""
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


def text_view(sentences: Sequence[str], rng: np.random.Generator, keep_prob: float = 0.5) -> str:
    """One random view of a text: some of its sentences in random order, joined by a space.

    Each sentence is kept with probability `keep_prob`; if none is, one drawn uniformly is. No
    sentence at all gives "".
    """
    if not 0.0 <= keep_prob <= 1.0:
        raise ValueError(f"keep_prob is {keep_prob}; it must lie between 0 and 1")
    if not sentences:
        return ""
    kept = np.flatnonzero(rng.random(len(sentences)) < keep_prob)
    if kept.size == 0:
        kept = rng.integers(len(sentences), size=1)
    return " ".join(sentences[i] for i in rng.permutation(kept))


class Tokenizer:
    """A Hugging Face tokenizer; immutable after construction, hence thread safe, and picklable.

    Attributes:
        pad_id: id that fills a batch.
        mask_id: id of the mask token, None if the vocabulary has none.
        special_ids: every special token, never masked.
        vocab_size: number of ids, special ones included.
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
        """Wraps a backend, whose own padding and truncation are switched off.

        Args:
            backend: owned by this object from now on.
            pad_token: its pad token; the usual names are tried if None.
            mask_token: its mask token; the usual names are tried if None.

        Raises:
            TokenizerError: no pad token.
        """
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        largest = max(backend.get_vocab(with_added_tokens=True).values(), default=0)
        if largest >= self.vocab_size + _UNUSED_IDS:
            raise TokenizerError(
                f"The tokenizer has {self.vocab_size:,} tokens, and one with the id {largest:,}. "
                "Give another one."
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
        # What the post-processor puts around a text, found once so that truncation keeps it.
        backend.encode(_EVERY_KIND)  # fails where a token for unknown words is missing
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
        """Reads the tokenizer of a folder: tokenizer.json, or a BERT's vocab.txt.

        The token names come from tokenizer_config.json, if there is one.

        Args:
            name: "minilm", the path of a Hugging Face folder, or a hub id.

        Raises:
            PretrainedError: there is no such folder.
            TokenizerError: a file is missing or cannot be read.
        """
        folder = resolve_folder(name)
        path = folder / "tokenizer.json"
        vocabulary = folder / "vocab.txt"
        if not path.exists() and vocabulary.exists():
            with _errors_of_rust(vocabulary):
                return cls(_word_pieces(vocabulary))
        try:
            content = read_text(path)
        except (OSError, ValueError) as error:
            raise TokenizerError(
                f"{path} cannot be read ({one_line(error)}). Give a folder with a tokenizer.json, "
                "or the vocab.txt of a BERT."
            ) from error
        names = _token_names(folder / "tokenizer_config.json")
        with _errors_of_rust(path):
            backend = tokenizers.Tokenizer.from_str(content)
            return cls(backend, names.get("pad_token"), names.get("mask_token"))

    def encode(self, text: str, max_length: int) -> np.ndarray:
        """Ids of a text with its special tokens.

        Returns:
            (L,) int32, L <= max_length; a text too long loses its end, never its special tokens.

        Raises:
            TokenizerError: max_length leaves no room for a token besides the special ones.
        """
        room = max_length - len(self._prefix) - len(self._suffix)
        if room < 1:
            raise TokenizerError(
                f"max_length is {max_length}, and the tokenizer puts {max_length - room} tokens "
                f"around a text. Set it to at least {max_length - room + 1}."
            )
        ids = self._backend.encode(text, add_special_tokens=False).ids[:room]
        return np.array([*self._prefix, *ids, *self._suffix], np.int32)

    def decode(self, ids: np.ndarray) -> str:
        """The text of ids, special tokens left out."""
        return self._backend.decode(np.asarray(ids).tolist(), skip_special_tokens=True)

    def mask_tokens(
        self, ids: np.ndarray, rng: np.random.Generator, prob: float = 0.15
    ) -> tuple[np.ndarray, np.ndarray]:
        """Masks tokens for the masked-language-model loss (Devlin et al., NAACL 2019, section 3.1).

        Every ordinary token is chosen with probability `prob`. Of the chosen ones 80 % become the
        mask token, 10 % a random ordinary token and 10 % stay.

        Args:
            ids: (L,) int32.
            rng: source of randomness; the same number of draws is made whatever the ids.
            prob: between 0 and 1.

        Returns:
            ids (L,) int32, and labels (L,) int32: the old id where chosen, else IGNORED_LABEL.

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
def _errors_of_rust(path: Path) -> Iterator[None]:
    """Whatever the tokenizers library, which is written in Rust, raises for a file."""
    try:
        yield
    except TokenizerError as error:
        raise TokenizerError(f"{path} cannot be used: {error}") from error
    except BaseException as error:
        # It raises Exception itself; a panic of Rust is not even that.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(
            f"{path} is not a tokenizer ({one_line(error)}). Download it again."
        ) from error


def _word_pieces(vocabulary: Path) -> tokenizers.Tokenizer:
    """BERT's tokenizer from its list of word pieces, as older models (SciBERT) come."""
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
                f"it lacks {token}, so it is not a BERT's. Give the folder of another model."
            )
    backend = tokenizers.BertWordPieceTokenizer(
        ids,
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    return tokenizers.Tokenizer.from_str(backend.to_str())


def _token_names(path: Path) -> dict[str, str]:
    """The special tokens named in a tokenizer_config.json; none if there is no such file."""
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
