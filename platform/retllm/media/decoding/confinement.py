"""Confine the decoder's process: limits of memory, time and files; no new processes, no sockets."""

from __future__ import annotations

import ctypes
import errno
import platform
import resource
import signal
import struct

_MAX_FILES = 16  # the socket, and files that a library opens
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000  # x86-64 has its system calls a second time, with this bit
# by machine: the audit architecture, then the numbers of clone, clone3 and of all that is refused:
# fork, vfork, execve, execveat, socket, io_uring_setup (which opens sockets too), as far as the machine has them
_CALLS = {
    "x86_64": (0xC000003E, 56, 435, (57, 58, 59, 322, 41, 425)),
    "aarch64": (0xC00000B7, 220, 435, (221, 281, 198, 425)),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def confine(memory: int) -> None:
    """Limit this process to what decoding needs: ``memory`` bytes, few open files, no file writes, no subprocesses."""
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: _MAX_FILES,
    }
    if not _filter_calls():
        # forbids threads as well, without which HEIC can't be decoded; root is exempt from it
        limits[resource.RLIMIT_NPROC] = 0
    for which, limit in limits.items():
        _, hard = resource.getrlimit(which)
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(which, (allowed, allowed))
    # Ctrl-C in the terminal is for the parent process; this one ends when the parent closes the socket
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def extend_cpu_limit(seconds: float) -> None:
    """Allow so many more seconds of CPU time; beyond them the kernel kills this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _filter_calls() -> bool:
    """Let the kernel refuse new processes, programs and sockets for good; return whether it can (seccomp)."""
    calls = _CALLS.get(platform.machine())
    if calls is None or struct.calcsize("P") != 8:
        return False
    code = _filter(*calls)
    instructions = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(instructions))
    try:
        prctl = ctypes.CDLL(None).prctl
    except AttributeError:  # not Linux
        return False
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    return not prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)


def _filter(architecture: int, clone: int, clone3: int, refused: tuple[int, ...]) -> bytes:
    """Return the program of the filter, in the instructions of the Berkeley Packet Filter."""
    load, equal, at_least, has_bits, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    number, arch, flags = 0, 4, 16  # offsets in struct seccomp_data
    refuse = (answer, 0, 0, _ERRNO | errno.EPERM)
    steps = [
        (load, 0, 0, arch),
        (equal, 1, 0, architecture),
        refuse,
        (load, 0, 0, number),
        (at_least, 0, 1, _X32),
        refuse,
    ]
    for call in refused:
        steps += [(equal, 0, 1, call), refuse]
    # its flags are out of the filter's reach; the C library falls back to clone
    steps += [(equal, 0, 1, clone3), (answer, 0, 0, _ERRNO | errno.ENOSYS)]
    # clone may make threads only
    steps += [(equal, 0, 3, clone), (load, 0, 0, flags), (has_bits, 1, 0, _CLONE_THREAD), refuse]
    steps += [(answer, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
