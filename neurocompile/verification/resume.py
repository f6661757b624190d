"""
What an interrupted verification has counted, in a directory, so that the next one goes on there.

`verification.json` says what was verified; each chunk of samples has a file, written when it is counted.
A file that is not as it was written, or was counted on other samples than there are now, is counted
again. Who started the verification removes the directory when all is done, the report included.

Two verifications of the same in one directory do each other no harm: each file is replaced whole, and says
what it was counted on.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from neurocompile.atomic import check_writable, replacing, write_text
from neurocompile.errors import OptionError, Problem
from neurocompile.program import Program
from neurocompile.samples import SampleSource
from neurocompile.verification.jobs import Part
from neurocompile.verification.stages import Runner
from neurocompile.verification.tallies import Tally
from neurocompile.verification.wire import from_bytes, to_bytes

FORMAT = 1
MARKER = "verification.json"
SUFFIX = ".tally"
DIGEST_BYTES = 32
COMPUTES = ("numpy", "torch", "onnxruntime", "lava-nc")  # whose version may change a spike


@dataclass(frozen=True)
class Kept:
    """A directory with what was counted of the verification that `identity` tells from all others."""

    directory: Path
    identity: Mapping[str, str]

    def holds(self, part: Part) -> bool:
        """Return whether something was kept of `part`."""
        return self._file(part).is_file()

    def read(self, part: Part, samples: bytes) -> Tally | None:
        """Return what was counted of `part`, whose digest is `samples`: None if that is not there, whole."""
        try:
            content = self._file(part).read_bytes()
        except OSError:
            return None
        digest, payload = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if digest != self._digest(part, samples, payload):
            return None
        try:
            tally = from_bytes(Tally, payload)
        except ValueError:
            return None
        return tally if tally.samples == len(part) else None

    def write(self, part: Part, samples: bytes, tally: Tally) -> None:
        """Keep what was counted of `part`, whose digest is `samples`."""
        payload = to_bytes(tally)
        with replacing(self._file(part)) as temporary:
            temporary.write_bytes(self._digest(part, samples, payload) + payload)

    def _file(self, part: Part) -> Path:
        return self.directory / f"{part.start:09}-{part.stop:09}{SUFFIX}"

    def _digest(self, part: Part, samples: bytes, payload: bytes) -> bytes:
        about = json.dumps([dict(self.identity), part.start, part.stop, samples.hex()]).encode()
        return hashlib.sha256(hashlib.sha256(about).digest() + payload).digest()


def remove_kept(directory: Path) -> None:
    """Remove what `directory` keeps, and itself if there is nothing else in it; nothing where it is gone."""
    for file in [*directory.glob(f"*{SUFFIX}"), directory / MARKER]:
        file.unlink(missing_ok=True)
    with suppress(OSError):  # something else is in it, or another verification has removed it
        directory.rmdir()


def open_kept(directory: Path, runner: Runner, source: SampleSource, at_once: int) -> Kept:
    """
    Return what `directory` keeps of verifying the program of `runner` on `source`; a new one keeps nothing.

    Raises `OptionError` if it keeps something else, or was not written by this module.
    """
    kept = Kept(directory, identity_of(runner, source, at_once))
    marker = directory / MARKER
    text = json.dumps({"format": FORMAT, **kept.identity}, indent=2) + "\n"
    if marker.is_file():
        _refuse_other(directory, marker, kept.identity)
        return kept
    if directory.is_file() or (directory.is_dir() and not _only_ours(directory)):
        raise OptionError(
            Problem(
                "",
                f"'{directory}' cannot keep a verification's results",
                "it holds something else",
                "choose another directory",
            )
        )
    check_writable(directory, directory=True, option="--report")
    write_text(marker, text)
    return kept


def identity_of(runner: Runner, source: SampleSource, at_once: int) -> dict[str, str]:
    """Return what must be equal for counts to add up: what is verified, on what, and by which versions."""
    stages = hashlib.sha256(to_bytes(runner.plan)).hexdigest()
    return {
        "program": digest_of(runner.program),
        "data": source.digest(),
        "stages": stages,
        "chunks": str(at_once),
        "versions": ", ".join(f"{name} {_version(name)}" for name in ("neurocompile", *COMPUTES)),
    }


def digest_of(program: Program) -> str:
    """Return what tells `program` from others: all bytes of its files."""
    parts = hashlib.sha256()
    with tempfile.TemporaryDirectory() as directory:
        saved = Path(directory, "program")
        program.save(saved)
        for file in sorted(item for item in saved.rglob("*") if item.is_file()):
            content = file.read_bytes()
            parts.update(f"{file.relative_to(saved).as_posix()} {len(content)}\n".encode())
            parts.update(content)
    return parts.hexdigest()


def _only_ours(directory: Path) -> bool:
    """Return whether `directory` holds nothing, or counts that lost their marker, which say what they are of."""
    return all(file.suffix == SUFFIX and file.is_file() for file in directory.iterdir())


def _refuse_other(directory: Path, marker: Path, identity: Mapping[str, str]) -> None:
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
        different = [name for name, value in identity.items() if found[name] != value]
        if found["format"] != FORMAT:
            different.append("format")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise OptionError(
            Problem(
                "",
                f"'{directory}' does not say what it keeps results of",
                f"its '{MARKER}' is damaged",
                f"remove '{directory}'",
            )
        ) from error
    if different:
        raise OptionError(
            Problem(
                "",
                f"'{directory}' keeps results of another verification",
                f"these are others: {', '.join(different)}",
                f"remove '{directory}', or choose another --report",
            )
        )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"
