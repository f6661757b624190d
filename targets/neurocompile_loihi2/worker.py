"""
The process that runs Lava: `python -m neurocompile_loihi2.worker DIRECTORY REPLY_FD`.

It is started by `run` in a process group of its own, builds what `setup.json` says, and then obeys
lines on its standard input: `run STEPS` or `stop`. It answers on the file descriptor it was given.
Lava's usual way to fail is to hang, so:

  - an exception in any of Lava's processes is printed and ends the whole group;
  - so does the end of standard input: whoever started this worker is gone.
"""

from __future__ import annotations

import json
import multiprocessing.shared_memory
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from neurocompile_loihi2 import shim
from neurocompile_loihi2.worker_setup import CHANNEL_SLOTS, Setup

STOP_SECONDS = 10.0


def main(arguments: list[str]) -> None:
    """Build, answer "ready", and run on request."""
    if arguments == ["--probe"]:
        print(json.dumps(probe()))
        return
    directory, reply_descriptor = Path(arguments[0]), int(arguments[1])
    setup = Setup.read(directory)
    # A prefix of our own, so that whoever cleans up after a kill knows which segments were ours.
    multiprocessing.shared_memory._SHM_NAME_PREFIX = setup.shm_prefix  # type: ignore[attr-defined]
    shim.install()
    _end_the_group_on_exceptions()

    import numpy as np
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    from neurocompile_loihi2.build import build

    with np.load(directory / "arrays.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file}
    built = build(setup, arrays, directory)
    with os.fdopen(reply_descriptor, "w") as replies:
        try:
            built.entry.create_runtime(
                run_cfg=Loihi2SimCfg(select_tag="fixed_pt"),
                compile_config={"pypy_channel_size": CHANNEL_SLOTS},
            )
            requests = _requests(directory)
            print("ready", file=replies, flush=True)
            while (request := requests.get()) != "stop":
                steps = int(request.removeprefix("run "))
                built.entry.run(condition=RunSteps(num_steps=steps))
                print("done", file=replies, flush=True)
        finally:
            built.entry.stop()


def probe() -> dict[str, Any]:
    """Import all that a worker needs; return what was found, for `doctor`."""
    from importlib.metadata import version

    changes = shim.install()
    from neurocompile_loihi2 import build

    del build
    return {
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "lava-nc": version("lava-nc"),
        "numpy": version("numpy"),
        "shim": list(changes),
    }


def _end_the_group_on_exceptions() -> None:
    from lava.magma.runtime import runtime

    original = runtime.target_fn

    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            original(*arguments, **options)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os.killpg(os.getpgrp(), signal.SIGTERM)

    runtime.target_fn = guarded


def _requests(directory: Path) -> SimpleQueue[str]:
    """Return the lines of standard input as they come; its end ends the group, after a stop later."""
    requests: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        asked_to_stop = False
        for line in sys.stdin:
            asked_to_stop = line.strip() == "stop"
            requests.put(line.strip())
        if asked_to_stop:
            time.sleep(STOP_SECONDS)  # Lava's own stop can hang, too
        shutil.rmtree(directory, ignore_errors=True)
        os.killpg(os.getpgrp(), signal.SIGTERM)

    threading.Thread(target=read, daemon=True).start()
    return requests


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BaseException:
        # Lava leaves children behind that keep an interpreter from exiting.
        traceback.print_exc()
        sys.stderr.flush()
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpgrp(), signal.SIGTERM)
        sys.exit(1)
