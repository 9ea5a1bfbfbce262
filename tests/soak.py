"""``make soak`` runs the same tests as ``make test`` with larger numbers: ``SOAK=1``."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

SOAK = os.environ.get("SOAK", "") not in ("", "0")


def scaled(short: T, long: T) -> T:
    """Return ``long`` in a long run and ``short`` in any other."""
    return long if SOAK else short
