"""Confine the decoder's process: limits of memory, time and files; nothing else of the machine within its reach."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

from retllm.media.decoding import landlock, system_calls

PROTECTIONS = ("calls", "files", "network", "signals", "namespaces")
"""What the kernel may hold: refused system calls (seccomp), files, networks and signals (Landlock), own namespaces."""

_MAX_FILES = 16  # the socket, and files that a library opens
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000


def confine(memory: int) -> list[str]:
    """Limit this process to what decoding needs: ``memory`` bytes, and to read a few open files and its libraries.

    Returns those of ``PROTECTIONS`` that this kernel holds, and goes without the others.
    """
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: _MAX_FILES,
    }
    held = _restrict()
    if "calls" not in held:
        # forbids threads as well, without which HEIC can't be decoded; root is exempt from it
        limits[resource.RLIMIT_NPROC] = 0
    for which, limit in limits.items():
        _, hard = resource.getrlimit(which)
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(which, (allowed, allowed))
    # Ctrl-C in the terminal is for the parent process; this one ends when the parent closes the socket
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return held


def extend_cpu_limit(seconds: float) -> None:
    """Allow so many more seconds of CPU time; beyond them the kernel kills this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _restrict() -> list[str]:
    """Let the kernel keep this process from all that it has no need of, for good; return what the kernel can."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "prctl"):  # not Linux
        return []
    held = []
    # the namespace of users lets everybody have the others; root needs none, and would lose its right to read files
    own = _CLONE_NEWNET | _CLONE_NEWIPC | (0 if os.geteuid() == 0 else _CLONE_NEWUSER)
    if not library.unshare(own):
        held.append("namespaces")
    if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return held
    held += landlock.restrict(library)
    # last: it refuses what the others are made of
    if system_calls.restrict(library):
        held.append("calls")
    return held
