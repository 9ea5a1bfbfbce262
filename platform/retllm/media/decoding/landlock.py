"""Close the file system, the network and other processes to this process for good, as far as the kernel can (Landlock).

Only files of the interpreter and of the libraries can be read after that. What is open stays open.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# rights that each version of the interface added: 13 at first, then to move files, to truncate, and devices' ioctl
_RIGHTS_OF_FILES = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_BIND_AND_CONNECT, _SINCE_NETWORK = 0b11, 4
_SOCKETS_AND_SIGNALS, _SINCE_SCOPES = 0b11, 6

# what decoders import, some of it when the first picture of its kind comes
_MODULES = ("retllm", "PIL", "numpy", "simplejpeg", "pillow_heif", "pillow_jxl", "rawpy", "pypdfium2", "av")
_SHARED = ("site-packages", "dist-packages")
# libraries, fonts (of PDFs) and what the C library asks of the machine
_SYSTEM = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "/usr/share/zoneinfo",
    "/nix/store",
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system/cpu",
    "/dev/null",
    "/dev/urandom",
)


def restrict(library: ctypes.CDLL) -> list[str]:
    """Restrict this thread and those that it starts; return what other files, networks and processes are closed to.

    ``no_new_privs`` must be set. Nothing is restricted where the kernel has no Landlock.
    """
    version = int(library.syscall(_CREATE, None, 0, _VERSION_FLAG))
    if version < 1:
        return []
    files = sum(rights for since, rights in _RIGHTS_OF_FILES.items() if since <= version)
    network = _BIND_AND_CONNECT if version >= _SINCE_NETWORK else 0
    scopes = _SOCKETS_AND_SIGNALS if version >= _SINCE_SCOPES else 0
    rules = library.syscall(_CREATE, *_buffer(struct.pack("=QQQ", files, network, scopes)[: _size(version)]), 0)
    if rules < 0:
        return []
    try:
        for path in _readable():
            _allow(library, rules, path)
        if library.syscall(_RESTRICT, rules, 0):
            return []
    finally:
        os.close(rules)
    return ["files", *(["network"] if network else []), *(["signals"] if scopes else [])]


def _size(version: int) -> int:
    """Return the size of the attributes that this version of the interface knows."""
    return 8 * (1 + (version >= _SINCE_NETWORK) + (version >= _SINCE_SCOPES))


def _buffer(data: bytes) -> tuple[ctypes.Array[ctypes.c_char], ctypes.c_size_t]:
    return ctypes.create_string_buffer(data, len(data)), ctypes.c_size_t(len(data))


def _allow(library: ctypes.CDLL, rules: int, path: str) -> None:
    """Allow to read a file, or all files of a folder; nothing if there is none."""
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = _READ_FILE | (_READ_DIR if Path(path).is_dir() else 0)
        rule, _ = _buffer(struct.pack("=Qi", rights, opened))
        library.syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0)
    finally:
        os.close(opened)


def _readable() -> Iterator[str]:
    """Yield the files and folders that are left open; not those of ``sys.path``, one of which may be a home folder."""
    yield from _SYSTEM
    yield from {sys.prefix, sys.base_prefix, sys.base_exec_prefix}
    for name in _MODULES:
        found = find_spec(name)
        if found is None or found.origin is None:
            continue
        package = Path(found.origin).parent if found.submodule_search_locations else Path(found.origin)
        # compiled libraries of a package are in a folder beside it
        yield str(package.parent if package.parent.name in _SHARED else package)
