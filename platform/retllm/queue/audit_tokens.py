"""Rules for attempts and tokens: every result was written by an attempt that was allowed to.

An embedding can outlive its attempt: deleting a job deletes the attempts and keeps the embeddings.
"""

from __future__ import annotations

from retllm.queue.violations import Rule

_ATTEMPTS = (
    Rule(
        "attempt_end_is_dated",
        "an attempt has an end time exactly when it has an outcome",
        """SELECT token, coalesce(outcome, 'open') || ', ended ' || coalesce(ended_at::text, 'never') FROM attempts
            WHERE (outcome IS NULL) <> (ended_at IS NULL) LIMIT :limit""",
    ),
    Rule(
        "attempt_holds_its_unit",
        "an open attempt holds its unit by its token",
        """SELECT a.token, 'unit ' || u.id || ' is ' || u.state FROM attempts a JOIN units u ON u.id = a.unit_id
            WHERE a.outcome IS NULL AND (u.state <> 'leased' OR u.token IS DISTINCT FROM a.token) LIMIT :limit""",
    ),
    Rule(
        "held_by_an_open_attempt",
        "a leased unit is held by an open attempt",
        """SELECT u.id, 'held by ' || coalesce('an attempt that is ' || a.outcome, 'an unknown token') FROM units u
            LEFT JOIN attempts a ON a.token = u.token AND a.unit_id = u.id
            WHERE u.state = 'leased' AND (a.token IS NULL OR a.outcome IS NOT NULL) LIMIT :limit""",
    ),
    Rule(
        "committed_is_done",
        "a unit with a committed attempt is done",
        """SELECT a.token, 'unit ' || u.id || ' is ' || u.state FROM attempts a JOIN units u ON u.id = a.unit_id
            WHERE a.outcome = 'committed' AND u.state <> 'done' LIMIT :limit""",
    ),
    Rule(
        "done_was_committed",
        "a done unit has a committed attempt",
        """SELECT u.id, 'none of ' || u.attempt || ' attempts committed' FROM units u WHERE u.state = 'done'
            AND NOT EXISTS (SELECT FROM attempts a WHERE a.unit_id = u.id AND a.outcome = 'committed')
            LIMIT :limit""",
    ),
)

_EFFECTS = (
    Rule(
        "score_was_committed",
        "a score has the token of a committed attempt at a unit with its candidate",
        """SELECT o.search_id, 'item ' || o.item_id || ', token ' || o.token || ' ' || coalesce(a.outcome, 'unknown')
            FROM scores o LEFT JOIN attempts a ON a.token = o.token LEFT JOIN units u ON u.id = a.unit_id
            WHERE a.outcome IS DISTINCT FROM 'committed' OR u.job_id <> o.search_id
                OR u.stage <> 'fine' OR NOT jsonb_exists(u.payload->'items', o.item_id::text) LIMIT :limit""",
    ),
    Rule(
        "candidate_was_committed",
        "a candidate has the token of a committed attempt at its search's coarse unit",
        """SELECT c.search_id, 'item ' || c.item_id || ', token ' || c.token || ' ' || coalesce(a.outcome, 'unknown')
            FROM candidates c LEFT JOIN attempts a ON a.token = c.token LEFT JOIN units u ON u.id = a.unit_id
            WHERE a.outcome IS DISTINCT FROM 'committed' OR u.job_id <> c.search_id
                OR u.stage <> 'coarse' LIMIT :limit""",
    ),
    Rule(
        "vector_was_committed",
        "an embedding has the token of a committed attempt at a unit with its item",
        """SELECT v.item_id, 'token ' || v.token || ' ' || coalesce(a.outcome, 'open')
            FROM embeddings v JOIN attempts a ON a.token = v.token JOIN units u ON u.id = a.unit_id
            WHERE a.outcome IS DISTINCT FROM 'committed' OR u.stage <> 'embed'
                OR NOT jsonb_exists(u.payload->'items', v.item_id::text) LIMIT :limit""",
    ),
)

TOKEN_RULES: tuple[Rule, ...] = (*_ATTEMPTS, *_EFFECTS)
"""Every rule for attempts and tokens."""
