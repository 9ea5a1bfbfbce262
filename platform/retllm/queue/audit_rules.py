"""Rules for the rows of jobs, units and results; each is a query that returns its violations.

The rows that a rule compares are written in one transaction under the job's lock, so the rules hold on a running
system too. Rules with ``:quiet`` are stricter on an idle one.
"""

from __future__ import annotations

from retllm.db.vectors import INDEX_PREFIX
from retllm.queue.audit_counts import COUNT_RULES
from retllm.queue.audit_tokens import TOKEN_RULES
from retllm.queue.violations import Rule

_JOBS = (
    Rule(
        "over_has_an_end",
        "a job has an end time exactly when it is over",
        """SELECT id, state || ', ended ' || coalesce(finished_at::text, 'never') FROM jobs
            WHERE (state IN ('succeeded', 'partial', 'failed', 'cancelled')) <> (finished_at IS NOT NULL)
            LIMIT :limit""",
    ),
    Rule(
        "open_has_work",
        "a job that is not over has a ready or leased unit, or is an upload that takes files",
        """SELECT j.id, j.state FROM jobs j WHERE j.finished_at IS NULL AND NOT EXISTS (
               SELECT FROM units u WHERE u.job_id = j.id AND u.state IN ('ready', 'leased'))
            AND NOT EXISTS (SELECT FROM uploads p WHERE p.id = j.id AND p.closed_at IS NULL) LIMIT :limit""",
    ),
    Rule(
        "over_has_no_work",
        "a job that is over has no ready or leased unit",
        """SELECT j.id, u.id || ' is ' || u.state FROM jobs j JOIN units u ON u.job_id = j.id
            WHERE j.finished_at IS NOT NULL AND u.state IN ('ready', 'leased') LIMIT :limit""",
    ),
    Rule(
        "ends_in_quiet",
        "on an idle system, every job is over",
        "SELECT id, state FROM jobs WHERE :quiet AND finished_at IS NULL LIMIT :limit",
    ),
    Rule(
        "end_state_matches_units",
        "the end state of a job matches the states of its units",
        """SELECT id, counts FROM (
               SELECT j.id, j.state || ': ' || count(*) FILTER (WHERE u.state = 'done') || ' done, '
                      || count(*) FILTER (WHERE u.state = 'dead') || ' dead, '
                      || count(*) FILTER (WHERE u.state = 'cancelled') || ' cancelled' AS counts,
                      CASE j.state
                          WHEN 'succeeded' THEN NOT bool_or(u.state IN ('dead', 'cancelled')) AND NOT j.cancel_requested
                          WHEN 'partial' THEN bool_or(u.state = 'dead') AND bool_or(u.state = 'done')
                          WHEN 'failed' THEN bool_or(u.state = 'dead')
                          ELSE j.cancel_requested END AS valid
               FROM jobs j JOIN units u ON u.job_id = j.id WHERE j.finished_at IS NOT NULL
               GROUP BY j.id, j.state, j.cancel_requested
           ) AS ended(id, counts, valid) WHERE NOT valid LIMIT :limit""",
    ),
)

_UNITS = (
    Rule(
        "lease_is_whole",
        "a unit has a token and a lease exactly while it is leased",
        """SELECT id, concat(state, ', token ', coalesce(token::text, '-'), ', lease ', lease_until)
            FROM units WHERE (state = 'leased') <> (token IS NOT NULL)
               OR (state = 'leased') <> (lease_until IS NOT NULL) LIMIT :limit""",
    ),
    Rule(
        "unit_end_is_dated",
        "a unit has an end time exactly when it has ended",
        """SELECT id, state || ', ended ' || coalesce(finished_at::text, 'never') FROM units
            WHERE (state IN ('ready', 'leased')) <> (finished_at IS NULL) LIMIT :limit""",
    ),
    Rule(
        "dead_says_why",
        "a dead unit has an error",
        "SELECT id, stage FROM units WHERE state = 'dead' AND coalesce(error, '') = '' LIMIT :limit",
    ),
    Rule(
        "lease_is_taken_back",
        "a unit whose lease expired is taken back",
        """SELECT id, 'held by ' || coalesce(worker, '?') || ' until ' || lease_until FROM units
            WHERE state = 'leased' AND (:quiet OR lease_until < clock_timestamp() - make_interval(secs => :overdue))
            LIMIT :limit""",
    ),
    Rule(
        "each_input_once",
        "each input of a job is in one unit of each kind, not counting split units",
        """SELECT job_id, stage || ' ' || way || ': item ' || item || ' is in ' || count(*) || ' units'
            FROM unit_items WHERE state <> 'split'
            GROUP BY job_id, stage, way, item HAVING count(*) > 1 LIMIT :limit""",
    ),
    Rule(
        "split_loses_nothing",
        "every item of a split unit has its own unit",
        """SELECT s.id, 'item ' || s.item FROM unit_items s WHERE s.state = 'split' AND NOT EXISTS (
               SELECT FROM unit_items o WHERE o.job_id = s.job_id AND o.stage = s.stage AND o.way = s.way
               AND o.item = s.item AND o.state <> 'split') LIMIT :limit""",
    ),
)

