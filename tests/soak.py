"""``make soak`` runs the same tests as ``make test`` with larger numbers: ``SOAK=1``."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

SOAK = os.environ.get("SOAK", "") not in ("", "0")


def scaled(short: T, long: T) -> T:
    """What a test takes: the first in every run, the second in a long one."""
    return long if SOAK else short
