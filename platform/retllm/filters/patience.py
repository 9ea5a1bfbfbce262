"""How long items are compared with a filter: what it costs depends on their texts, which no planner knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.errors import InvalidInput

_CANCELED = "57014"


@contextmanager
def bounded(session: Session, seconds: float) -> Iterator[None]:
    """Let each statement inside the context, which compares items with a filter, take so many seconds at most.

    Raises:
        InvalidInput: one took longer; what was done inside is undone, and the session can go on.
    """
    # hardly any two filters have the same form, and a long one takes a megabyte
    session.connection().execution_options(compiled_cache=None)
    try:
        with session.begin_nested():
            session.execute(sa.text(f"SET LOCAL statement_timeout = {seconds * 1000:.0f}"))
            yield
            session.execute(sa.text("SET LOCAL statement_timeout TO DEFAULT"))
    except sa.exc.OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _CANCELED:
            raise
        raise InvalidInput(
            f"Comparing items with this filter takes longer than {seconds:g} s: leave out some of its conditions.",
            field="filter",
        ) from error
