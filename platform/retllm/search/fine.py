"""The remaining work of a search's fine stage: the first candidates, another wave, or the entropy of ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import Stage
from retllm.db.jobs import Unit
from retllm.db.searches import Search
from retllm.fine.decision import tied
from retllm.fine.waves import Adaptive, next_wave
from retllm.search import ranking
from retllm.search.ranking import Row

Payload = dict[str, Any]

_ENTROPY = "entropy"


def is_entropy_pass(payload: Mapping[str, Any]) -> bool:
    """Return whether the unit computes only the entropy of candidates that already have a score."""
    return payload.get("pass") == _ENTROPY


def next_payloads(session: Session, search_id: UUID) -> list[Payload]:
    """Return the payloads of the units that the fine stage needs next; empty if the stage is complete.

    Call it when no unit is open. The result depends only on the rows, so it is the same after a retry, a split or a
    lost worker: first the next candidates in coarse order (all of them, or a wave), then the entropy of tied scores. A
    candidate appears in at most one unit of each kind and in the units that replace it, so the stage terminates.
    """
    search = session.get_one(Search, search_id)
    rows = ranking.rows_of(session, search_id)
    scoring, entropy = _items_of_units(session, search_id)
    opened = [row for row in rows if str(row.candidate.item_id) in scoring]
    remaining = [str(row.candidate.item_id) for row in rows if str(row.candidate.item_id) not in scoring]
    wave = remaining[: _wave_size(search, opened, len(rows))]
    if wave:
        return _payloads(wave, search.unit_candidates)
    ties = [str(key) for key in tied(ranking.decision_inputs(rows, search), search.tie_decimals)]
    unknown = [item for item in ties if item not in entropy]
    return [{**payload, "pass": _ENTROPY} for payload in _payloads(unknown, search.unit_candidates)]


def _items_of_units(session: Session, search_id: UUID) -> tuple[set[str], set[str]]:
    """Return the items of the scoring units and the items of the entropy units."""
    payloads = session.scalars(sa.select(Unit.payload).where(Unit.job_id == search_id, Unit.stage == Stage.FINE)).all()
    scoring = {item for payload in payloads if not is_entropy_pass(payload) for item in payload["items"]}
    return scoring, {item for payload in payloads if is_entropy_pass(payload) for item in payload["items"]}


def _wave_size(search: Search, opened: Sequence[Row], pool: int) -> int:
    if search.adaptive is None:
        return 0 if opened else pool
    if opened and not any(row.score for row in opened):
        # no candidate was scored: another wave would fail as well
        return 0
    log_odds = [row.score.log_odds if row.score else None for row in opened]
    return next_wave(Adaptive.from_json(search.adaptive), log_odds, pool)


def _payloads(items: Sequence[str], size: int) -> list[Payload]:
    return [{"items": list(items[start : start + size])} for start in range(0, len(items), size)]
