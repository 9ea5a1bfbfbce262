"""The commands of the platform's processes, as arguments of the Python interpreter. The Procfile has the same ones.

`stack_worker` adds what only a worker of the local stack needs.
"""

from __future__ import annotations

import sys

WEB = ("-m", "gunicorn", "--config", "python:retllm.stack.gunicorn_conf", "retllm_web.wsgi:app")
DISPATCH = ("-m", "retllm.cli.main", "dispatch")
MIGRATE = ("-m", "retllm.cli.main", "migrate")

READY_VARIABLE = "RETLLM_READY_FILE"
"""Environment variable with the path of the file that a worker of the stack writes when it is ready."""

QUEUES = {"media": "media", "embed": "query,embed", "score": "score"}
"""The queues of each kind of worker, by priority: the coarse stage of a search precedes index jobs.

Workers of other scorers than the main one serve `score:NAME`.
"""


def worker(kind: str, queues: str | None = None) -> tuple[str, ...]:
    """Return the command of a worker for `queues`, by default those of `kind`; it does one unit at a time."""
    return (
        *("-m", "celery", "--app", "retllm_workers.app", "worker"),
        *("--queues", queues or QUEUES[kind], "--pool", "solo", "--concurrency", "1"),
        # workers do not communicate with each other; mingling would delay each start by a second
        *("--without-gossip", "--without-mingle"),
        *("--hostname", f"{kind}@%h"),
    )


def stack_worker(kind: str, node: str, queues: str | None = None) -> tuple[str, ...]:
    """Return `worker` with its own node name (the last one counts) and the module that reports readiness."""
    return (*worker(kind, queues), "--hostname", node, "--include", "retllm.stack.ready")


PROCFILE = {"web": WEB, "dispatch": DISPATCH, **{kind: worker(kind) for kind in QUEUES}}
"""The long-running processes by their names in the Procfile."""


def python(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Prepend the current Python interpreter to `arguments`."""
    return (sys.executable, *arguments)