_UPLOADS = (
    Rule(
        "job_has_its_upload",
        "every upload job says whether it takes files",
        """SELECT j.id, j.state FROM jobs j WHERE j.kind = 'upload' AND NOT EXISTS (
               SELECT FROM uploads p WHERE p.id = j.id) LIMIT :limit""",
    ),
    Rule(
        "file_has_its_outcome",
        "no file of an upload that is over waits",
        """SELECT j.id, j.state || ', file ' || f.id || ' waits' FROM jobs j JOIN upload_files f ON f.job_id = j.id
            WHERE j.finished_at IS NOT NULL AND f.status = 'waiting' LIMIT :limit""",
    ),
    Rule(
        "waiting_file_has_its_unit",
        "a picture or an archive that waits is in a ready or leased unit, unless its upload was cancelled",
        """SELECT f.job_id, 'file ' || f.id FROM upload_files f JOIN jobs j ON j.id = f.job_id
            WHERE f.status = 'waiting' AND f.content IN ('picture', 'archive') AND NOT j.cancel_requested
            AND NOT EXISTS (SELECT FROM unit_items u WHERE u.job_id = f.job_id AND u.stage = 'media'
                AND u.item::uuid = f.id AND u.state IN ('ready', 'leased')) LIMIT :limit""",
    ),
    Rule(
        "added_is_there",
        "a file that was added names an item",
        """SELECT f.job_id, 'file ' || f.id || ': item ' || coalesce(f.item_id::text, '-')
            FROM upload_files f LEFT JOIN items i ON i.id = f.item_id
            WHERE f.status = 'added' AND i.id IS NULL LIMIT :limit""",
    ),
    Rule(
        "added_once",
        "an item was added by one file",
        """SELECT item_id, count(*) || ' files' FROM upload_files WHERE status = 'added'
            GROUP BY item_id HAVING count(*) > 1 LIMIT :limit""",
    ),
    Rule(
        "rejected_says_why",
        "a file that was rejected, not processed or not sent, and no other, has an error",
        """SELECT job_id, 'file ' || id || ' is ' || status FROM upload_files
            WHERE (status IN ('rejected', 'unprocessed', 'not_sent')) <> (coalesce(error, '') <> '') LIMIT :limit""",
    ),
)

_INDEX = (
    Rule(
        "done_is_embedded",
        "every item of a done unit has an embedding by the unit's embedder, unless the item was deleted",
        # a person may have removed all embeddings of a model from the collection
        """SELECT d.id, 'item ' || d.item || ' by ' || e.name
            FROM unit_items d JOIN jobs j ON j.id = d.job_id
            JOIN items i ON i.id = d.item::uuid AND i.state = 'ready'
            CROSS JOIN LATERAL (SELECT coalesce(d.embedder, j.params->>'embedder') AS name) AS e
            WHERE d.stage = 'embed' AND d.state = 'done' AND NOT EXISTS (
                SELECT FROM embeddings v JOIN embedding_models m ON m.id = v.model_id
                WHERE v.item_id = i.id AND m.name = e.name)
            AND EXISTS (SELECT FROM embeddings v JOIN embedding_models m ON m.id = v.model_id
                WHERE v.collection_id = j.collection_id AND m.name = e.name) LIMIT :limit""",
    ),
    Rule(
        "no_vector_of_a_later_version",
        "no embedding has a later version than its item",
        """SELECT i.id, 'embedding of version ' || v.item_version || ', item of version ' || i.version
            FROM embeddings v JOIN items i ON i.id = v.item_id WHERE v.item_version > i.version LIMIT :limit""",
    ),
    Rule(
        "used_index_is_whole",
        "the server has every vector index that is in use, and calls it valid",
        f"""SELECT x.id, CASE WHEN p.indisvalid IS NULL THEN 'missing' ELSE 'invalid' END
            FROM vector_indexes x LEFT JOIN pg_class c ON c.relkind = 'i'
                AND c.relname = '{INDEX_PREFIX}' || replace(x.id::text, '-', '')
            LEFT JOIN pg_index p ON p.indexrelid = c.oid WHERE p.indisvalid IS NOT TRUE LIMIT :limit""",  # noqa: S608
    ),
)

