"""What the workers of a started stack report of their models: why one can't be had is said where they were started."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any

import sqlalchemy as sa

from retllm.db.operations import Worker
from retllm.db.session import make_sessions, transaction
from retllm.settings import Settings, public_name
from retllm.stack.local import LocalStack

_SECONDS = 1.0
_DOCTOR = "`retllm doctor` says what to do."


def early_models(settings: Settings) -> set[str]:
    """Return the public names of the models that the workers load before they are needed."""
    embedders = [settings.embedder_name] if settings.embed_workers else []
    scorers = settings.scorers if settings.score_workers else ()
    return {public_name(name) for name in (*embedders, *scorers)}


def failures(reports: Iterable[Collection[dict[str, Any]]], awaited: set[str]) -> dict[str, str]:
    """Take models that are loaded, or can't be, out of ``awaited``; return why they can't, by name.

    Args:
        reports: of each worker, its models.
        awaited: public names.
    """
    found: dict[str, str] = {}
    for model in (model for report in reports for model in report):
        if model["name"] in awaited and (model["loaded"] or model["error"]):
            awaited.discard(model["name"])
            if not model["loaded"]:
                found[model["name"]] = f"{model['error'].rstrip('.')}. {_DOCTOR}"
    return found


class ModelWatch:
    """Tells of each model that the workers can't have, in a thread; the start does not wait for it.

    Args:
        stack: started.
        tell: is given the name of a model, and a sentence.
        look: is called while models are awaited.
    """

    def __init__(self, stack: LocalStack, tell: Callable[[str, str], None], look: Callable[[], None]) -> None:
        self._stack = stack
        self._tell = tell
        self._look = look
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="models", daemon=True)

    def start(self) -> None:
        """Begin to watch; the thread ends when each model is loaded or can't be."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        awaited = early_models(self._stack.settings)
        sessions = make_sessions(self._stack.settings.direct_url or self._stack.database_url)
        try:
            while awaited and not self._over.wait(_SECONDS):
                ours = [f"{socket.gethostname()}:{number}" for number in self._stack.processes.values()]
                with transaction(sessions) as session:
                    reports = session.scalars(sa.select(Worker.models).where(Worker.name.in_(ours))).all()
                for name, sentence in failures(reports, awaited).items():
                    self._tell(name, sentence)
                self._look()
        except sa.exc.SQLAlchemyError:
            # the stack ends, or its page Workers tells later
            return
        finally:
            sessions.kw["bind"].dispose()
