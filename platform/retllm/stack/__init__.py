"""The local stack: starts and stops embedded PostgreSQL, embedded Redis and the processes of the platform.

``LocalStack`` is the entry point. It is imported at first use, so that the small process `retllm.stack.guardian` starts
in a few hundredths of a second.
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
