"""Refuse system calls that decoding does not need (seccomp)."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000  # x86-64 has its system calls a second time, with this bit
# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND and what O_TMPFILE has of its own
_TO_WRITE = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000
# F_SETOWN, F_SETSIG and F_SETOWN_EX let the kernel send a signal of one's choice to another process
_OWNERS_OF_FILES = (8, 10, 15)
# FIOSETOWN and SIOCSPGRP do the same; TIOCSTI types into a terminal
_OWNERS_OF_DEVICES = (0x8901, 0x8902, 0x5412)

# numbers that are the same everywhere: pidfd_send_signal, io_uring (three), open_tree, move_mount, fsopen, fsconfig,
# fsmount, fspick, pidfd_open, openat2, pidfd_getfd, process_madvise, mount_setattr, quotactl_fd, memfd_secret,
# process_mrelease, fchmodat2, setxattrat, removexattrat
_EVERYWHERE = (*range(424, 435), 437, 438, 440, 442, 443, 447, 448, 452, 463, 466)
_REFUSED = {
    "x86_64": (
        *(57, 58, 59, 322),  # fork, vfork, execve, execveat
        *(41, 42, 49, 50, 53),  # socket, connect, bind, listen, socketpair
        *(101, 310, 311, 312),  # ptrace, process_vm_readv, process_vm_writev, kcmp
        *(129, 200, 297),  # rt_sigqueueinfo, tkill, rt_tgsigqueueinfo
        *(76, 77, 285),  # truncate, ftruncate, fallocate
        *(
            82,
            264,
            316,
            83,
            258,
            84,
            85,
            86,
            265,
            87,
            263,
            88,
            266,
        ),  # rename, mkdir, rmdir, creat, link, unlink, symlink
        *(90, 91, 268, 92, 93, 94, 260, 132, 235, 261, 280, 133, 259),  # chmod, chown, utime, mknod and the like
        *(188, 189, 190, 197, 198, 199),  # extended attributes
        *(155, 161, 165, 166, 272, 308),  # pivot_root, chroot, mount, umount2, unshare, setns
        *(246, 320, 175, 176, 313, 169, 167, 168, 163, 172, 173),  # kernel, modules, reboot, swap, acct, ports
        *(159, 164, 227, 305, 170, 171, 103, 179),  # clocks, names of the machine, log of the kernel, quotas
        *(321, 298, 323, 248, 249, 250, 300, 303, 304, 319),  # bpf, perf, userfaultfd, keys, fanotify, handles, memfd
        *(29, 30, 31, 64, 65, 66, 68, 69, 70, 71, 220, 240, 241),  # shared memory, semaphores, messages
        *(135, 141, 142, 144, 203, 251, 256, 279, 314),  # personality, priorities, affinities, pages of others
    ),
    "aarch64": (
        *(221, 281),
        *(198, 203, 200, 201, 199),
        *(117, 270, 271, 272),
        *(138, 130, 240),
        *(45, 46, 47),
        *(38, 276, 34, 37, 35, 36),
        *(52, 53, 54, 55, 88, 33),
        *(5, 6, 7, 14, 15, 16),
        *(41, 51, 40, 39, 97, 268),
        *(104, 294, 105, 106, 273, 142, 224, 225, 89),
        *(112, 170, 171, 266, 161, 162, 116, 60),
        *(280, 241, 282, 217, 218, 219, 262, 264, 265, 279),
        *(194, 195, 196, 190, 191, 192, 193, 186, 187, 188, 189, 180, 181),
        *(92, 140, 118, 119, 122, 30, 238, 239, 274),
    ),
}


@dataclass(frozen=True, slots=True)
class _Machine:
    """The audit architecture, and calls that are refused by what they are asked; ``open`` is 0 where there is none."""

    architecture: int
    clone: int
    open: int
    openat: int
    kill: int
    tgkill: int
    fcntl: int
    ioctl: int
    prlimit: int


_MACHINES = {
    "x86_64": _Machine(0xC000003E, 56, 2, 257, 62, 234, 72, 16, 302),
    "aarch64": _Machine(0xC00000B7, 220, 0, 56, 129, 131, 25, 29, 261),
}
_CLONE3 = 435

# instructions of the Berkeley Packet Filter, and offsets in struct seccomp_data
_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_Step = tuple[int, int, int, int]
_REFUSE: _Step = (_ANSWER, 0, 0, _ERRNO | errno.EPERM)
_PASS: _Step = (_ANSWER, 0, 0, _ALLOW)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def restrict(library: ctypes.CDLL) -> bool:
    """Refuse the calls for good; return whether the kernel does. ``no_new_privs`` must be set."""
    machine = _MACHINES.get(platform.machine())
    if machine is None or struct.calcsize("P") != 8:
        return False
    code = b"".join(struct.pack("=HBBI", *step) for step in _filter(machine, _REFUSED[platform.machine()]))
    instructions = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(instructions))
    return not library.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)


def _filter(machine: _Machine, refused: tuple[int, ...]) -> list[_Step]:
    own = os.getpid()
    steps: list[_Step] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, machine.architecture),
        _REFUSE,
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        _REFUSE,
    ]
    for call in (*refused, *_EVERYWHERE):
        steps += [(_EQUAL, 0, 1, call), _REFUSE]
    # its flags are out of the filter's reach; the C library falls back to clone
    steps += [(_EQUAL, 0, 1, _CLONE3), (_ANSWER, 0, 0, _ERRNO | errno.ENOSYS)]
    # threads only, files for reading only, signals and limits of this process only
    steps += _if(machine.clone, 0, [(_HAS_BITS, 1, 0, _CLONE_THREAD), _REFUSE, _PASS])
    if machine.open:
        steps += _if(machine.open, 1, [(_HAS_BITS, 0, 1, _TO_WRITE), _REFUSE, _PASS])
    steps += _if(machine.openat, 2, [(_HAS_BITS, 0, 1, _TO_WRITE), _REFUSE, _PASS])
    for call in (machine.kill, machine.tgkill):
        steps += _if(call, 0, [(_EQUAL, 1, 0, own), _REFUSE, _PASS])
    steps += _if(machine.prlimit, 0, [(_EQUAL, 2, 0, 0), (_EQUAL, 1, 0, own), _REFUSE, _PASS])
    steps += _if(machine.fcntl, 1, _unless(_OWNERS_OF_FILES))
    steps += _if(machine.ioctl, 1, _unless(_OWNERS_OF_DEVICES))
    return [*steps, _PASS]


def _if(call: int, argument: int, decision: list[_Step]) -> list[_Step]:
    """Return what decides about a call by the lower half of an argument."""
    return [(_EQUAL, 0, len(decision) + 1, call), (_LOAD, 0, 0, _ARGUMENTS + 8 * argument), *decision]


def _unless(values: tuple[int, ...]) -> list[_Step]:
    compare: list[_Step] = [(_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    return [*compare, _PASS, _REFUSE]
