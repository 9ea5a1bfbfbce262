"""The local stack: embedded PostgreSQL and Redis, the platform's own processes, their start and their stop.

``LocalStack`` is the whole of it; the names are imported on first use, so that the small process that watches over
a stack (`retllm.stack.guardian`) starts in a few hundredths of a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retllm.stack.local import LocalStack

__all__ = ["LocalStack"]


def __getattr__(name: str) -> Any:
    if name == "LocalStack":
        from retllm.stack.local import LocalStack

        return LocalStack
    raise AttributeError(name)
