"""
One of the processes of `jobs`: counts the parts of the samples that it is told, until nothing more comes.

    python -m neurocompile.verification.worker DIRECTORY REPLIES PROCESSORS

Requests are lines of JSON on standard input, replies go to the file descriptor REPLIES, each with its
length before it. PROCESSORS are those that it uses, so that engines which take all there are do not
take those of the others. When standard input ends in the middle of a part, nobody waits for the part any more.
A last line, END, comes before that. Without it, who started us was killed, and DIRECTORY is removed here.
"""

from __future__ import annotations

import json
import math
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from neurocompile.data import DataOptions
from neurocompile.errors import NeurocompileError
from neurocompile.program import load
from neurocompile.samples import SampleSource, digest_of, open_source
from neurocompile.target import Progress
from neurocompile.verification.jobs import (
    BROKEN,
    COUNTED,
    END,
    FAILED,
    LENGTH_BYTES,
    PLAN,
    PROGRAM,
    READY,
    SETUP,
    unpacked,
)
from neurocompile.verification.stages import Plan, Runner
from neurocompile.verification.stream import count_chunk
from neurocompile.verification.wire import from_bytes, tell, to_bytes


def main(directory: Path, replies: IO[bytes]) -> None:
    """Count what is asked for; an error is told, and ends it."""
    requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    busy = threading.Event()
    busy.set()
    alone = threading.Event()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have us ignore it
    threading.Thread(target=_listen, args=(requests, busy, alone), daemon=True).start()
    try:
        _work(directory, requests, busy, replies)
    except NeurocompileError as error:
        _send(replies, FAILED, tell(error))
    except KeyboardInterrupt:  # `_listen`'s: nobody waits for an answer
        return
    except BaseException:  # noqa: BLE001  # a bug keeps its traceback, also from here
        _send(replies, BROKEN, traceback.format_exc().encode())
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if alone.is_set():
            shutil.rmtree(directory, ignore_errors=True)


def _work(
    directory: Path,
    requests: queue.SimpleQueue[dict[str, Any] | None],
    busy: threading.Event,
    replies: IO[bytes],
) -> None:
    setup = json.loads((directory / SETUP).read_text(encoding="utf-8"))
    source = _source(setup)
    with load(directory / PROGRAM) as program:
        runner = Runner(program, from_bytes(Plan, (directory / PLAN).read_bytes()))
        busy.clear()
        _send(replies, READY)
        while (request := requests.get()) is not None:
            if source is None:
                samples = unpacked(directory / request["file"])
            else:
                samples = source.part(request["start"], request["stop"])
            tally = count_chunk(
                runner,
                samples,
                request["start"],
                progress_of=_silent,
                ends=_ends(request["seconds"]),
            )
            busy.clear()  # before the reply, which the next request follows
            _send(replies, COUNTED, digest_of(samples) + to_bytes(tally))


def _ends(seconds: float | None) -> float:
    return math.inf if seconds is None else time.monotonic() + seconds


def _source(setup: dict[str, Any]) -> SampleSource | None:
    """Return the samples that have a name; None if each part comes in a file."""
    if setup["data"] is None:
        return None
    options = dict(setup["options"])
    root = options.pop("root")
    given = DataOptions(root=None if root is None else Path(root), **options)
    return open_source(setup["data"], given, count=setup["count"])


def _silent(_stage: str) -> Progress:
    return lambda _done, _of: None


def _listen(
    requests: queue.SimpleQueue[dict[str, Any] | None],
    busy: threading.Event,
    alone: threading.Event,
) -> None:
    """Pass requests on; their end while one is at work is an interruption, for what runs to be ended."""
    for line in sys.stdin.buffer:
        if line == END:
            break
        busy.set()
        requests.put(json.loads(line))
    else:
        alone.set()
    requests.put(None)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGINT)


def _send(replies: IO[bytes], kind: bytes, content: bytes = b"") -> None:
    with suppress(BrokenPipeError):  # nobody reads any more: the end of input says so, too
        replies.write((1 + len(content)).to_bytes(LENGTH_BYTES, "little") + kind + content)
        replies.flush()


def _use(processors: str) -> None:
    if hasattr(os, "sched_setaffinity"):  # not on macOS
        os.sched_setaffinity(0, [int(number) for number in processors.split(",")])


if __name__ == "__main__":
    _use(sys.argv[3])
    main(Path(sys.argv[1]), os.fdopen(int(sys.argv[2]), "wb"))
