"""Starts workers and dispatchers in a moment: a process that has imported everything, and forks on demand.

It reads commands, one JSON list a line, and answers each with the process id of the child. A child is the leader of a
group of its own; a real process that can be killed, stopped and started as any other.
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

# what a child needs, but for the modules that read its settings
_PRELOADED = (
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.solo",
    "celery.worker.consumer",
    "kombu.transport.redis",
    "retllm.indexing.worker",
    "retllm.search.coarse_worker",
    "retllm.search.fine_worker",
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
    from tests.chaos import crash

    crash.install("announce")
    dispatch.main([], standalone_mode=True)


def _child(kind: str, name: str, log: str, environment: dict[str, str]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    with open(log, "ab") as output:  # noqa: PTH123
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.environ.update(environment)
    status = 1
    try:
        (_dispatcher if kind == "dispatch" else _worker)(kind, f"{name}@chaos")
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> None:
    """Serve until the end of the input."""
    for name in _PRELOADED:
        importlib.import_module(name)
    # nobody asks how a child ended, so none of them stays as a zombie
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        asked: list[Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(*asked)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
