"""
How many samples run side by side, and what a session takes: processes, shared memory, time.

A machine step costs a share for every process, since Lava tells each one to begin and waits for each to
end, and work that grows with the samples side by side. All are estimates from measurements
(`docs/decisions/0011-lava-speed.md`); they choose between set-ups that compute the same. Stdlib only.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from neurocompile.errors import ExecutionError, Problem
from neurocompile_loihi2.worker_setup import CHANNEL_SLOTS, MEMBRANE, Setup

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # where POSIX puts it on Linux
SHARED_MEMORY_MAXIMUM = 256 << 20  # of a session that has more than one sample side by side
SHARED_MEMORY_PART = 2  # take no more than half of what is free
PROCESSES_MAXIMUM = 512  # some 25 MB and 0.3 ms a step each
LAVAS_PROCESSES = 4  # the worker, the runtime's service, and two that manage shared memory
UNROLLED_MAXIMUM = 1 << 26  # some 2 GB while it is built
SEGMENTS_EACH = 2  # small ones by which a process is told what to do
PAGE = 4096

PROCESS_SECONDS = 0.3e-3  # of a machine step, for each process
# Of a machine step, for each synapse: once, and for each sample.
SYNAPSE_SECONDS = {
    "Sparse": (2.0e-9, 0.27e-9),
    "BatchConvolution": (0.06e-9, 0.035e-9),
    "Conv": (0, 20e-9),
}
ALONE_SECONDS = 0.8e-9  # for a synapse of a Sparse whose sample is alone: another product
DELAYED_SECONDS = 20e-9  # for a synapse of Lava's DelaySparse, which sorts them at every step
NEURON_SECONDS = (22e-9, 7e-9)  # the first is Lava's own code, which computes one sample of all
STEP_SECONDS_MAXIMUM = 2.0  # so that a session can be seen to go on
SETUP_SECONDS = 2.0  # what a new session must save at least
REPLICAS_MAXIMUM = 64  # more gain nothing: the rows of a matrix product fit a cache no longer


def choose_replicas(setup: Setup, samples: int, drain: int) -> int:
    """
    Return how many of `samples` should run side by side; `drain` is for how many periods layers lag.

    Powers of two up to `REPLICAS_MAXIMUM`, and `samples` itself, are compared.
    """
    if not setup.side_by_side:
        return 1
    room = min(SHARED_MEMORY_MAXIMUM, _free() // SHARED_MEMORY_PART)
    limit = min(samples, REPLICAS_MAXIMUM)
    choices = {limit} | {1 << power for power in range(limit.bit_length())}
    fitting = [
        choice
        for choice in choices
        if choice == 1
        or (
            shared_memory_bytes(replace(setup, replicas=choice)) <= room
            and step_seconds(replace(setup, replicas=choice)) <= STEP_SECONDS_MAXIMUM
        )
    ]
    return min(
        fitting, key=lambda choice: run_seconds(replace(setup, replicas=choice), samples, drain)
    )


def run_seconds(setup: Setup, samples: int, drain: int) -> float:
    """Return about how long `samples` take."""
    slots = -(-samples // setup.replicas)
    return (slots + drain) * setup.period * step_seconds(setup)


def step_seconds(setup: Setup) -> float:
    """Return about how long a machine step takes."""
    layout, replicas = setup.layout, setup.replicas
    works: list[float] = []
    for connection in layout["connections"]:
        way, synapses = connection["simulated_by"], connection["synapses"]
        each = _each(SYNAPSE_SECONDS[way], replicas)
        if way == "Sparse":
            if connection["longest_delay"] and not setup.side_by_side:
                each = DELAYED_SECONDS
            elif replicas == 1:
                each = ALONE_SECONDS
        works.append(synapses * each)
    neurons = [math.prod(entry["shape"]) for entry in layout["populations"]]
    neurons += [relay["neurons"] for relay in layout["relays"]]
    works += [number * _each(NEURON_SECONDS, replicas) for number in neurons]
    cores = os.cpu_count() or 1
    return process_count(setup) * PROCESS_SECONDS + max([*works, sum(works) / cores])


def _each(seconds: tuple[float, float], replicas: int) -> float:
    once, for_each_sample = seconds
    return once + for_each_sample * replicas


def check_room(setup: Setup) -> None:
    """Raise `ExecutionError` if `setup` takes too many processes or more shared memory than is free."""
    problems = []
    processes, needed, free = process_count(setup), shared_memory_bytes(setup), _free()
    if processes > PROCESSES_MAXIMUM:
        problems.append(
            Problem(
                "",
                f"Lava may have at most {PROCESSES_MAXIMUM} processes",
                f"the network needs {processes}",
                "record fewer layers, export with -O parameters=arrays or -O balance=delay, or run on fixedpoint",
            )
        )
    problems += [
        Problem(
            connection["name"],
            f"can be written out as at most {UNROLLED_MAXIMUM:,} synapses, as its spikes are delayed",
            f"it has {connection['synapses']:,}",
            "use one delay for the layer and -O convolution=sparse, or run on fixedpoint",
        )
        for connection in setup.layout["connections"]
        if connection["process"] == "Convolution"
        and connection["simulated_by"] == "Sparse"
        and connection["synapses"] > UNROLLED_MAXIMUM
    ]
    if needed > free:
        problems.append(
            Problem(
                "",
                f"Lava's channels need {-(-needed >> 20)} MiB of shared memory",
                f"{SHARED_MEMORY} has {free >> 20} MiB left",
                "enlarge it (docker run --shm-size), or run on fixedpoint",
            )
        )
    if problems:
        raise ExecutionError(*problems)


def process_count(setup: Setup) -> int:
    """Return how many processes of the system a session has, at most."""
    layout = setup.layout
    streams = len(setup.sources) + len(setup.host) + len(setup.drives)
    neurons = sum(len(entry.get("parts", (None,))) for entry in layout["populations"])
    relays = 2 * len(layout["relays"])
    records = sum(
        len(_parts(setup, stream.population)) if name.startswith(MEMBRANE) else 1
        for name, stream in zip(setup.record, setup.records, strict=True)
    )
    tie = 1
    own = streams + neurons + relays + len(layout["connections"]) + records + tie
    return own + LAVAS_PROCESSES


def shared_memory_bytes(setup: Setup) -> int:
    """Return how much shared memory a session's channels take, at most."""
    messages = sum(
        _pages(CHANNEL_SLOTS * 4 * neurons * setup.replicas) for neurons in _channels(setup)
    )
    return messages + SEGMENTS_EACH * process_count(setup) * PAGE


