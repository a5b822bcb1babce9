"""Generator of docs/config.md from the declarations of the keys.

python -m clac_jax.config.document                  prints the page
python -m clac_jax.config.document docs/config.md   writes it to that file
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from clac_jax.config.key import Group, Key
from clac_jax.config.renamed import RENAMED
from clac_jax.config.run import all_keys, declaration

_INTRO = """\
# Config

<!-- Written by `make docs-config` from the declarations in clac_jax/config; not by hand. -->

A run's config is an [`ml_collections.ConfigDict`](https://github.com/google/ml_collections) with
the keys below. A config file is a Python file with a function `get_config`, which starts from the
defaults and changes some:

```python
from clac_jax.config import default_config


def get_config():
    config = default_config()
    config.batch_size = 64
    config.graph_encoder.cutoff = 6.0
    return config
```

`--config=FILE.py` names it, and `--config.KEY=VALUE` overrides one key: `--config.batch_size=32`,
`--config.graph_encoder.name=cgcnn`, `--config.frozen="('text_encoder/.*',)"`; `None` unsets a key
among whose values it is listed. An unknown key, a value of a different type and a value out of
range are refused before anything starts. The defaults are those of the package; `--config=base`
and other [configs](train.md#configs) change many of them (`batch_size`: 32, and 128 in `base`).

"On resume" is what another value means for a run that resumes from its checkpoint, or starts from
that of another run; the start-up summary prints it in a line that begins with `changed`. "Used
with" names the values of other keys without which a key has no effect.
"""

_RENAMED = """\
## Renamed keys

The config of an earlier version (a workdir's `config.json`, a checkpoint, an exported model) is
read with its keys under their new names; a run that resumes prints a line that begins with
`renamed`. In a config file or a flag the old name is refused, with an error that gives the new one.

| Old name | New name | Since version |
| --- | --- | --- |
"""

_TYPES: dict[type | None, str] = {
    bool: "`True`, `False`",
    int: "integer",
    float: "number",
    str: "text",
    tuple: "tuple",
}


def document() -> str:
    """The page as Markdown."""
    parts = [_INTRO, _table("The run", "", declaration())]
    parts += [_table(f"`{name}`", name + ".", group) for name, group in declaration().groups()]
    rows = (f"| `{each.old}` | `{each.new}` | {each.version} |\n" for each in RENAMED)
    return "\n".join([*parts, _RENAMED + "".join(rows)])


def _table(title: str, prefix: str, group: Group) -> str:
    keys = {name: key for name, key in group.members.items() if isinstance(key, Key)}
    lines = [f"## {title}", ""] + ([_code(group.meaning), ""] if group.meaning else [])
    lines += ["| Key | Default | Meaning | Values | On resume | Used with |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for name, key in keys.items():
        cells = (
            f"`{prefix}{name}`",
            f"`{key.default!r}`",
            _code(key.meaning),
            _values(key),
            _code(key.on_change or ""),
            f"`{key.used_with}`" if key.used_with else "",
        )
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _values(key: Key) -> str:
    """The allowed values of a key, in words."""
    if key.choices:
        choices = ", ".join(f"`{choice}`" for choice in key.choices)
        return f"tuple of {choices}" if key.kind is tuple else choices
    words = ("path" if key.local_only else "path or URL") if key.is_path else _TYPES[key.kind]
    if key.bounds:
        words += f"{'' if key.bounds.startswith('from') else ','} {key.bounds}"
    return words + (", or `None`" if key.default is None else "")


def _code(text: str) -> str:
    """The text with the names of keys and groups formatted as code."""
    names = {*all_keys(), *(name for name, _ in declaration().groups())}
    return re.sub(
        r"(?<![`\w./-])[a-z][\w.]*\w(?![`\w/-])",
        lambda word: f"`{word[0]}`" if word[0] in names and re.search("[_.]", word[0]) else word[0],
        text,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the page, or writes it to the given file."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments:
        Path(arguments[0]).write_text(document(), encoding="utf-8")
    else:
        sys.stdout.write(document())


if __name__ == "__main__":
    main()
