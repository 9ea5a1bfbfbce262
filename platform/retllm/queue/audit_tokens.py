"""The rules of attempts and tokens: who made an effect, and that it was allowed to.

Workers of release 0.1 keep no attempts and sign nothing, so an effect without a token is wrong only where an attempt
says that it made it; and a vector outlives the attempt that made it when its job is deleted.
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
        # a dispatcher of release 0.1 takes units back without a word to their attempts, which are ended a little later
        """SELECT a.token, 'unit ' || u.id || ' is ' || u.state FROM attempts a JOIN units u ON u.id = a.unit_id
            WHERE a.outcome IS NULL AND (u.state <> 'leased' OR u.token IS DISTINCT FROM a.token)
            AND (:quiet OR a.started_at < clock_timestamp() - make_interval(secs => :overdue)) LIMIT :most""",
    ),
    Rule(
        "held_by_an_attempt_that_lasts",
        "an attempt that has ended holds no unit",
        """SELECT u.id, 'held by an attempt that ' || a.outcome FROM units u JOIN attempts a ON a.token = u.token
            WHERE a.outcome IS NOT NULL LIMIT :most""",
    ),
    Rule(
        "committed_is_done",
        "a unit is done when an attempt at it has committed",
        """SELECT a.token, 'unit ' || u.id || ' is ' || u.state FROM attempts a JOIN units u ON u.id = a.unit_id
            WHERE a.outcome = 'committed' AND u.state <> 'done' LIMIT :most""",
    ),
    Rule(
        "done_was_committed",
        "a unit is not done by an attempt that failed or was lost",
        """SELECT u.id, 'attempt ' || a.number || ' ' || a.outcome FROM units u JOIN LATERAL (
               SELECT number, outcome FROM attempts WHERE unit_id = u.id ORDER BY token DESC LIMIT 1) a ON true
            WHERE u.state = 'done' AND a.number = u.attempt AND a.outcome IN ('failed', 'lost') LIMIT :most""",
    ),
)

_EFFECTS = (
    Rule(
        "score_is_signed",
        "a score carries the token of an attempt that committed, at a unit that holds its candidate",
        """SELECT o.search_id, 'item ' || o.item_id || ', token ' || o.token || ' ' || coalesce(a.outcome, 'unknown')
            FROM scores o LEFT JOIN attempts a ON a.token = o.token LEFT JOIN units u ON u.id = a.unit_id
            WHERE o.token IS NOT NULL AND (a.outcome IS DISTINCT FROM 'committed' OR u.job_id <> o.search_id
                OR u.stage <> 'fine' OR NOT jsonb_exists(u.payload->'items', o.item_id::text)) LIMIT :most""",
    ),
    Rule(
        "candidate_is_signed",
        "a candidate carries the token of an attempt that committed, at its search's coarse unit",
        """SELECT c.search_id, 'item ' || c.item_id || ', token ' || c.token || ' ' || coalesce(a.outcome, 'unknown')
            FROM candidates c LEFT JOIN attempts a ON a.token = c.token LEFT JOIN units u ON u.id = a.unit_id
            WHERE c.token IS NOT NULL AND (a.outcome IS DISTINCT FROM 'committed' OR u.job_id <> c.search_id
                OR u.stage <> 'coarse') LIMIT :most""",
    ),
    Rule(
        "vector_is_signed",
        "a vector carries the token of an attempt that committed, at a unit that holds its item",
        """SELECT v.item_id, 'token ' || v.token || ' ' || coalesce(a.outcome, 'at work')
            FROM embeddings v JOIN attempts a ON a.token = v.token JOIN units u ON u.id = a.unit_id
            WHERE a.outcome IS DISTINCT FROM 'committed' OR u.stage <> 'embed'
                OR NOT jsonb_exists(u.payload->'items', v.item_id::text) LIMIT :most""",
    ),
    Rule(
        "nothing_is_unsigned",
        "what an attempt stored carries its token",
        """SELECT u.id, what || ' of item ' || item FROM (
               SELECT search_id AS job_id, 'coarse' AS stage, 'candidate' AS what, item_id AS item
               FROM candidates WHERE token IS NULL
               UNION ALL SELECT search_id, 'fine', 'score', item_id FROM scores WHERE token IS NULL
           ) AS unsigned JOIN units u ON u.job_id = unsigned.job_id AND u.stage = unsigned.stage
               AND (u.stage = 'coarse' OR jsonb_exists(u.payload->'items', item::text))
            WHERE EXISTS (SELECT FROM attempts a WHERE a.unit_id = u.id AND a.outcome = 'committed')
            LIMIT :most""",
    ),
    Rule(
        "no_vector_is_unsigned",
        "a vector that was stored while an attempt at its item committed carries its token",
        """SELECT d.id, 'item ' || d.item FROM embeddings v JOIN embedding_models m ON m.id = v.model_id
            JOIN unit_items d ON d.item::uuid = v.item_id AND d.stage = 'embed' AND d.way IN ('', m.name)
            JOIN attempts a ON a.unit_id = d.id AND a.outcome = 'committed'
            WHERE v.token IS NULL AND v.created_at BETWEEN a.started_at AND a.ended_at LIMIT :most""",
    ),
)

TOKEN_RULES: tuple[Rule, ...] = (*_ATTEMPTS, *_EFFECTS)
"""Every rule of attempts and tokens."""
