"""Prints wording that this project replaces by plain English: `make words`.

Each rule names a phrase, what to write instead, and the lines on which the phrase is right. Phrases
are found across line breaks, comment signs and the seams of joined strings. The exit status is 1
where anything is found.
"""

from __future__ import annotations

import argparse
import functools
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKED = (
    "clac_jax", "configs", "tests", "benchmarks", "tools", "docs", "examples",
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "main.py",
)  # fmt: skip
SUFFIXES = (".py", ".md", ".ipynb")
UNCHECKED = ("tools/words.py", "tests/tools/test_words.py")
STRINGS_ARE_DATA = ("tools/materials_project_mini/", "tests/text/")
"""Only comments, docstrings and names are checked there."""

_GAP = r"(?:[\s#>*_]|[\"']\s*f?[\"'])+"


_SEAM = re.compile(r"([\"']) f?\1")


@dataclass(frozen=True)
class Rule:
    """A phrase to avoid.

    Attributes:
        phrase: a regular expression that starts with a literal letter, in lower case; a space also
            matches a line break. It is matched from the start of a word to the end of one; `_`
            separates words, so names are checked too.
        instead: what to write.
        allowed: a regular expression; a line that it matches may have the phrase.
        only_in: the suffix of the files that are checked; "" for all.
    """

    phrase: str
    instead: str
    allowed: str = ""
    only_in: str = ""


