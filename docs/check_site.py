"""What the built site must hold: links inside lead somewhere, headings in order, pictures with a text, a search.

python docs/check_site.py site
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Written by Sphinx itself, or for no reader.
MADE = ("genindex.html", "search.html", "py-modindex.html")
SEARCHED = ("relu", "posterior", "evidence", "gpytorch", "cupi")  # stems of words that a reader would look for


class Page(HTMLParser):
    """Links, anchors, headings and pictures of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.headings: list[int] = []
        self.bare: list[str] = []  # pictures without a text
        self.language = self.described = self.phone = False
        self.title = ""
        self._in_title = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := own.get(name))}
        self.links += [value for name in ("href", "src") if (value := own.get(name))]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        source = own.get("src") or "?"
        # The gallery's small pictures stand beside their titles, and say so by an empty text.
        if tag == "img" and not ((own.get("alt") or "").strip() or (own.get("alt") == "" and "_thumb." in source)):
            self.bare.append(source)
        self.language |= tag == "html" and bool(own.get("lang"))
        self.phone |= tag == "meta" and own.get("name") == "viewport"
        self._in_title = tag == "title" or (self._in_title and tag != "title")

    def handle_endtag(self, tag: str) -> None:
        self._in_title &= tag != "title"

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data


def faults(site: Path) -> list[str]:
    """One line for each thing that is wrong."""
    files = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.relative_to(site).parts]
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in files}
    found = [] if len(pages) > 20 else [f"{site}: {len(pages)} pages"]
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                found.append(f"{name}: {link} leads nowhere")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name}: {link}: no such place on that page")
        if name.name in MADE:
            continue
        if page.headings.count(1) != 1:
            found.append(f"{name}: {page.headings.count(1)} headings of the first level")
        steps = zip([0, *page.headings], page.headings, strict=False)
        found += [f"{name}: a heading of level {b} behind one of level {a}" for a, b in steps if b > a + 1]
        found += [f"{name}: picture {source} without a text" for source in page.bare]
        for right, what in ((page.language, "language"), (page.phone, "viewport"), (page.title.strip(), "title")):
            if not right:
                found.append(f"{name}: no {what}")
    index = site / "searchindex.js"
    text = index.read_text(encoding="utf-8") if index.exists() else ""
    found += [f"search does not know {word}" for word in SEARCHED if word not in text]
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    wrong = faults(folder)
    print("\n".join(wrong) or f"{folder}: {len(list(folder.rglob('*.html')))} pages, nothing wrong")
    sys.exit(bool(wrong))
