"""
Every code block of the documentation is run, in the order of its page, or says why not.

Blocks of Python share a namespace for each page. In front of a block, an HTML comment may say what
readers need not see:

    <!-- not run: REASON -->      it cannot run here
    <!-- exit code: 2 -->         what its command ends with
    <!-- numbers differ -->       between processors: they are shown as they were once
    <!-- setup CODE -->           Python that is run at that place: `trained(DIR)` brings the tutorial's run,
                                  `small(DIR)` one of a smaller network, where any will do,
                                  `recorded(FRAMEWORK, NAME, FILE)` the .nir file of a recording, ROOT is the repository
    <!-- needs: MODULE, ... -->   the page is skipped where these are missing
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from neurocompile.cli import commands, main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RECORDINGS = ROOT / "tests" / "conformance" / "recordings"
TRAINED = ("train", "--preset", "digits", "--epochs", "10", "-o", "runs/digits")
OUTSIDE = (
    "README.md",
    "CONTRIBUTING.md",
    "targets/README.md",
)  # pages of the site that lie elsewhere
STAGES = '[{"channels": 8, "kernel": 3, "pool": 2}, {"channels": 16, "kernel": 3, "pool": 2}]'
SMALL = (
    "train",
    "--preset",
    "digits",
    "--set",
    f"network.stages={STAGES}",
    "--epochs",
    "8",
    *TRAINED[-2:],
)
REASONS = {
    "installs packages",
    "needs data sets that are downloaded",
    "needs several devices",
    "needs another framework",
    "needs a C compiler for microcontrollers",
    "needs a Loihi host",
    "part of another project; tests run it there",
}
MOST_NOT_RUN = 17
SECONDS = 300  # that one command of a page may take
DIRECTIVE = re.compile(
    r"^<!--\s*(?P<name>not run|exit code|numbers differ|needs|setup)(?::\s*)?(?P<text>.*?)-->\s*$",
    re.DOTALL,
)
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")
TITLE = re.compile(r'title="(?P<title>[\w./-]+)"')
SHELL = re.compile(r"[|;&<>*]|\bfor\b|\bcd\b|\$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, or the text of a directive `setup`, which readers do not see."""

    page: str
    line: int
    language: str
    title: str
    text: str
    not_run: str = ""
    exit_code: int = 0
    numbers_may_differ: bool = False

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Page:
    """A page: its blocks in order, and the modules that it needs."""

    name: str
    blocks: tuple[Block, ...]
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        return [name for name in self.needs if find_spec(name) is None]


def read_page(name: str, text: str) -> Page:
    """Return the page `text`, in CommonMark; raises `ValueError` for a directive that leads nowhere."""
    blocks: list[Block] = []
    needs: list[str] = []
    pending: dict[str, str] = {}
    for token in MarkdownIt().parse(text):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "html_block":
            found = DIRECTIVE.match(token.content)
            if found is None:
                continue
            said = found["text"].strip()
            if found["name"] == "needs":
                needs += [part.strip() for part in said.split(",")]
            elif found["name"] == "setup":
                blocks.append(Block(name, line, "setup", "", found["text"]))
            else:
                pending[found["name"]] = said
        elif token.type == "fence":
            language, _, info = token.info.strip().partition(" ")
            title = TITLE.search(info)
            blocks.append(
                Block(
                    name,
                    line,
                    language,
                    title["title"] if title else "",
                    token.content,
                    pending.pop("not run", ""),
                    int(pending.pop("exit code", "0")),
                    pending.pop("numbers differ", None) is not None,
                )
            )
        elif pending:
            raise ValueError(f"{name}:{line}: '{next(iter(pending))}' is not in front of a block")
    return Page(name, tuple(blocks), tuple(needs))


def commands_of(text: str, *, prompts: bool) -> list[tuple[str, str | None]]:
    """
    Return the commands in a block, each with the output shown below it (None: none is shown).

    With `prompts`, lines that begin with "$ " are commands, and all others what they print.
    """
    found: list[tuple[str, str | None]] = []
    continued = False
    for line in text.splitlines():
        if continued:
            command, output = found.pop()
            found.append((f"{command}\n{line}", output))
            continued = line.endswith("\\")
        elif prompts and not line.startswith("$ "):
            if not found:
                raise ValueError(f"output before the first command: {line!r}")
            command, output = found.pop()
            found.append((command, f"{output or ''}{line}\n"))
        elif line.strip():
            command = line[2:] if prompts else line
            found.append((command, None))
            continued = line.endswith("\\")
    return found


