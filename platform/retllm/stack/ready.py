"""Tells the stack that a Celery worker serves its queues: ``celery worker --include retllm.stack.ready``.

The file named by RETLLM_READY_FILE then holds the worker's process id. Asking the worker by Celery's ping would not do:
a worker that goes straight to a long unit answers only after it.
"""

from __future__ import annotations

import os
from pathlib import Path

from celery.signals import worker_ready

from retllm.stack.commands import READY_VARIABLE


def write_ready_file(**_: object) -> None:
    """Write this process's id into the file that RETLLM_READY_FILE names, if any."""
    path = os.environ.get(READY_VARIABLE)
    if path:
        Path(path).write_text(str(os.getpid()), "ascii")


worker_ready.connect(write_ready_file, weak=False, dispatch_uid="retllm.stack.ready")
