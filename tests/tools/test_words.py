"""The word list: phrases are found across line breaks and in names, and allowed uses are not."""

import pytest

from tools.words import RULES, _without_strings, checked_files, findings


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("# The run goes on.\n", "goes on"),
        ("# The run goes\n# on from there.\n", "goes # on"),
        ('x = f"it is "\nf"no formula"\n', "is no"),
        ('x = ("it is "\n     f"no formula")\n', "is no"),
        ("def losses_told(): ...\n", "told"),
        ("def is_whole(): ...\n", "whole"),
        ('def f():\n    """Nothing."""\n', '"""nothing.'),
        ("It takes 20 ms a step.\n", "ms a step"),
        ('def f():\n    """Reads.\n\n    Args:\n        path: of the file.\n    """\n', "path: of"),
        ("# Only the first process\n# does it alone.\n", "alone"),
    ],
)
def test_a_phrase_is_found(text, phrase):
    found = findings("a.py", text)
    assert len(found) == 1 and phrase.split()[-1] in found[0].phrase, found
    line = found[0].line
    assert phrase.split()[0] in text.splitlines()[line - 1].lower()


@pytest.mark.parametrize(
    "text",
    [
        "# There is no such file.\n",
        "x = value is None and other is not None\n",
        "# Use a standalone program, and a whole number.\n",
        "# The recommended step is a step of the optimizer.\n",
        "# Bigger mushrooms, read all at once.\n",
        "def f():\n    groom = grooms\n    amended = 1\n",
    ],
)
def test_other_uses_are_allowed(text):
    assert not findings("a.py", text)


def test_rules_are_in_lower_case_and_say_what_to_write():
    for rule in RULES:
        assert rule.phrase == rule.phrase.lower() and rule.instead, rule


def test_strings_that_are_data_are_not_checked_but_docstrings_are():
    source = 'def f():\n    """Told."""\n    return ["told", f"it goes on {1}"]  # alone\n'
    phrases = [finding.phrase for finding in findings("a.py", _without_strings(source))]
    assert phrases == ["told", "alone"]


def test_the_project_is_checked_and_the_list_itself_is_not():
    names = [path.name for path in checked_files()]
    assert {"errors.py", "base.py", "Makefile", "README.md", "test_rows.py"} <= set(names)
    assert "words.py" not in names and "test_words.py" not in names