RULES = (
    # British spelling with -ize, as in the Oxford dictionary: "colour", "initialize".
    Rule(r"initialis\w*", "initializ..."),
    Rule(r"normalis\w*", "normaliz..."),
    Rule(r"optimis(?:e|ed|es|ing|ations?|ers?)", "optimiz..."),
    Rule(r"recognis\w*", "recogniz..."),
    Rule(r"summaris\w*", "summariz..."),
    Rule(r"rematerialis\w*", "rematerializ..."),
    # Verbs.
    Rule("goes on", "resumes, continues"),
    Rule("go on", "resume, continue", allowed=r"go on (?:the|a) "),
    Rule("went on", "resumed, continued"),
    Rule("going on", "continuing; in progress"),
    Rule("told", "reported, given"),
    Rule("is said", "is reported, is stated"),
    Rule("comes? back", "returns, is read"),
    Rule("knows? (?:no|nothing)", "does not support, is independent of"),
    Rule("tells? (?:whether|where|which|that|what|how|apart)", "shows, says, decides"),
    Rule("does not tell", "does not say"),
    Rule("do not tell", "do not say"),
    Rule("mend(?:s|ed|ing)?", "fix"),
    Rule("obey(?:s|ed)?", "follow"),
    Rule("wish(?:es|ed)?", "request; wants"),
    Rule("begun", "started"),
    Rule("dealt out", "assigned"),
    Rule("asked (?:for|of)", "requested, required", allowed=r"asked for \w+ in|for .* asked for "),
    Rule("asks (?:for|of)", "needs, requests"),
    Rule("taken for", "treated as"),
    Rule("taken over", "imported, copied"),
    Rule("takes over", "imports, copies"),
    Rule("spoil(?:s|t|ed|ing)?", "corrupt, damage"),
    Rule(
        "lies? (?:in|at|there|beside|behind|where|outside|inside|below|under)",
        "is in, is at",
        allowed=r"(?:points|vectors|crystals|texts|outliers|most|model) lies? (?:in|outside) ",
    ),
    Rule(
        "stands? (?:in(?! for)|on|at|there|beside|behind|before|for none|outside|around)",
        "is, appears",
    ),
    Rule("comes? (?:out|of it)", "results, is"),
    Rule("is made of", "consists of, is built from"),
    Rule("is had", "is available"),
    Rule("to be had", "available"),
    # Negation and number.
    Rule(
        "is no",
        "is not a",
        allowed=r"is no (?:longer|more than|such|need|way|other|effect)|"
        r"there is no",
    ),
    Rule("are no", "are not", allowed=r"there are no|are no (?:longer|such|more)"),
    Rule("was no", "was not a", allowed=r"there was no|was no (?:longer|such)"),
    Rule("were no", "were not", allowed=r"there were no|were no longer"),
    Rule("is none", "is missing; there is none", allowed=r"there is none|is None"),
    Rule("without any", "without"),
    Rule(
        "alone", "only; on its own", allowed=r"standalone|stand-alone|let alone|leave.{0,20}alone"
    ),
    Rule("the half(?! of|-)", "half"),
    Rule("but for", "except for"),
    Rule("for want of", "without, for lack of"),
    Rule("(?:is|are) of (?:the|a|an|no)", "belongs to, has"),
    Rule("so many", "the number, or the thing itself"),
    Rule("as many", "the number", allowed=r"as many (?:\w+ ){0,4}as "),
    Rule("of the same(?=[.,;:)])", "name the thing"),
    Rule(
        "of another(?! (?:run|program|process|model|index|site)(?![a-z]))",
        "a different",
        allowed=r"one of another|name of another",
    ),
    Rule("another one", "a different one, say which"),
    Rule("likewise", "also"),
    Rule(
        "(?:ms|s|seconds?|minutes?|hours?|bytes|kb|mb|gb|mib|gib|gflops|steps|examples|crystals|rows"
        "|batches|times|once|twice|%) an? (?:step|epoch|row|second|crystal|example|token|device"
        "|process|batch|atom|edge|minute|hour|save|record|file|call|key)",
        "per step, per epoch, ...",
    ),
    # Time and place.
    Rule(
        "at once",
        "immediately; together; at a time",
        allowed=r"all (?:\w+ ){0,3}at once|(?:two|one|many|several|computed|evaluated) at once",
    ),
    Rule("ends at once", "stops immediately"),
    Rule("anew", "again"),
    Rule("afresh", "from scratch"),
    Rule("seldom", "rarely"),
    Rule("till", "until"),
    Rule("for ever", "indefinitely"),
    Rule("beside", "next to; besides"),
    Rule("meanwhile", "in the meantime; say when"),
    Rule("already there", "already exists"),
    Rule("there already", "already exists"),
    Rule("what is there", "what exists, the existing ..."),
    Rule("is there(?: yet|,|;|\\.|:)", "exists"),
    Rule("are there(?: yet|,|;|\\.|:)", "exist"),
    Rule("is not there", "is missing, does not exist"),
    Rule("are not there", "are missing"),
    Rule("by itself", "on its own; automatically"),
    Rule(
        "behind (?:it|the|a|an|its|that|them|what|this|every|each)",
        "after; say the cause",
        allowed=r"behind a (?:proxy|firewall)|behind the (?:scenes|package)",
    ),
    Rule("in front of", "before"),
    Rule("the other way round", "the reverse"),
    Rule("in (?:the|its|their) place of", "instead of, as"),
    Rule("in (?:its|their) place(?=[.,;:)])", "instead"),
    Rule("thereof", "of it"),
    Rule("therein", "in it"),
    Rule("thereby", "so"),
    # Nouns.
    Rule(
        "whole",
        "intact (checkpoint); replicated, gathered (array); entire, all of",
        allowed=r"whole (?:number|word)s?|as a whole|wholesale",
    ),
    Rule("rungs?", "candidate shape"),
    Rule("rooms?", "bin, slot; space", allowed=r"room(?: |-)temperature|MushroomPotential"),
    Rule("odd batch(?:es)?", "outlier batch"),
    Rule("places (?:in|of)", "indices"),
    Rule("nobody", "no one; say what does not"),
    Rule("whoever", "anyone who; say who"),
    Rule("everybody", "everyone"),
    Rule("some \\d", "about ..."),
    Rule("number type", "dtype"),
    Rule("numbers? with single precision", "float32"),
    Rule("with single precision", "in float32"),
    Rule("bad luck", "collision"),
    Rule("white space", "whitespace"),
    Rule("check sum", "checksum"),
    # Forms.
    Rule('"""nothing\\.', "say what the function does"),
    Rule('"""the same', "say what it is"),
    Rule('"""what ', "a noun: 'The ...', 'Helpers of ...'"),
    Rule('"""of (?!course)', "a full noun phrase"),
    Rule('"""those ', "say what they are"),
    Rule('"""how ', "a noun: 'The ...'"),
    Rule("test_what_", "name the behaviour", only_in=".py"),
    Rule("options: see there", "repeat the option, or name where it is documented"),
    Rule("see there", "name where"),
    Rule("# what .{1,60} may ", "a noun as the heading", only_in=".md"),
)

