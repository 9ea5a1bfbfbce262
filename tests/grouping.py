"""Distributes the tests with pytest-xdist: ``-p tests.grouping -n auto --dist loadfile --no-loadscope-reorder``.

The tests of a file run sequentially in one process, and so do those of all files of a group, with servers that are
started once. (The groups of xdist, ``--dist loadgroup``, have no effect with pytest 9.2: xdist 3.8 writes the group
into an attribute that pytest no longer reads.)
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from fnmatch import fnmatch
from typing import Any, TypeVar

import psutil
import pytest
from xdist.scheduler import LoadFileScheduling

# the files whose tests share what a session fixture starts: a whole platform, one whose workers they start themselves,
# and a process that has imported all commands and forks them; and those that share the model families
GROUPS = {
    "stack": (
        "tests/functional/test_documents.py",
        "tests/functional/test_whole_way.py",
        "tests/functional/test_trash.py",
        "tests/functional/test_local_sockets.py",
        "tests/functional/test_browser_*.py",
        "tests/functional/test_pages_accessible.py",
    ),
    "platform": ("tests/functional/test_shutdown.py", "tests/functional/test_transport.py"),
    "forks": ("tests/functional/test_stack.py", "tests/functional/test_secrets.py"),
    "families": ("tests/unit/fine/*",),
}
# the group whose tests may use the fixture `stack`
WITH_STACK = "stack"
# the longest files start first, so that none is still running when all others are done
FIRST = (
    *GROUPS["stack"],
    "tests/chaos/test_faults.py",
    *GROUPS["families"],
    "tests/functional/test_api_roles.py",
    "tests/unit/web/test_authorization.py",
    "tests/functional/test_hostile_uploads.py",
    "tests/functional/test_slow_clients.py",
    *GROUPS["forks"],
    *GROUPS["platform"],
    "tests/unit/queue/test_state_machine.py",
    "tests/unit/web/test_scopes.py",
    "tests/unit/db/test_lock_order.py",
    "tests/unit/workers/test_presence.py",
    "tests/unit/bench/test_jobs.py",
    "tests/unit/cli/test_evaluate.py",
)
_MAX_PROCESSES = 8
# ends what the tests of the running group share
T = TypeVar("T")
_ENDS: list[ExitStack] = []
# what a process needs with the models and the platform of its tests
_PROCESS_BYTES = 3 << 30


class Grouped(LoadFileScheduling):
    """Assigns whole groups to the processes."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0])


def group_of(file: str) -> str:
    """Return the group of a test file; most files are a group of their own."""
    found = (name for name, patterns in GROUPS.items() if any(fnmatch(file, pattern) for pattern in patterns))
    return next(found, file)


def shared(context: AbstractContextManager[T]) -> Iterator[T]:
    """Enter a context for the tests of a group, and leave it after the last of them.

    A fixture alone would leave it after the last test of the process, and idle servers take time from the others.
    """
    with ExitStack() as ends:
        _ENDS.append(ends)
        yield ends.enter_context(context)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
    """End what a group shares after its last test."""
    done = yield
    if nextitem is None or group_of(_file_of(nextitem)) != group_of(_file_of(item)):
        while _ENDS:
            _ENDS.pop().close()
    return done


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Grouped:
    """Distribute the tests by group."""
    return Grouped(config, log)


# before the hook of xdist, which is registered later
@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return two more than the number of cores, since the functional tests wait a large part of their time.

    It is one more where the memory is too small for that.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    more = 2 if psutil.virtual_memory().available >= (cores + 2) * _PROCESS_BYTES else 1
    return min(cores + more, _MAX_PROCESSES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the long groups to the front, and check that no file is missing from its group."""
    for item in items:
        file = _file_of(item)
        # a fixture of that name in the file itself is a different one
        shared = "stack" in getattr(item, "fixturenames", ()) and not hasattr(getattr(item, "module", None), "stack")
        if shared and file.startswith("tests/functional/") and group_of(file) != WITH_STACK:
            raise pytest.UsageError(f"{item.nodeid} uses the stack: put its file into that group of tests.grouping.")
    items.sort(key=_position)


def pytest_collection_finish() -> None:
    """Exempt all imported objects from garbage collection, which would otherwise traverse them repeatedly."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _position(item: pytest.Item) -> int:
    file = _file_of(item)
    return next((n for n, pattern in enumerate(FIRST) if fnmatch(file, pattern)), len(FIRST))


def _file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
