"""Processor time of the processes of a stack, to tell where the time of its work goes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress

import psutil  # type: ignore[import-untyped]  # ships no type information

from retllm.media import decoder


def processor_seconds(processes: Mapping[str, int]) -> dict[str, float]:
    """Return the processor time that processes and their descendants have used, in seconds, by name.

    The decoders of a process have a name of their own, ``NAME decoders``. Processes that ended are left out.

    Args:
        processes: process ids by name.
    """
    found: defaultdict[str, float] = defaultdict(float)
    for (name, _), seconds in seconds_of_each(processes).items():
        found[name] += seconds
    return dict(found)


def seconds_of_each(processes: Mapping[str, int]) -> dict[tuple[str, int], float]:
    """Return the same for each process that there is, by name and process id."""
    found = {}
    for name, pid in processes.items():
        for one in _with_descendants(pid):
            with suppress(psutil.NoSuchProcess):
                times, is_decoder = one.cpu_times(), decoder.__file__ in one.cmdline()
                found[f"{name} decoders" if is_decoder else name, one.pid] = times.user + times.system
    return found


def _with_descendants(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
