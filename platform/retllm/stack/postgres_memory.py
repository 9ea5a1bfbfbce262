"""How much of its machine's memory the embedded PostgreSQL uses.

The models of the workers need the most, so the server takes less than one on a machine of its own would. An HNSW index
is built fast while it fits in ``maintenance_work_mem``: about 3 KB for each vector of 512 dimensions. One is built
at a time (:mod:`retllm.indexing.vector_indexes`).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil  # type: ignore[import-untyped]  # it has no types

MIB = 1 << 20
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where PostgreSQL makes shared memory
_LIMITS = tuple(Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory/memory.limit_in_bytes"))
# of other shared memory than that of a build
_SPARE = 64 * MIB


@dataclass(frozen=True)
class Machine:
    """What the server can use.

    Attributes:
        memory: bytes of memory, of this container if it has a limit.
        shared_memory: free bytes in the folder of POSIX shared memory; 64 MiB in many containers.
        cores: number of cores.
    """

    memory: int
    shared_memory: int
    cores: int

    @classmethod
    def this(cls) -> Self:
        """Return this machine."""
        memory = min([int(psutil.virtual_memory().total), *map(_limit, _LIMITS)])
        shared = shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else memory
        return cls(memory, shared, os.cpu_count() or 1)


def _limit(path: Path) -> int:
    """Return the limit in a file of a control group; a very large number if it has none."""
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return 1 << 62


def memory_options(machine: Machine) -> dict[str, str]:
    """Return the server's options for a machine."""
    build = _between(64, machine.memory // 8, 8192)
    # processes that build an index together have it in shared memory, which may not run out; the other kind of shared
    # memory, files, would be written to the disk as a whole
    together = machine.shared_memory >= build * MIB + _SPARE
    return {
        "shared_buffers": f"{_between(128, machine.memory // 8, 8192)}MB",
        "effective_cache_size": f"{_between(256, machine.memory // 2, 1 << 20)}MB",
        "maintenance_work_mem": f"{build}MB",
        # there can be three of these at a time
        "autovacuum_work_mem": "64MB",
        # they build beside the process that asks
        "max_parallel_maintenance_workers": str(min(7, machine.cores // 2) if together else 0),
    }


def _between(least: int, size: int, most: int) -> int:
    """Return a size in bytes as MiB, between two numbers of MiB."""
    return max(least, min(most, size // MIB))
