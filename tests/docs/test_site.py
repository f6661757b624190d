"""The site builds without a warning, its links lead somewhere, and its pages load nothing from the network."""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from neurocompile.cli import commands

ROOT = Path(__file__).parents[2]
NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers")
LOADING = {"script", "img", "link", "iframe", "source", "video", "audio", "embed", "object"}
IN_CSS = re.compile(r"@import[^;]*;|url\(\s*[\"']?(?:https?:)?//[^)]*\)")
SECONDS, MILLISECONDS = 300, 60_000


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_args: Any) -> None:
        """Print nothing."""


class Links(HTMLParser):
    """What a page links to, what it loads, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.anchors |= {named[name] for name in ("id", "name") if name in named}
        for name in ("href", "src", "data", "srcset"):
            if name not in named:
                continue
            (self.loaded if tag in LOADING else self.targets).append(named[name])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning ends the build."""
    if not (ROOT / "mkdocs.yml").is_file():
        pytest.skip("the documentation is not beside these tests")
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (neurocompile[docs])")
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    """All pages but the one for pages that are not there, whose links begin at the root of a server."""
    return {
        path: Links(path.read_text("utf-8"))
        for path in sorted(site.rglob("*.html"))
        if path.name != "404.html"
    }


def test_links_and_anchors_lead_somewhere(site: Path, pages: dict[Path, Links]) -> None:
    dead = []
    for path, links in pages.items():
        for target in [*links.targets, *links.loaded]:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            led = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if led.is_dir():
                led /= "index.html"
            there = led.is_file() and led.is_relative_to(site.resolve())
            if there and parts.fragment and led.suffix == ".html":
                there = unquote(parts.fragment) in {"__skip", *pages[led].anchors}
            if not there:
                dead.append(f"{path.relative_to(site)}: {target}")

    assert dead == []


def test_pages_load_nothing_from_the_network(site: Path, pages: dict[Path, Links]) -> None:
    loaded = [
        f"{path.relative_to(site)}: {target}"
        for path, links in pages.items()
        for target in links.loaded
        if urlsplit(target).netloc
    ]
    styles = [
        f"{path.relative_to(site)}: {found}"
        for path in site.rglob("*.css")
        for found in IN_CSS.findall(path.read_text("utf-8"))
    ]

    assert loaded == []
    assert styles == []


def test_a_browser_loads_pages_without_errors_and_from_the_site_alone(site: Path) -> None:
    browsers = pytest.importorskip("playwright.sync_api")
    chromium = os.environ.get("NEUROCOMPILE_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no Chromium here")
    handler = partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}/"
        asked: list[str] = []
        errors: list[str] = []
        with browsers.sync_playwright() as player:
            browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for name in ("index", "reference/python"):
                page = browser.new_page(viewport={"width": 400, "height": 800})
                page.on("request", lambda request: asked.append(request.url))
                page.on(
                    "console",
                    lambda said: errors.append(said.text) if said.type == "error" else None,
                )
                page.goto(f"{home}{name}.html", wait_until="networkidle")
                assert page.evaluate("document.documentElement.scrollWidth") <= 400
            page.click(".md-header__button[for=__search]")
            page.locator("[data-md-component=search-query]").press_sequentially("saturating")
            page.wait_for_selector(".md-search-result__item", timeout=MILLISECONDS)
            browser.close()
        server.shutdown()

    assert asked
    assert [url for url in asked if not url.startswith((home, "data:", "blob:"))] == []
    assert errors == []


def test_every_command_is_on_the_page_of_commands(site: Path, pages: dict[Path, Links]) -> None:
    assert set(commands.commands) <= pages[site / "reference" / "cli.html"].anchors


def test_the_reference_has_what_the_package_exports(site: Path, pages: dict[Path, Links]) -> None:
    import neurocompile

    names = {f"neurocompile.{name}" for name in neurocompile.__all__ if name != "__version__"}

    assert names <= pages[site / "reference" / "python.html"].anchors


def test_shapes_keep_their_stars(site: Path) -> None:
    assert "(samples, steps, *shape)" in (site / "reference" / "python.html").read_text("utf-8")


def test_links_out_of_the_folder_become_links_of_the_site(
    pages: dict[Path, Links], site: Path
) -> None:
    assert "benchmarks/results/quantisation.html" in pages[site / "quantisation.html"].targets
    assert "examples/onnx_only.html" in pages[site / "onnx.html"].targets
    assert "examples/regression_test/index.html" in {
        posixpath.normpath(f"howto/{target}")
        for target in pages[site / "howto" / "regression-tests.html"].targets
    }
    assert "where_do_spikes_differ.html" in pages[site / "examples" / "index.html"].targets
    assert "../benchmarks/results/train_step.html" in (
        pages[site / "decisions" / "0014-training-neurons.html"].targets
    )


def test_every_example_is_on_the_site(site: Path) -> None:
    folder = ROOT / "examples"
    files = [*folder.glob("*.py"), *folder.glob("*.ipynb")]
    projects = [path.parent / "README.md" for path in folder.glob("*/pyproject.toml")]

    made = {path.relative_to(site).as_posix() for path in (site / "examples").rglob("*.html")}

    assert {f"examples/{path.stem}.html" for path in files} < made
    assert {f"examples/{path.parent.name}/index.html" for path in projects} < made
    text = (site / "examples" / "regression_test" / "index.html").read_text("utf-8")
    assert "assert_matches_golden" in text  # its test, and not its description alone


def test_pages_of_a_menu_have_titles_of_their_own(site: Path) -> None:
    home = (site / "index.html").read_text("utf-8")
    menu = re.findall(
        r'<a href="([^"]+)" class="md-nav__link">\s*<span class="md-ellipsis">(.*?)</span>',
        home,
        re.DOTALL,
    )
    titles = [
        (posixpath.dirname(target), re.sub(r"\s+", " ", title).strip())
        for target, title in menu
        if not target.startswith("#")
    ]

    assert len(titles) > 20
    assert len(set(titles)) == len(titles)
