"""
The page around its sections: style, scripts and a policy that forbids everything else.

The policy allows the page's own scripts by their hashes and no request of any kind, so a name from a
network that became markup by a bug could still neither run nor call home.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib import import_module, resources
from importlib.util import find_spec
from pathlib import Path

from neurocompile.atomic import write_text
from neurocompile.errors import MissingDependencyError, OptionError, Problem
from neurocompile.page.markup import Html, element, text
from neurocompile.page.network_graph import definitions

LARGEST_PAGE = 8_000_000  # bytes
SPARE = 250_000  # for the style, our scripts and what stands around spikes
EMPTY = Html("")

LEFT_OUT = element(
    "p",
    "Left out: the page would be larger than 8 MB. The JSON beside it holds these numbers.",
    class_="absent",
)

Section = tuple[str, str, Html]  # its key, its title, what is in it


def need_plotly() -> None:
    """Raise `MissingDependencyError` unless pages can be written."""
    if find_spec("plotly") is None:
        raise MissingDependencyError(
            Problem(
                "",
                "pages need plotly",
                "it is not installed",
                "pip install 'neurocompile[plot]'",
            )
        )


def write_document(
    path: Path, title: str, top: Html, sections: Sequence[Section], footer: Html
) -> None:
    """
    Write a page in one step; sections for which there is no room are left out, and say so.

    Raises `OptionError` if the page is too large even so.
    """
    page = document(title, top, fitting(sections, top), footer)
    size = len(page.encode())
    if size > LARGEST_PAGE:
        raise OptionError(
            Problem("", f"a page must have at most {LARGEST_PAGE} bytes", f"this one has {size}")
        )
    write_text(path, page)


def fitting(sections: Sequence[Section], top: Html = EMPTY) -> list[Section]:
    """Return `sections`, the largest ones replaced by a sentence until a page has room for all and `top`."""
    kept = list(sections)
    while room_beside((top, *(content for _, _, content in kept))) < 0:
        largest = max(range(len(kept)), key=lambda at: len(kept[at][2].encode()))
        key, name, content = kept[largest]
        if content == LEFT_OUT:
            break
        kept[largest] = (key, name, LEFT_OUT)
    return kept


def room_beside(contents: Iterable[Html]) -> int:
    """Return how many bytes a page has left beside its scripts and `contents`, with some to spare."""
    taken = sum(len(part.encode()) for part in (_plotly(), *contents))
    return LARGEST_PAGE - taken - SPARE


def document(title: str, top: Html, sections: Sequence[Section], footer: Html) -> str:
    """Return the page."""
    need_plotly()
    scripts = [_plotly(), _asset("page.js"), _asset("raster.js")]
    body = [
        element("a", "Skip to the content", href="#content", class_="skip"),
        definitions(),
        element("header", element("h1", title), _navigation(sections)),
        element(
            "main",
            element(
                "noscript",
                element(
                    "p",
                    "Without scripts there are no plots; the tables say the same.",
                    class_="absent",
                ),
            ),
            top,
            *(
                element(
                    "section",
                    element("h2", name, id=f"{key}-title"),
                    content,
                    id=key,
                    aria_labelledby=f"{key}-title",
                )
                for key, name, content in sections
            ),
            id="content",
            tabindex="-1",
        ),
        element("footer", footer, class_="faint small"),
        *(Html(f"<script>{script}</script>") for script in scripts),
    ]
    head = [
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{text(_policy(scripts))}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        Html('<meta name="referrer" content="no-referrer">'),
        Html('<link rel="icon" href="data:,">'),
        element("title", title),
        Html(f"<style>{_asset('page.css')}</style>"),
    ]
    return (
        "<!DOCTYPE html>\n"
        + element("html", element("head", *head), "\n", element("body", *body), lang="en")
        + "\n"
    )


def _policy(scripts: Sequence[str]) -> str:
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _navigation(sections: Sequence[Section]) -> Html:
    items = [element("li", element("a", name, href=f"#{key}")) for key, name, _ in sections]
    return element("nav", element("ul", *items), aria_label="Sections")


def _asset(name: str) -> str:
    return (resources.files("neurocompile.page") / "assets" / name).read_text(encoding="utf-8")


def _plotly() -> str:
    script: str = import_module("plotly.offline").get_plotlyjs()  # it has no types
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
