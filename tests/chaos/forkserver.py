"""A process that has imported everything and forks workers and dispatchers on demand, so that they start quickly.

It reads commands, one JSON list per line, and answers each with the process ID of the child. Each child is a normal
process that leads its own process group.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from typing import Any

from retllm.cli.dispatch import dispatch
from retllm.stack import commands

# modules that a child needs, except those that read its settings
_PRELOADED = (
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.solo",
    "celery.worker.consumer",
    "kombu.transport.redis",
    "retllm.indexing.worker",
    "retllm.search.coarse_worker",
    "retllm.search.fine_worker",
    "retllm.uploads.worker",
    "retllm_workers.context",
    "tests.chaos.models",
)


def _worker(kind: str, node: str) -> None:
    from celery.bin.celery import main

    arguments = list(commands.worker(kind)[2:])
    arguments[arguments.index("--app") + 1] = "tests.chaos.worker"
    sys.argv = ["celery", *arguments, "--hostname", node]
    main()


def _dispatcher(_: str, __: str) -> None:
    from tests.chaos import crash, large

    crash.install("announce")
    large.install()
    dispatch.main([], standalone_mode=True)


def _child(kind: str, name: str, log: str, environment: dict[str, str]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    with open(log, "ab") as output:  # noqa: PTH123
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.environ.update(environment)
    status = 1
    try:
        (_dispatcher if kind == "dispatch" else _worker)(kind, f"{name}@chaos")
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> None:
    """Serve until the end of the input."""
    for name in _PRELOADED:
        importlib.import_module(name)
    # children are not waited for: the kernel removes them, so that none remains as a zombie
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        arguments: list[Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(*arguments)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
