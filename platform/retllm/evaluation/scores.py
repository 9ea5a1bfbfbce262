"""The scores of a run, stored in its folder, so that each pair is scored once.

The key of a score is all that it depends on: the scorer's version (model, prompts, mode, re-injection), the query and
the candidate. So ablations share scores, and an interrupted run can continue. The store is SQLite, which loses at most
the current transaction when a run is killed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from retllm.errors import BenchmarkUnreadable

if TYPE_CHECKING:
    from retllm.fine import PairScore

_TABLE = """
CREATE TABLE IF NOT EXISTS scores (
    version TEXT NOT NULL, query TEXT NOT NULL, candidate TEXT NOT NULL,
    score REAL, log_odds REAL, entropy REAL, injected_layer INTEGER, tokens INTEGER NOT NULL, error TEXT,
    seconds REAL NOT NULL,
    PRIMARY KEY (version, query, candidate)
) WITHOUT ROWID
"""
_COLUMNS = "score, log_odds, entropy, injected_layer, tokens, error, seconds"


@dataclass(frozen=True, slots=True)
class KeptScore:
    """A pair's score, and its share of the seconds of the call that computed it.

    The other fields are those of :class:`retllm.fine.PairScore`.
    """

    score: float | None
    log_odds: float | None
    entropy: float | None
    injected_layer: int | None
    tokens: int
    error: str | None
    seconds: float

    @classmethod
    def of(cls, pair: PairScore, seconds: float) -> KeptScore:
        """Return the stored form of a scorer's result."""
        return cls(pair.score, pair.log_odds, pair.entropy, pair.injected_layer, pair.tokens, pair.error, seconds)


class KeptScores:
    """The scores in one file; a context manager that closes it.

    Raises:
        BenchmarkUnreadable: the file exists but is not a file of scores.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, timeout=60)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            raise BenchmarkUnreadable(
                f"{path} is not a file of scores ({error}). Remove it, or choose another folder with --out.",
                file=str(path),
            ) from error

    def __enter__(self) -> KeptScores:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def find(self, version: str, query: str, candidates: Sequence[str]) -> dict[str, KeptScore]:
        """Return the stored scores of these candidates against the query, by the candidates' keys."""
        found: dict[str, KeptScore] = {}
        for candidate in candidates:
            row = self._db.execute(
                f"SELECT {_COLUMNS} FROM scores WHERE version = ? AND query = ? AND candidate = ?",  # noqa: S608 (constant)
                (version, query, candidate),
            ).fetchone()
            if row is not None:
                found[candidate] = KeptScore(*row)
        return found

    def keep(self, version: str, query: str, scores: Mapping[str, KeptScore]) -> None:
        """Store scores in one transaction; after the call they survive a killed process."""
        rows: Iterable[tuple[object, ...]] = (
            (version, query, candidate, *(getattr(score, name) for name in _COLUMNS.split(", ")))
            for candidate, score in scores.items()
        )
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