_SEARCH = (
    Rule(
        "coarse_ranks_are_whole",
        "the coarse ranks of a search are 1 to n, each once, unless a collection of several was deleted",
        """SELECT search_id, count(*) || ' candidates, ranks ' || min(coarse_rank) || ' to ' || max(coarse_rank)
            FROM candidates WHERE search_id NOT IN (SELECT id FROM reduced) GROUP BY search_id
            HAVING min(coarse_rank) <> 1 OR max(coarse_rank) <> count(*) OR count(DISTINCT coarse_rank) <> count(*)
            LIMIT :limit""",
    ),
    Rule(
        "final_ranks_are_whole",
        "the final ranks of a search with a result are 1 to n, each once, unless a collection of several was deleted",
        """SELECT j.id, count(c.final_rank) || ' ranks of ' || count(*) || ' candidates, '
                || coalesce(min(c.final_rank)::text, '-') || ' to ' || coalesce(max(c.final_rank)::text, '-')
            FROM jobs j JOIN candidates c ON c.search_id = j.id WHERE j.state IN ('succeeded', 'partial')
                AND j.id NOT IN (SELECT id FROM reduced) GROUP BY j.id
            HAVING count(c.final_rank) <> count(*) OR count(DISTINCT c.final_rank) <> count(*)
                OR min(c.final_rank) <> 1 OR max(c.final_rank) <> count(*) LIMIT :limit""",
    ),
    Rule(
        "result_has_its_order",
        "a search has a final order exactly when it is over with a result",
        """SELECT j.id, j.state || ', ordered ' || coalesce(s.final_at::text, 'never')
            FROM jobs j JOIN searches s ON s.id = j.id
            WHERE (j.state IN ('succeeded', 'partial')) <> (s.final_at IS NOT NULL)
               OR (j.state NOT IN ('succeeded', 'partial') AND EXISTS (
                   SELECT FROM candidates c WHERE c.search_id = j.id AND c.final_rank IS NOT NULL)) LIMIT :limit""",
    ),
    Rule(
        "job_has_its_search",
        "every search job has its query",
        """SELECT j.id, j.state FROM jobs j WHERE j.kind = 'search' AND NOT EXISTS (
               SELECT FROM searches s WHERE s.id = j.id) LIMIT :limit""",
    ),
    Rule(
        "done_is_scored",
        "every candidate of a done unit has a score row, or an error since its item or its collection was deleted",
        """SELECT f.id, 'item ' || f.item FROM scoring f JOIN searches s ON s.id = f.job_id
            WHERE f.state = 'done' AND s.id NOT IN (SELECT id FROM reduced)
            AND NOT EXISTS (SELECT FROM scores o WHERE o.search_id = f.job_id
                AND o.item_id = f.item::uuid AND o.scorer_version = s.scorer_version)
            AND NOT EXISTS (SELECT FROM candidates c JOIN items i ON i.id = c.item_id AND i.state = 'deleted'
                WHERE c.search_id = f.job_id AND c.item_id = f.item::uuid AND c.error IS NOT NULL) LIMIT :limit""",
    ),
    Rule(
        "dead_candidate_has_error",
        "every candidate of a dead unit has an error",
        """SELECT f.id, 'item ' || f.item FROM scoring f
            JOIN candidates c ON c.search_id = f.job_id AND c.item_id = f.item::uuid
            WHERE f.state = 'dead' AND c.error IS NULL LIMIT :limit""",
    ),
    Rule(
        "score_or_error",
        "no candidate has both a score and an error",
        """SELECT c.search_id, 'item ' || c.item_id || ': ' || c.error FROM candidates c
            WHERE c.error IS NOT NULL AND EXISTS (
                SELECT FROM scores o WHERE o.search_id = c.search_id AND o.item_id = c.item_id) LIMIT :limit""",
    ),
    Rule(
        "scored_once",
        "a candidate has one score, of the search's scorer version",
        """SELECT o.search_id, 'item ' || o.item_id || ': ' || string_agg(o.scorer_version, ', ')
            FROM scores o JOIN searches s ON s.id = o.search_id GROUP BY o.search_id, o.item_id, s.scorer_version
            HAVING count(*) > 1 OR bool_or(o.scorer_version IS DISTINCT FROM s.scorer_version) LIMIT :limit""",
    ),
    Rule(
        "score_has_its_unit",
        "every score belongs to a candidate whose unit is done",
        """SELECT o.search_id, 'item ' || o.item_id FROM scores o WHERE NOT EXISTS (
               SELECT FROM scoring f WHERE f.job_id = o.search_id AND f.item::uuid = o.item_id
               AND f.state = 'done') LIMIT :limit""",
    ),
    Rule(
        "score_is_whole",
        "a score row has either a score or an error",
        """SELECT search_id, 'item ' || item_id FROM scores
            WHERE (score IS NULL) <> (error IS NOT NULL) LIMIT :limit""",
    ),
    Rule(
        "whole_pool_is_scored",
        "a search with a result and without waves has a unit for every candidate",
        """SELECT j.id, 'item ' || c.item_id FROM jobs j JOIN searches s ON s.id = j.id
            JOIN candidates c ON c.search_id = j.id
            WHERE j.state IN ('succeeded', 'partial') AND s.adaptive IS NULL AND NOT EXISTS (
                SELECT FROM scoring f WHERE f.job_id = j.id AND f.item::uuid = c.item_id) LIMIT :limit""",
    ),
)

RULES: tuple[Rule, ...] = (*_JOBS, *_UNITS, *_UPLOADS, *_INDEX, *_SEARCH, *TOKEN_RULES, *COUNT_RULES)
"""Every rule; names are unique."""