_FRAGMENT = re.compile(r"^ {4,}\w+: (?:of|for|with|in|by|from) (?!all\b|each\b)", re.MULTILINE)
"""`path: of the file.` in a docstring: an argument is described by a noun phrase."""


@dataclass(frozen=True, order=True)
class Finding:
    """A phrase to replace, at a line of a file."""

    path: str
    line: int
    phrase: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.phrase!r}: {self.instead}"


def findings(path: str, text: str, rules: tuple[Rule, ...] = RULES) -> list[Finding]:
    """The phrases of one text, in the order of its lines.

    Args:
        path: of the file, for the findings and the suffix that a rule may be limited to.
        text: its content.
        rules: the rules to apply.
    """
    lowered = text.lower()
    found = []
    for rule in rules:
        if rule.only_in and not path.endswith(rule.only_in):
            continue
        for match in _compiled(rule.phrase).finditer(lowered):
            start, end = match.span()
            if start and lowered[start].isalpha() and lowered[start - 1].isalpha():
                continue
            if rule.allowed and re.search(rule.allowed, _lines(text, start, end), re.IGNORECASE):
                continue
            phrase = " ".join(match[0].split())
            found.append(Finding(path, text.count("\n", 0, start) + 1, phrase, rule.instead))
    if path.endswith(".py"):
        for match in _FRAGMENT.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Finding(path, line, match[0].strip(), "describe it by a noun phrase"))
    return sorted(found)


@functools.cache
def _compiled(phrase: str) -> re.Pattern[str]:
    end = "(?![a-z])" if phrase[-1].isalpha() or phrase[-1] in ")?" else ""
    return re.compile(phrase.replace(" ", _GAP) + end)


def _lines(text: str, start: int, end: int) -> str:
    """The lines that a match is on, in words: joined by spaces, without seams of strings."""
    first = text.rfind("\n", 0, start) + 1
    last = text.find("\n", end)
    lines = " ".join(text[first : last if last >= 0 else len(text)].split())
    return _SEAM.sub("", lines).replace("_", " ")


def _without_strings(source: str) -> str:
    """Python source whose strings, docstrings excepted, are blank; line numbers stay."""
    lines = source.splitlines(keepends=True)
    starts = {tokenize.INDENT, tokenize.DEDENT, tokenize.NEWLINE, tokenize.NL, tokenize.COMMENT}
    previous, depth = tokenize.NEWLINE, 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
        is_text = tokenize.tok_name[token.type] in ("STRING", "FSTRING_MIDDLE")
        if is_text and (depth or previous not in starts):
            (first, left), (last, right) = token.start, token.end
            for row in range(first - 1, last):
                line = lines[row]
                begin, end = (
                    left if row == first - 1 else 0,
                    right if row == last - 1 else len(line),
                )
                kept = "\n" if line.endswith("\n") and end == len(line) else ""
                lines[row] = line[:begin] + " " * (end - begin - len(kept)) + kept + line[end:]
        if token.type != tokenize.COMMENT:
            previous = token.type
    return "".join(lines)


def checked_files(root: Path = ROOT) -> Iterator[Path]:
    """The files that are checked, in order."""
    for name in CHECKED:
        path = root / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            relative = file.relative_to(root).as_posix()
            is_checked = file.suffix in SUFFIXES or file == path
            if file.is_file() and is_checked and relative not in UNCHECKED:
                yield file


def main() -> int:
    """Prints the findings; the exit status is 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--summary", action="store_true", help="print the number per folder only")
    parser.add_argument("under", nargs="*", help="only files whose path starts with one of these")
    flags = parser.parse_args()
    found: list[Finding] = []
    for file in checked_files():
        path = file.relative_to(ROOT).as_posix()
        if flags.under and not path.startswith(tuple(flags.under)):
            continue
        text = file.read_text(encoding="utf-8")
        found += findings(
            path, _without_strings(text) if path.startswith(STRINGS_ARE_DATA) else text
        )
    if flags.summary:
        counts = Counter(finding.path.rsplit("/", 1)[0] for finding in found)
        print("".join(f"{count:5} {folder}\n" for folder, count in sorted(counts.items())), end="")
    else:
        print("".join(f"{finding}\n" for finding in found), end="")
    print(f"{len(found)} phrases to replace" if found else "no phrases to replace")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
