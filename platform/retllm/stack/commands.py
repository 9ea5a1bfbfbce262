"""The command of each process of the platform: the one place that knows them; the Procfile says the same.

Each is an argument list after the Python interpreter. The stack adds to a worker's what only it needs (`stack_worker`).
"""

from __future__ import annotations

import sys

WEB = ("-m", "gunicorn", "--config", "python:retllm.stack.gunicorn_conf", "retllm_web.wsgi:app")
DISPATCH = ("-m", "retllm.cli.main", "dispatch")
MIGRATE = ("-m", "retllm.cli.main", "migrate")

READY_VARIABLE = "RETLLM_READY_FILE"
"""Environment variable that names the file in which a worker of the stack says that it is ready."""

QUEUES = {"embed": "query,embed", "score": "score"}
"""The queues that a kind of worker serves, first come first: the coarse step of a search precedes an index job."""


def worker(kind: str) -> tuple[str, ...]:
    """A worker of the queues of `kind`: one process with one model, which does one unit at a time."""
    return (
        *("-m", "celery", "--app", "retllm_workers.app", "worker"),
        *("--queues", QUEUES[kind], "--pool", "solo", "--concurrency", "1"),
        # workers don't talk to each other: neither gossip nor the second that mingling takes at each start
        *("--without-gossip", "--without-mingle"),
        *("--hostname", f"{kind}@%h"),
    )


def stack_worker(kind: str, node: str) -> tuple[str, ...]:
    """`worker` with a node name of its own (the later one counts), and the module that tells when it is ready."""
    return (*worker(kind), "--hostname", node, "--include", "retllm.stack.ready")


PROCFILE = {"web": WEB, "dispatch": DISPATCH, "embed": worker("embed"), "score": worker("score")}
"""The long-running processes, by their names in the Procfile."""


def python(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """`arguments` to the interpreter that runs this process."""
    return (sys.executable, *arguments)
