"""The messages that the documentation quotes are those of the package."""

import ast
import errno
import functools
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
VALUE = "\0"  # a placeholder of an f-string
_SYSTEM_ERROR = re.compile("|".join(re.escape(os.strerror(n)) for n in errno.errorcode))
MOST_WORDS_OF_A_VALUE = 6
LITERAL = 0.55  # share of the words that are not evidently values


def quoted(page):
    """The messages that are headings in bold code, and those in blocks of output."""
    text = page.read_text(encoding="utf-8")
    yield from re.findall(r"^\*\*`(.+?)`\*\*", text, re.MULTILINE)
    for block in re.findall(r"```text\n(.*?)```", text, re.DOTALL):
        yield from re.findall(r"^(?:error|warning): (.+)$", block, re.MULTILINE)


@functools.cache
def templates():
    """The words of each text in the package; a placeholder is a NUL character in its word."""
    texts = {os.strerror(number) for number in errno.errorcode}
    for path in [*(ROOT / "clac_jax").rglob("*.py"), *(ROOT / "configs").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", VALUE) for part in node.values]
                texts.add("".join(p if isinstance(p, str) else VALUE for p in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
    return [Template(words) for text in texts if len(words := words_of(text)) >= 2]


class Template:
    """The words of a text, and the literal ones among them."""

    def __init__(self, words):
        self.words = words
        self.literal = {word for word in words if VALUE not in word}
        self.num_values = len(words) - sum(word in self.literal for word in words)
        self.may_quote = any(word.startswith(VALUE) for word in words)

    def most(self, words):
        """At least as many words as can be literally in this text, before a message in it."""
        return sum(word in self.literal for word in words) + self.num_values


def words_of(text):
    return [word.rstrip(".:;,") or word for word in text.split()]


def is_message(chunk):
    """Whether some text of the package has these words, with values for its placeholders.

    The value of a placeholder at the end may be a message of its own.
    """
    words = words_of(chunk)
    enough = LITERAL * _not_values(words)
    return any(
        _literal(words, template.words, _is_plain) > enough
        for template in templates()
        if template.most(words) > (min(1, enough) if template.may_quote else enough)
    )


@functools.cache
def _is_plain(chunk):
    words = words_of(chunk)
    enough = LITERAL * _not_values(words)
    return any(
        _literal(words, template.words) > enough
        for template in templates()
        if template.most(words) > enough
    )


def _not_values(words):
    return sum(not re.search("[0-9/]", word) for word in words)


def _literal(words, template, is_value=lambda chunk: False):
    """The number of words that are literally in a part of the template; -1: it does not fit."""

    @functools.cache
    def fit(i, j, count):
        if i == len(words) or j == len(template):
            return count if i == len(words) else -1
        if VALUE not in template[j]:
            return fit(i + 1, j + 1, count + 1) if words[i] == template[j] else -1
        if template[j].startswith(VALUE) and count >= 2 and is_value(" ".join(words[i:])):
            return count + len(words) - i
        pattern = re.compile(".*".join(map(re.escape, template[j].split(VALUE))))
        most = min(len(words), i + MOST_WORDS_OF_A_VALUE)
        ends = (end for end in range(i + 1, most + 1) if pattern.fullmatch(" ".join(words[i:end])))
        count += bool(re.search("[a-z]{3}", template[j]))  # "exist\0." is a literal word, too
        return max((fit(end, j + 1, count) for end in ends), default=-1)

    return max((fit(0, j, 0) for j in range(len(template))), default=-1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_message_is_one_of_the_package(page):
    for message in quoted(page):
        if page.name == "faq.md":  # quotes the users of other programs
            continue
        for chunk in re.split(r"\s*\.\.\.\S*\s*", message):
            # Two texts of the package may be joined at a number: "line 12 is not a row".
            known = is_message(chunk) or all(map(is_message, long(*re.split(r"\b\d+\b", chunk))))
            assert known, f"{page.name} quotes {chunk!r}"


def long(*texts):
    return [text for text in texts if len(text.split()) >= 3]


@pytest.mark.parametrize(
    "chunk, expected",
    [
        ("--workdir=/data/a b was moved or removed while the run was writing to it.", True),
        ("--workdir=/data/a b is gone from where the run was writing to it.", False),
        ("was moved or removed", True),
        ("At step 812 the loss is nan", True),
        ("At step 812 nothing finite remains to train with", False),
    ],
)
def test_a_message_is_recognized_with_any_values(chunk, expected):
    assert is_message(chunk) == expected
