"""
What MkDocs does not do by itself: the reference of the command line, and pages that lie outside docs/.

The reference is made from the commands' own help, so that it cannot be out of date. Documents of the
repository that pages link to (benchmarks, examples, ...) become pages; links to them are written as they
are right in the repository, and are turned into links of the site here.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from griffe import Extension, Object
from mkdocs.structure.files import File

from neurocompile.cli import commands

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = "docs"
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "targets/README.md",
    "benchmarks/results/*.md",
    "examples/README.md",
)
SCRIPTS = ("examples/*.py",)
NOTEBOOKS = ("examples/*.ipynb",)
PROJECTS = ("examples/*/pyproject.toml",)  # folders that are a project, each with a README.md
SOURCES = ("*.py", "tests/*.py", "pyproject.toml")  # of a project
CLI = "reference/cli.md"
STAR = re.compile(r"(?<=[\s(])\*(?=\w)")  # of `*shape`, which is no emphasis
LINK = re.compile(r"(?<=\]\()(?P<target>[^)#:\s]+)(?=[)#])")
HELP_WIDTH = 10_000  # help is wrapped by browsers


class Shapes(Extension):
    """Keeps the stars in docstrings: "(samples, steps, *shape)" is a shape, and no emphasis."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Escape stars in the docstring of `obj`, but not in its code."""
        if obj.docstring is not None:
            parts = obj.docstring.value.split("`")
            parts[::2] = [STAR.sub(r"\\*", part) for part in parts[::2]]
            obj.docstring.value = "`".join(parts)


def outside() -> dict[str, str]:
    """Return the text of each page that lies outside docs/, by its place in repository and site."""
    texts = {place: (ROOT / place).read_text("utf-8") for place in _places(OUTSIDE)}
    for place in _places(SCRIPTS):
        texts[place.removesuffix(".py") + ".md"] = script_page(place)
    for place in _places(NOTEBOOKS):
        texts[place.removesuffix(".ipynb") + ".md"] = notebook_page(place)
    for place in _places(PROJECTS):
        folder = posixpath.dirname(place)
        texts[f"{folder}/README.md"] = project_page(folder)
    return texts


def _places(patterns: Iterable[str]) -> list[str]:
    found = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def script_page(place: str) -> str:
    """Return a page that shows the script at `place`."""
    source = (ROOT / place).read_text("utf-8")
    about = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0]
    return f"# {Path(place).name}\n\n{about}\n\n```python\n{source}```\n"


def notebook_page(place: str) -> str:
    """Return a page that shows the cells of the notebook at `place`; it is stored without outputs."""
    cells = json.loads((ROOT / place).read_text("utf-8"))["cells"]
    parts = [
        text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
        for cell in cells
        if (text := "".join(cell["source"]))
    ]
    parts.insert(1, f"This is the notebook `{place}`: run it to see what it prints and draws.")
    return "\n\n".join(parts) + "\n"


def project_page(folder: str) -> str:
    """Return a page of a project's README.md, with its sources below it."""
    parts = [(ROOT / folder / "README.md").read_text("utf-8").rstrip()]
    for place in _places(f"{folder}/{pattern}" for pattern in SOURCES):
        language = "toml" if place.endswith(".toml") else "python"
        source = (ROOT / place).read_text("utf-8")
        parts.append(f"## {posixpath.relpath(place, folder)}\n\n```{language}\n{source}```")
    return "\n\n".join(parts) + "\n"


def on_config(config: MkDocsConfig) -> None:
    """Put the pages of a folder in the place of `folder/*` in the navigation."""
    pages = [
        *(path.relative_to(ROOT / DOCS).as_posix() for path in sorted((ROOT / DOCS).rglob("*.md"))),
        *sorted(outside()),
    ]

    def expanded(item: Any) -> Any:
        if isinstance(item, str) and item.endswith("/*"):
            return [page for page in pages if page.startswith(item[:-1])]
        if isinstance(item, list):
            return [expanded(part) for part in item]
        if isinstance(item, dict):
            return {key: expanded(value) for key, value in item.items()}
        return item

    config.nav = expanded(config.nav)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that are no files in docs/."""
    for place, text in {CLI: cli_reference(), **outside()}.items():
        files.append(File.generated(config, place, content=text))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into links of the site; those to what is not on it stay, and warn."""
    del config
    here = page.file.src_uri
    within = here if here in outside() else posixpath.join(DOCS, here)

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(
            posixpath.join(posixpath.dirname(within), match["target"].rstrip("/"))
        )
        place = "index.md" if target == "README.md" else target.removeprefix(f"{DOCS}/")
        if place.endswith((".py", ".ipynb")):
            place = posixpath.splitext(place)[0] + ".md"
        if files.get_file_from_path(place) is None:
            return match["target"]
        return posixpath.relpath(place, posixpath.dirname(here) or ".")

    return LINK.sub(moved, markdown)


def cli_reference() -> str:
    """Return the page of all commands, from their own help."""
    parts = [
        "# Commands",
        _prose(commands.help or ""),
        (
            "Made from what `neurocompile COMMAND --help` prints. Exit codes: 0 done; 1 spikes differ where they must "
            "not, or a floor was missed; 2 the request cannot be met; 3 an error of neurocompile's own, with its traceback."
        ),
    ]
    for name, command in sorted(commands.commands.items()):
        parts += _command(name, command)
    return "\n\n".join(parts) + "\n"


def _command(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(
        command,
        info_name=f"neurocompile {name}",
        terminal_width=HELP_WIDTH,
        help_option_names=["-h", "--help"],
    )
    yield f"## {name}"
    yield _prose(command.help or "")
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{context.command_path} {usage}\n```"
    records = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        and (record := parameter.get_help_record(context)) is not None
    ]
    yield "\n".join(
        f"- `{names}`" + (f": {_escaped(text)}" if text else "") for names, text in records
    )
    if examples := examples_of(command):
        yield "```bash\n" + "\n".join(examples) + "\n```"


def examples_of(command: click.Command) -> list[str]:
    """Return the command lines at the end of a command's help."""
    lines = (command.epilog or "").splitlines()
    return [line.strip() for line in lines if line.startswith("  ")]


def _prose(text: str) -> str:
    """Return help as Markdown: click's own mark for paragraphs that keep their lines has no meaning here."""
    paragraphs = text.replace("\b\n", "").split("\n\n")
    return "\n\n".join(_escaped(" ".join(paragraph.split())) for paragraph in paragraphs)


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[])", r"\\\1", text).replace("<", "&lt;")
