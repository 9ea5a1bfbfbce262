"""The result of a check of `retllm doctor`."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Literal

from retllm.errors import RetllmError
from retllm.redaction import redact

State = Literal["ok", "warning", "failed"]

# splits errors of the stack into the problem and the advice
_ADVICE = re.compile(r"(?:: |; )(?=(?:set|start|install|run|use|move|it looks) )")


@dataclass(frozen=True)
class Check:
    """The result of one check; `advice` is empty if there is nothing to do."""

    name: str
    state: State
    message: str
    advice: str = ""

    def __post_init__(self) -> None:
        # it may quote URLs and messages of servers and libraries
        object.__setattr__(self, "message", redact(self.message))

    def as_json(self) -> dict[str, str]:
        """Return the check as a JSON object."""
        return asdict(self)


def failed(name: str, error: RetllmError) -> Check:
    """Return a failed check for an error."""
    problem, *rest = _ADVICE.split(error.message, maxsplit=1)
    advice = rest[0][:1].upper() + rest[0][1:] if rest else ""
    return Check(name, "failed", problem if problem.endswith(".") else f"{problem}.", advice)