def _channels(setup: Setup) -> Iterator[int]:
    """Yield for each channel how many numbers a message has for one sample."""
    layout = setup.layout
    neurons = {entry["name"]: math.prod(entry["shape"]) for entry in layout["sources"]}
    neurons |= {name: math.prod(entry["shape"]) for name, entry in setup.populations.items()}
    for relay in layout["relays"]:
        yield from _parts(setup, relay["source"]) if relay["start"] == 0 else (relay["neurons"],)
        yield relay["neurons"]
    for connection in layout["connections"]:
        source, target = connection["source"], connection["target"]
        yield from _parts(setup, source) if connection["wait"] == 0 else (neurons[source],)
        for _part in _parts(setup, target):
            yield neurons[target]
    for stream in (*setup.host, *setup.drives):
        for _part in _parts(setup, stream.population):
            yield stream.neurons
    for name, stream in zip(setup.record, setup.records, strict=True):
        for part in _parts(setup, stream.population):
            yield part
            if name.startswith(MEMBRANE):
                yield part  # a Var is asked for, and answers
    yield from (1 for _ in setup.populations)  # that tie together what is not connected otherwise


def _parts(setup: Setup, name: str) -> list[int]:
    """Return the neurons of each process of a population; of an input, all of them."""
    if name not in setup.populations:
        return [
            math.prod(entry["shape"]) for entry in setup.layout["sources"] if entry["name"] == name
        ][:1]
    entry = setup.populations[name]
    if "parts" not in entry:
        return [math.prod(entry["shape"])]
    return [part["neurons"] for part in entry["parts"]]


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _free() -> int:
    """Return the bytes of shared memory that are left; where there is no such folder, very many."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return 1 << 62