@dataclass
class Workplace:
    """A directory in which the blocks of one page are run, in order."""

    directory: Path
    trained: Callable[[Path], None]
    small: Callable[[Path], None]
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "__page__"})

    def run(self, block: Block) -> None:
        """Run `block`; raises `AssertionError` where it does not do what the page says."""
        if block.title and block.language != "console":
            path = self.directory / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        match block.language:
            case "python" if block.title:
                compile(block.text, block.title, "exec")
            case "python" | "setup":
                self.execute(block)
            case "bash":
                self.shell(block)
            case "console":
                for command, output in commands_of(block.text, prompts=True):
                    self.command(block, command, output)
            case "toml":
                tomllib.loads(block.text)
            case "json":
                json.loads(block.text)
            case "text":
                pass  # no code: formulas, layouts of folders
            case _:
                raise AssertionError(f"nothing here runs a block of '{block.language}'")

    def execute(self, block: Block) -> None:
        """Run Python; what it prints is held to the comments `# prints: ...`, in their order."""
        shown = [part.strip() for part in re.findall(r"# prints: (.*)", block.text)]
        self.namespace |= {
            "trained": self.trained,
            "small": self.small,
            "recorded": recorded,
            "ROOT": ROOT,
        }
        code = compile("\n" * block.line + block.text, str(ROOT / block.page), "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, self.namespace)  # noqa: S102 - the pages are our own
        if shown:
            hold("\n".join(shown), printed.getvalue())

    def shell(self, block: Block) -> None:
        """Run lines one by one where all are ours, else the block as a script."""
        commands = commands_of(block.text, prompts=False)
        ours = all(is_ours(command) for command, _ in commands)
        for command, _ in commands if ours else [(block.text, None)]:
            self.command(block, command, None)

    def command(self, block: Block, command: str, output: str | None) -> None:
        """Run one command, and compare its exit code and what it prints."""
        words = shlex.split(command.replace("\\\n", " "), comments=True)
        if not words:
            return
        if tuple(words[1:]) == TRAINED and is_ours(command):
            self.trained(self.directory / TRAINED[-1])
            return
        code, printed = self.called(words) if is_ours(command) else self.in_shell(command)
        if code != block.exit_code:
            raise AssertionError(f"exit code {code} of\n  {command}\n{printed}")
        if output is not None:
            hold(output, printed, numbers_may_differ=block.numbers_may_differ)

    def called(self, words: list[str]) -> tuple[int, str]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = main(words[1:])
        return code, printed.getvalue()

    def in_shell(self, command: str) -> tuple[int, str]:
        bin_first = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.directory,
            env={**os.environ, "PATH": bin_first},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return done.returncode, done.stdout


def recorded(framework: str, name: str, file: str) -> None:
    """Write the .nir file that a framework exported when its recording was made."""
    with np.load(RECORDINGS / framework / f"{name}.npz", allow_pickle=False) as arrays:
        Path(file).write_bytes(arrays["nir"].tobytes())


def is_ours(command: str) -> bool:
    """Whether `command` is one call of neurocompile (or a comment), without anything that a shell would do."""
    bare = re.sub(r"'[^']*'|\s#.*", "", command)
    first = command.split(maxsplit=1)[0]
    return (first == "neurocompile" or first.startswith("#")) and not SHELL.search(bare)


def hold(wanted: str, printed: str, *, numbers_may_differ: bool = False) -> None:
    """Compare what was printed with what a page shows, where `...` stands for anything; blanks do not count."""

    def plain(text: str) -> str:
        words = " ".join(text.split())
        return NUMBER.sub("0", words) if numbers_may_differ else words

    pattern = ".*".join(re.escape(plain(part)) for part in wanted.split("..."))
    # Blanks beside what is left out are part of it.
    pattern = pattern.replace(r".*\ ", ".*").replace(r"\ .*", ".*")
    if re.fullmatch(pattern, plain(printed), re.DOTALL) is None:
        raise AssertionError(f"the page shows\n{wanted}\nbut there is\n{printed}")


def pages() -> list[Page]:
    """Return all pages of the site that people write; none where they are not beside these tests."""
    places = (
        [*sorted(DOCS.rglob("*.md")), *(ROOT / name for name in OUTSIDE)] if DOCS.is_dir() else []
    )
    return [
        read_page(path.relative_to(ROOT).as_posix(), path.read_text("utf-8")) for path in places
    ]


def parameters() -> list[Any]:
    """Return the pages with blocks as parameters of a test; what runs Lava is marked."""
    return [
        pytest.param(page, id=page.name, marks=[pytest.mark.lava] if "lava" in page.needs else [])
        for page in pages()
        if page.blocks
    ]


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the tutorial's first command, trained once for all pages."""
    directory = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        assert main(TRAINED) == 0
    return directory / TRAINED[-1]


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same data by a small network, so that pages take seconds."""
    directory = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        assert main(SMALL) == 0
    return directory / TRAINED[-1]


@pytest.fixture
def workplace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Workplace]:
    """An empty directory, entered; the trained run comes on demand."""

    def trained(place: Path) -> None:
        pytest.importorskip("pytorch_lightning")
        shutil.copytree(request.getfixturevalue("trained_run"), place)

    def small(place: Path) -> None:
        pytest.importorskip("pytorch_lightning")
        shutil.copytree(request.getfixturevalue("small_run"), place)

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("CI", raising=False)  # a page stores goldens again, as people do
    before = set(sys.modules)
    yield Workplace(tmp_path, trained, small)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]  # modules that a page wrote


@pytest.mark.parametrize("page", parameters())
def test_a_page_does_what_it_says(page: Page, workplace: Workplace) -> None:
    if page.missing:
        pytest.skip(f"{', '.join(page.missing)} not installed")
    for block in page.blocks:
        if block.not_run:
            continue
        try:
            workplace.run(block)
        except Exception as error:
            raise AssertionError(f"{block.place}: {error}") from error


def test_what_is_not_run_is_little_and_says_why() -> None:
    left = [block for page in pages() for block in page.blocks if block.not_run]
    told = "\n".join(f"{block.place}: {block.not_run}" for block in left)

    sys.stderr.write(f"not run:\n{told}\n")  # shown with -s, or when this fails
    assert {block.not_run for block in left} <= REASONS
    assert len(left) <= MOST_NOT_RUN


def test_every_block_names_its_language() -> None:
    nameless = [block.place for page in pages() for block in page.blocks if not block.language]

    assert nameless == []


def test_blocks_of_text_hide_no_commands() -> None:
    hidden = [
        f"{block.place}: {line}"
        for page in pages()
        for block in page.blocks
        if block.language == "text"
        for line in block.text.splitlines()
        if re.match(r"\s*(\$ |neurocompile |python |pip |make |import |>>> )", line)
    ]

    assert hidden == []


@pytest.mark.parametrize("name", sorted(commands.commands))
def test_examples_of_a_command_are_calls_of_it(name: str) -> None:
    epilog = commands.commands[name].epilog or ""
    lines = [line.strip() for line in epilog.splitlines() if line.startswith("  ")]
    assert lines

    for line in lines:
        program, command, *rest = shlex.split(line)
        assert (program, command) == ("neurocompile", name)
        commands.commands[name].make_context(name, rest)  # raises for what it does not take


def test_commands_that_are_not_run_are_calls_all_the_same() -> None:
    readme = ROOT / "README.md"
    shown = [block for page in pages() for block in page.blocks if block.not_run]
    shown += read_page("README.md", readme.read_text("utf-8")).blocks if readme.is_file() else ()
    called = 0

    for block in shown:
        for command, _ in commands_of(block.text, prompts=False):
            words = (
                shlex.split(command.replace("\\\n", " "), comments=True) if is_ours(command) else []
            )
            if len(words) > 1:
                context = commands.commands[words[1]].make_context(words[1], words[2:])
                called += context.command is not None

    assert called or not shown


def test_a_page_is_read_as_its_renderer_reads_it() -> None:
    text = """\
<!-- needs: lava, onnx -->

<!-- not run: installs packages -->
```bash
pip install it
```

- a list

  ```python title="folder/x.py"
  x = 1
  ```

<!-- setup
y = 2
-->

    ```indented text
"""
    page = read_page("p.md", text)

    assert page.needs == ("lava", "onnx")
    assert [(block.language, block.title, block.text, block.not_run) for block in page.blocks] == [
        ("bash", "", "pip install it\n", "installs packages"),
        ("python", "folder/x.py", "x = 1\n", ""),
        ("setup", "", "\ny = 2\n", ""),
    ]


def test_a_directive_that_leads_nowhere_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="p.md:3: 'not run' is not in front of a block"):
        read_page("p.md", "<!-- not run: a reason -->\n\nWords.\n")


def test_commands_have_their_output() -> None:
    text = "$ a \\\n  b\none\ntwo\n$ c\n"

    assert commands_of(text, prompts=True) == [("a \\\n  b", "one\ntwo\n"), ("c", None)]


@pytest.mark.parametrize(
    ("language", "text", "told"),
    [
        ("python", "assert 1 == 2, 'no'", "no"),
        ("python", "print(3)  # prints: 4", "the page shows"),
        ("console", "$ neurocompile targets --nothing", "exit code 2"),
        ("console", "$ echo two\nthree", "three"),
        ("bash", "false", "exit code 1"),
        ("toml", "x = ", "Invalid value"),
        ("json", "{", "Expecting"),
        ("cobol", "STOP RUN.", "nothing here runs a block of 'cobol'"),
    ],
)
def test_a_block_that_is_wrong_fails(
    workplace: Workplace, language: str, text: str, told: str
) -> None:
    with pytest.raises((AssertionError, ValueError), match=re.escape(told)):
        workplace.run(Block("p.md", 1, language, "", text))


def test_numbers_may_differ_where_a_page_says_so() -> None:
    hold("lif1: 3.5 % of 20", "lif1:  12 % of 7e-3", numbers_may_differ=True)
    with pytest.raises(AssertionError, match="the page shows"):
        hold("lif1: 3.5 % of 20", "lif1:  12 % own", numbers_may_differ=True)
    with pytest.raises(AssertionError, match="the page shows"):
        hold("lif1: 3.5 %", "lif1: 3.6 %")


def test_output_is_compared_with_what_is_left_out(workplace: Workplace) -> None:
    workplace.run(Block("p.md", 1, "console", "", "$ echo one   two three\none ... three\n"))
    with pytest.raises(AssertionError, match="the page shows"):
        workplace.run(Block("p.md", 1, "console", "", "$ echo one two three\none ... four\n"))
