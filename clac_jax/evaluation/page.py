"""Pages of HTML that are read offline: tables, drawings as inline SVG, light and dark."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from clac_jax.evaluation.section import Drawing, Section, Table

# Drawn in this colour and then replaced, so that lines and letters take the colour of the page.
_INK = "#010203"

STYLE = """
:root { color-scheme: light dark; --ink: #1c2026; --soft: #5b6470; --line: #d5dae1;
  --page: #ffffff; --band: #f4f6f9; --link: #2456a6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ec; --soft: #a3acb9; --line: #3a414c;
  --page: #16191e; --band: #1f242b; --link: #8ab4f8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .75rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: .9rem;
  border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; }
a { color: var(--link); }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem;
  margin: 1rem 0; padding: .9rem 1.1rem; background: var(--band); border-radius: .4rem;
  font-size: .92rem; }
dl.facts dt { color: var(--soft); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0; }
.scroll { overflow-x: auto; margin: 1.3rem 0 .3rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; white-space: nowrap; }
th, td { padding: .34rem .8rem .34rem 0; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: baseline; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 400; }
.interval { color: var(--soft); font-size: .86em; }
p.note { font-size: .87rem; color: var(--soft); }
figure { margin: 1.5rem 0; }
figure svg { max-width: 100%; height: auto; color: var(--ink); }
figcaption { font-size: .87rem; color: var(--soft); max-width: 46rem; }
@media print { body { max-width: none; padding: 0; } h2 { break-after: avoid; }
  table, figure { break-inside: avoid; } }
"""
"""The style of every report."""

_INTERVAL = re.compile(r"( \[[^\]]*\])$")


def page(title: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """A self-contained page of HTML.

    Args:
        title: title and first heading.
        facts: name and value of each fact in the header.
        sections: the sections, in order.
    """
    links = "".join(f'<li><a href="#{s.name}">{_text(s.title)}</a></li>' for s in sections)
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if len(sections) > 1 else ""
    rows = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts)
    body = "\n".join(_section(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{_text(title)}</h1>\n<dl class="facts">{rows}</dl>\n{contents}\n{body}\n'
        "</main>\n</body>\n</html>\n"
    )


def svg_of(drawing: Drawing, prefix: str) -> str:
    """The drawing as an SVG element without references to anything outside it.

    Args:
        drawing: what to draw.
        prefix: start of all ids in it, unique on the page.
    """
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text, to be read and searched
        "svg.hashsalt": prefix,  # the same drawing, the same bytes
        "font.size": 10,
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), _INK),
        **dict.fromkeys(("xtick.color", "ytick.color"), _INK),
    }
    with matplotlib.rc_context(settings), io.StringIO() as file:
        figure = Figure(figsize=drawing.size, layout="constrained")
        drawing.draw(figure)
        for axis in figure.axes:
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_facecolor("none")
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text).replace(_INK, "currentColor")
    label = html.escape(drawing.alt, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()


def plain_table(table: Table) -> str:
    """A table as aligned text for a terminal."""
    rows = [table.columns, *table.rows]
    widths = [max(len(row[k]) for row in rows) for k in range(len(table.columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([table.caption, *(f"  {line}" for line in lines)])


def _section(section: Section) -> str:
    parts = [f'<section id="{section.name}">\n<h2>{_text(section.title)}</h2>']
    parts.append(f"<p>{_text(section.intro)}</p>")
    parts += map(_table, section.tables)
    parts += _figures(section)
    return "\n".join([*parts, "</section>"])


def _figures(section: Section) -> Iterable[str]:
    for drawing in section.figures:
        svg = svg_of(drawing, f"{section.name}-{drawing.name}")
        yield f"<figure>{svg}<figcaption>{_text(drawing.caption)}</figcaption></figure>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{_text(first)}</th>{"".join(map(_cell, rest))}</tr>'
        for first, *rest in table.rows
    )
    note = f'<p class="note">{_text(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(table.caption)}">'
        f"<table><caption>{_text(table.caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}"
    )


def _cell(text: str) -> str:
    marked = _INTERVAL.sub(r'<span class="interval">\1</span>', _text(text))
    return f"<td>{marked}</td>"


def _text(text: str) -> str:
    return html.escape(text, quote=True)
