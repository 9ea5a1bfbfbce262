"""The rules of attempts and tokens: who made an effect, and that it was allowed to.

A vector outlives the attempt that made it when its job is deleted.
"""

from __future__ import annotations

from retllm.queue.violations import Rule

_ATTEMPTS = (
    Rule(
        "attempt_end_is_dated",
        "an attempt has the time of its end exactly when it has an outcome",
        """SELECT token, coalesce(outcome, 'at work') || ', ended ' || coalesce(ended_at::text, 'never') FROM attempts
            WHERE (outcome IS NULL) <> (ended_at IS NULL) LIMIT :most""",
    ),
    Rule(
        "attempt_holds_its_unit",
        "an attempt that lasts holds its unit by its token",
        """SELECT a.token, 'unit ' || u.id || ' is ' || u.state FROM attempts a JOIN units u ON u.id = a.unit_id
            WHERE a.outcome IS NULL AND (u.state <> 'leased' OR u.token IS DISTINCT FROM a.token) LIMIT :most""",
    ),
    Rule(
        "held_by_an_attempt_that_lasts",
        "a unit that is held is held by an attempt at it that lasts",
        """SELECT u.id, 'held by ' || coalesce('an attempt that ' || a.outcome, 'nobody who took it') FROM units u
            LEFT JOIN attempts a ON a.token = u.token AND a.unit_id = u.id
            WHERE u.state = 'leased' AND (a.token IS NULL OR a.outcome IS NOT NULL) LIMIT :most""",
    ),
    Rule(
        "committed_is_done",
        "a unit is done when an attempt at it has committed",
        """SELECT a.token, 'unit ' || u.id || ' is ' || u.state FROM attempts a JOIN units u ON u.id = a.unit_id
            WHERE a.outcome = 'committed' AND u.state <> 'done' LIMIT :most""",
    ),
    Rule(
        "done_was_committed",
        "a unit that is done has an attempt that committed",
        """SELECT u.id, 'none of ' || u.attempt || ' attempts committed' FROM units u WHERE u.state = 'done'
            AND NOT EXISTS (SELECT FROM attempts a WHERE a.unit_id = u.id AND a.outcome = 'committed')
            LIMIT :most""",
    ),
)

_EFFECTS = (
    Rule(
        "score_is_signed",
        "a score carries the token of an attempt that committed, at a unit that holds its candidate",
        """SELECT o.search_id, 'item ' || o.item_id || ', token ' || o.token || ' ' || coalesce(a.outcome, 'unknown')
            FROM scores o LEFT JOIN attempts a ON a.token = o.token LEFT JOIN units u ON u.id = a.unit_id
            WHERE a.outcome IS DISTINCT FROM 'committed' OR u.job_id <> o.search_id
                OR u.stage <> 'fine' OR NOT jsonb_exists(u.payload->'items', o.item_id::text) LIMIT :most""",
    ),
    Rule(
        "candidate_is_signed",
        "a candidate carries the token of an attempt that committed, at its search's coarse unit",
        """SELECT c.search_id, 'item ' || c.item_id || ', token ' || c.token || ' ' || coalesce(a.outcome, 'unknown')
            FROM candidates c LEFT JOIN attempts a ON a.token = c.token LEFT JOIN units u ON u.id = a.unit_id
            WHERE a.outcome IS DISTINCT FROM 'committed' OR u.job_id <> c.search_id
                OR u.stage <> 'coarse' LIMIT :most""",
    ),
    Rule(
        "vector_is_signed",
        "a vector carries the token of an attempt that committed, at a unit that holds its item",
        """SELECT v.item_id, 'token ' || v.token || ' ' || coalesce(a.outcome, 'at work')
            FROM embeddings v JOIN attempts a ON a.token = v.token JOIN units u ON u.id = a.unit_id
            WHERE a.outcome IS DISTINCT FROM 'committed' OR u.stage <> 'embed'
                OR NOT jsonb_exists(u.payload->'items', v.item_id::text) LIMIT :most""",
    ),
)

TOKEN_RULES: tuple[Rule, ...] = (*_ATTEMPTS, *_EFFECTS)
"""Every rule of attempts and tokens."""
