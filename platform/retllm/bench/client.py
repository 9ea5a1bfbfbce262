"""A client of a stack that a benchmark starts beside whatever runs on this machine."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from retllm.bench.processor_time import processor_seconds
from retllm.db.enums import JobState
from retllm.db.jobs import Job
from retllm.db.session import Sessions, make_sessions, transaction
from retllm.errors import StackError
from retllm.identity import accounts, tokens
from retllm.identity.actor import Actor
from retllm.settings import Settings
from retllm.stack import LocalStack

# rare enough to cost the measured processes nothing; times are those of the database, so that it makes none longer
_PAUSE_SECONDS = 0.2


@contextmanager
def running(
    home: Path, settings: Settings, processes: frozenset[str], notify: Callable[[str], None], **options: Any
) -> Iterator[Client]:
    """Start these processes in ``home`` with the settings of models and devices, and stop them afterwards.

    Args:
        options: further settings.

    Raises:
        StackError: a process can't be started.
    """
    fields = {name: getattr(settings, name) for name in settings.model_fields_set}
    alone = {"home": home, "database_url": None, "redis_url": None, "storage_url": None, "port": 0}
    settings = Settings(**{**fields, **alone, "embedder": settings.embedder_name, "log_level": "WARNING", **options})
    with LocalStack(settings, processes, notify=notify) as stack, ExitStack() as closing:
        yield Client(stack, settings, closing)


class Client:
    """The platform as an account sees it, and its database.

    Attributes:
        sessions: of the stack's database.
    """

    def __init__(self, stack: LocalStack, settings: Settings, closing: ExitStack) -> None:
        self._stack = stack
        self.sessions: Sessions = make_sessions(stack.database_url)
        closing.callback(self.sessions.kw["bind"].dispose)
        with transaction(self.sessions) as session:
            user = accounts.create_user(session, "bench", uuid.uuid4().hex)
            session.flush()
            _, secret = tokens.issue(session, tokens.token_key(settings), Actor.unlimited(user), "bench")
        headers = {"Authorization": f"Bearer {secret}"}
        client = httpx.Client(base_url=f"{stack.url}/api/v1", headers=headers, timeout=600, trust_env=False)
        self._client = closing.enter_context(client)

    def collection(self) -> str:
        """Create a collection; return its key."""
        return str(self.call("POST", "/collections", json={"name": uuid.uuid4().hex})["id"])

    def upload(self, collection: str, paths: Sequence[Path], *, index: bool) -> None:
        """Upload pictures in one request, and wait for their outcomes.

        Raises:
            StackError: one is rejected.
        """
        query = {"index": "true" if index else "false", "wait": "60"}
        answer = self.send(f"/collections/{collection}/items", paths, params=query)
        refused = [outcome for outcome in answer["outcomes"] if outcome["status"] == "rejected"]
        if refused:
            raise StackError(f"A picture was rejected: {refused[0]}")

    def send(self, path: str, pictures: Sequence[Path], **options: Any) -> Any:
        """Send pictures in a form; otherwise like :meth:`call`."""
        with ExitStack() as stack:
            files = [("file", (one.name, stack.enter_context(one.open("rb")))) for one in pictures]
            return self.call("POST", path, files=files, **options)

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Return the JSON that the API answers.

        Raises:
            StackError: it answers with an error.
        """
        answer = self._client.request(method, path, **options)
        if answer.is_error:
            raise StackError(f"The server answered {answer.status_code}: {answer.text[:200]}")
        return answer.json()

    def processor_seconds(self) -> dict[str, float]:
        """Return the processor time that the processes of the stack have used, and that of this process (client)."""
        return {**processor_seconds(self._stack.processes), "client": time.process_time()}

    def await_jobs(self, collection: str, seconds: float) -> None:
        """Wait until every job of a collection has succeeded.

        Raises:
            StackError: one fails, or they are not over in time.
        """
        states = sa.select(Job.state).where(Job.collection_id == uuid.UUID(collection))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self.sessions() as session:
                found = set(session.scalars(states))
            if found & {JobState.FAILED, JobState.PARTIAL, JobState.CANCELLED}:
                raise StackError("A job failed; its worker's log has the reason.")
            if found == {JobState.SUCCEEDED}:
                return
            time.sleep(_PAUSE_SECONDS)
        raise StackError(f"The jobs were not over in {seconds:.0f} s.")
