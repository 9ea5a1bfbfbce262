"""The Celery application with which the tasks are registered."""

from __future__ import annotations

import sys

from retllm.errors import StackError
from retllm.queue.notifications import celery_app
from retllm.settings import get_settings

try:
    app = celery_app(get_settings().redis_url)
except StackError as error:
    sys.stderr.write(f"{error.message}\n")
    raise SystemExit(2) from error

app.set_default()
