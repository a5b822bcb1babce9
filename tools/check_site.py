"""Checks a built site: no page loads anything from another host, and every local link exists."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
"""Elements that a browser loads on its own, and the attribute with the address."""
HARMLESS = {"canonical", "next", "prev", "edit"}
"""Relations of <link> that a browser does not fetch."""


class _Addresses(HTMLParser):
    """Collects what a page loads and what it links to."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "a" and "href" in values:
            self.linked.append(values["href"])
        elif tag in LOADED and LOADED[tag] in values and values.get("rel") not in HARMLESS:
            self.loaded.append(values[LOADED[tag]])


def problems(site: Path) -> list[str]:
    """One line for each address that a visitor without a network would miss."""
    lines = []
    for page in sorted(site.rglob("*.html")):
        if page.name == "404.html":  # its addresses are those of the server's root
            continue
        addresses = _Addresses()
        addresses.feed(page.read_text(encoding="utf-8"))
        name = page.relative_to(site)
        for address in addresses.loaded:
            if urlsplit(address).netloc:
                lines.append(f"{name} loads {address} from another host")
        for address in addresses.loaded + addresses.linked:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or not parts.path:
                continue
            if not (page.parent / unquote(parts.path)).exists():
                lines.append(f"{name} links to {address}, which does not exist")
    for style in sorted(site.rglob("*.css")):
        text = style.read_text(encoding="utf-8")
        if "url(http" in text or "url(//" in text or "@import" in text:
            lines.append(f"{style.relative_to(site)} loads a file from another host")
    return lines


def main() -> int:
    """Prints the problems; the exit code is 1 if there are any."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else "site")
    if not (site / "index.html").is_file():
        print(f"{site} is not a built site: run `make docs`.", file=sys.stderr)
        return 2
    found = problems(site)
    print("\n".join(found) or f"{site}: every link exists, and nothing is loaded from other hosts")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
