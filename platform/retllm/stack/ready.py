"""Reports to the stack that a Celery worker is ready: ``celery worker --include retllm.stack.ready``.

It writes the worker's process id to the file RETLLM_READY_FILE. Celery's ping is no alternative: a worker that starts
a long unit at once answers only after it.
"""

from __future__ import annotations

import os
from pathlib import Path

from celery.signals import worker_ready

from retllm.stack.commands import READY_VARIABLE


def write_ready_file(**_: object) -> None:
    """Write this process id to the file RETLLM_READY_FILE, if it is set."""
    path = os.environ.get(READY_VARIABLE)
    if path:
        Path(path).write_text(str(os.getpid()), "ascii")


worker_ready.connect(write_ready_file, weak=False, dispatch_uid="retllm.stack.ready")
