"""A database as large as a busy server's, filled by SQL.

With ``make soak`` 1,000,000 items in 500 collections, 100,000 jobs, 2,000,000 candidates and as many scores, with
units, marks and an audit log in proportion. Otherwise a tenth of the jobs, since PostgreSQL would scan a smaller table
sequentially, and a fiftieth of the items. Timestamps and IDs go back over a hundred days.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

import sqlalchemy as sa
from tests.soak import scaled

from retllm.db.counts import OF_COLLECTIONS, OF_FILES, OF_UNITS

ITEMS = scaled(20_000, 1_000_000)
COLLECTIONS = scaled(50, 500)
SEARCHES = scaled(9_600, 96_000)
INDEX_JOBS = scaled(400, 4_000)
POOL = 21
UNITS_OF_A_SEARCH = 6
UNITS_OF_AN_INDEX = scaled(12, 60)
# reruns, whose searches are the newest ones but for those that run
RUNS, SEARCHES_OF_A_RUN = 10, 200
REVIEWED = scaled(2_000, 20_000)
MARKS = 5
AUDITED = scaled(20_000, 200_000)
DELETED = scaled(20, 200)
UPLOADED = scaled(12_000, 500_000)
UNITS_OF_THE_UPLOAD = scaled(12_000, 50_000)

# the tables that grow with use: no page may scan one of them sequentially
LARGE = {"items", "embeddings", "jobs", "units", "searches", "candidates", "scores", "judgments", "audit_log"}

_FILL = f"""
CREATE TEMP TABLE big_collections AS
    SELECT n, uuidv7(make_interval(days => -101)) AS id FROM generate_series(1, {COLLECTIONS}) n;
INSERT INTO collections (id, owner_id, name, description, visibility)
    SELECT id, CASE WHEN n % 2 = 0 THEN :ada ELSE :root END, 'Collection ' || n, 'the pictures of box ' || n,
        CASE WHEN n % 3 = 0 THEN 'everyone' ELSE 'private' END FROM big_collections;
INSERT INTO collection_members (collection_id, user_id, role)
    SELECT id, :vic, 'viewer' FROM big_collections WHERE n = 2;

-- half of the items in the first collection, the rest evenly in the others; place is the number within a collection
CREATE TEMP TABLE big_items AS
    SELECT g AS n, CASE WHEN g <= {ITEMS // 2} THEN 1 ELSE 2 + g % {COLLECTIONS - 1} END AS c,
        CASE WHEN g <= {ITEMS // 2} THEN g - 1 ELSE (g - {ITEMS // 2} - 1) / {COLLECTIONS - 1} END AS place,
        uuidv7(make_interval(secs => g * 0.2 - 8640000)) AS id
    FROM generate_series(1, {ITEMS}) g;
CREATE INDEX ON big_items (c, place);
INSERT INTO items (id, created_at, collection_id, kind, state, name, content_sha256, version, text, media_type, width,
        height, size_bytes, picture_key, thumbnail_key, error, words)
    SELECT i.id, uuid_extract_timestamp(i.id), b.id, CASE WHEN i.n % 5 = 0 THEN 'text' ELSE 'image+text' END, 'ready',
        'picture ' || i.n || '.jpg', md5(i.n::text) || md5('x' || i.n), 1,
        'a ' || (ARRAY['red','blue','green','old'])[1 + i.n % 4] || ' ' || (ARRAY['bird','boat','house'])[1 + i.n % 3]
            || ' beside number ' || i.n,
        CASE WHEN i.n % 5 = 0 THEN NULL ELSE 'image/jpeg' END, 640, 480, 90000 + i.n,
        CASE WHEN i.n % 5 = 0 THEN NULL ELSE 'items/' || i.n END,
        CASE WHEN i.n % 5 = 0 THEN NULL ELSE 'thumbs/' || i.n END,
        CASE WHEN i.n % 5000 = 0 THEN 'The picture can not be decoded.' END,
        -- as the trigger does, which is off
        to_tsvector('english', 'a ' || (ARRAY['red','blue','green','old'])[1 + i.n % 4] || ' '
            || (ARRAY['bird','boat','house'])[1 + i.n % 3] || ' beside number ' || i.n)
    FROM big_items i JOIN big_collections b ON b.n = i.c;
-- every twentieth item of the first collection is in the trash
UPDATE items SET state = 'trashed', trashed_at = now() - make_interval(secs => i.n), trashed_by = :ada,
    kept_until = now() + interval '30 days' FROM big_items i WHERE i.id = items.id AND i.c = 1 AND i.n % 20 = 7;
INSERT INTO collections (id, owner_id, name, description, deleted_at, deleted_by, kept_until)
    SELECT uuidv7(), :ada, 'Deleted ' || g, '', now(), :ada, now() + interval '30 days'
    FROM generate_series(1, {DELETED}) g;
-- pairs of near-duplicates, nearly all pictures of the first collection among them
UPDATE items SET perceptual_hash = 1 WHERE kind <> 'text';
CREATE TEMP TABLE big_groups AS
    SELECT place / 2 AS n, uuidv7() AS id, count(*) AS size FROM big_items WHERE c = 1 AND n % 5 <> 0
    GROUP BY place / 2 HAVING count(*) = 2;
INSERT INTO duplicate_groups (id, collection_id, size)
    SELECT g.id, b.id, g.size FROM big_groups g JOIN big_collections b ON b.n = 1;
INSERT INTO duplicate_members (item_id, group_id, distance)
    SELECT i.id, g.id, 2 FROM big_groups g JOIN big_items i ON i.c = 1 AND i.place / 2 = g.n WHERE i.n % 5 <> 0;
INSERT INTO duplicate_results (collection_id, job_id, through, pictures)
    SELECT b.id, uuidv7(), (SELECT min(id::text)::uuid FROM big_items WHERE c = 1), {ITEMS // 2}
    FROM big_collections b WHERE b.n = 1;
-- a map of the first collection, and positions of half of the items
INSERT INTO map_points (item_id, collection_id, rank, x, y)
    SELECT i.id, b.id, (i.place * 7919) % {ITEMS // 2}, i.n % 100, i.n % 97
    FROM big_items i JOIN big_collections b ON b.n = i.c WHERE i.c = 1;
INSERT INTO map_results (collection_id, job_id, model_id, through, items)
    SELECT b.id, uuidv7(), :model, (SELECT max(id::text)::uuid FROM big_items WHERE c = 1), {ITEMS // 2}
    FROM big_collections b WHERE b.n = 1;
UPDATE items SET latitude = i.n % 90, longitude = i.n % 180 FROM big_items i WHERE i.id = items.id AND i.n % 2 = 0;
INSERT INTO embedding_models (id, name, revision, dimension, preprocessing_hash)
    VALUES (:model, :embedder, 'r', 128, 'p');
INSERT INTO embeddings (item_id, model_id, collection_id, item_version, image_weight, token, vector)
    SELECT i.id, :model, b.id, 1, :weight, :token, array_fill((i.n % 7)::real, ARRAY[128])::vector
    FROM big_items i JOIN big_collections b ON b.n = i.c WHERE i.n % 50 <> 0;

CREATE TEMP TABLE big_jobs AS
    SELECT g AS n, CASE WHEN g <= {SEARCHES} THEN 'search' ELSE 'index' END AS kind, 1 + g % {COLLECTIONS} AS c,
        uuidv7(make_interval(secs => g * {8_000_000 // (SEARCHES + INDEX_JOBS)} - 8200000)) AS id,
        CASE WHEN g % 40 = 0 THEN 'failed' WHEN g % 41 = 0 THEN 'partial' WHEN g % 43 = 0 THEN 'cancelled'
             WHEN g > {SEARCHES - 5} AND g <= {SEARCHES} THEN 'running' ELSE 'succeeded' END AS state
    FROM generate_series(1, {SEARCHES + INDEX_JOBS}) g;
CREATE TEMP TABLE big_runs AS
    SELECT r AS n, {SEARCHES} - 5 - r * {SEARCHES_OF_A_RUN} AS below, uuidv7(make_interval(secs => r - 1000)) AS id
    FROM generate_series(1, {RUNS}) r;
INSERT INTO evaluation_runs (id, collection_id, user_id, name, source, report)
    SELECT r.id, b.id, :root, 'Rerun ' || r.n, 'reviewed', '{{}}' FROM big_runs r JOIN big_collections b ON b.n = 3;
INSERT INTO jobs (id, created_at, kind, state, user_id, collection_id, params, cancel_requested, error, started_at,
        finished_at, run_id)
    SELECT j.id, uuid_extract_timestamp(j.id), j.kind, j.state,
        CASE j.n % 3 WHEN 0 THEN :root WHEN 1 THEN :ada ELSE :vic END,
        CASE WHEN j.kind = 'search' AND j.n % 10 = 3 THEN NULL ELSE b.id END,
        CASE WHEN j.kind = 'search' THEN jsonb_build_object('text', 'bird ' || j.n % 3000) ELSE '{{}}'::jsonb END,
        false,
        CASE WHEN j.state IN ('failed', 'partial') THEN 'The picture can not be decoded.' END,
        uuid_extract_timestamp(j.id) + interval '1 second',
        CASE WHEN j.state <> 'running' THEN uuid_extract_timestamp(j.id) + make_interval(secs => 2 + j.n % 30) END,
        (SELECT r.id FROM big_runs r WHERE j.n > r.below AND j.n <= r.below + {SEARCHES_OF_A_RUN})
    FROM big_jobs j JOIN big_collections b ON b.n = j.c;
INSERT INTO units (id, created_at, job_id, stage, seq, state, payload, attempt, worker, started_at, finished_at, error,
        lease_until, token, run_after)
    SELECT uuidv7(), uuid_extract_timestamp(j.id), j.id,
        CASE WHEN j.kind = 'index' THEN 'embed' WHEN s = 0 THEN 'coarse' ELSE 'fine' END, s,
        CASE WHEN j.state = 'running' THEN CASE WHEN s < 4 THEN 'done' WHEN s = 4 THEN 'leased' ELSE 'ready' END
             WHEN j.state IN ('failed', 'partial') AND s = 1 THEN 'dead' ELSE 'done' END,
        jsonb_build_object('items', jsonb_build_array(j.id)), 1, 'host:' || j.n % 4,
        uuid_extract_timestamp(j.id) + make_interval(secs => s),
        CASE WHEN j.state = 'running' AND s >= 4 THEN NULL
             ELSE uuid_extract_timestamp(j.id) + make_interval(secs => s + 1) END,
        CASE WHEN j.state IN ('failed', 'partial') AND s = 1 THEN 'The picture can not be decoded.' END,
        CASE WHEN j.state = 'running' AND s = 4 THEN now() + interval '1 hour' END,
        CASE WHEN j.state = 'running' AND s = 4 THEN gen_random_uuid() END, uuid_extract_timestamp(j.id)
    FROM big_jobs j, LATERAL generate_series(0, CASE WHEN j.kind = 'index' THEN {UNITS_OF_AN_INDEX - 1}
        ELSE {UNITS_OF_A_SEARCH - 1} END) s;
INSERT INTO searches (id, created_at, kind, query_text, question, k, item_kinds, query_image_weight, embedder, model_id,
        scorer, scorer_revision, scorer_version, prompt_version, mode, injection, tie_decimals, searched_items,
        no_match, coarse_at, final_at, collections)
    SELECT j.id, uuid_extract_timestamp(j.id), 'text', 'bird ' || j.n % 3000, md5('bird ' || j.n % 3000), {POOL},
        '{{image,text,image+text}}', 0.8, :embedder, :model, 'a scorer', 'r', 'v' || j.n % 2, '2', 'true_false',
        '{{"alpha": 0.25, "trigger": "entropy", "tau": 0.7, "start": 1, "end": 5, "fixed_layer": null,
          "scope": "suffix"}}', 3, 5000, j.n % 9 = 0, uuid_extract_timestamp(j.id) + interval '2 seconds',
        CASE WHEN j.state IN ('succeeded', 'partial') THEN uuid_extract_timestamp(j.id) + interval '9 seconds' END,
        CASE WHEN j.n % 10 = 3 THEN 2 END
    FROM big_jobs j WHERE j.kind = 'search';
INSERT INTO search_collections (search_id, collection_id)
    SELECT j.id, b.id FROM big_jobs j JOIN big_collections b ON b.n IN (j.c, 1 + j.c % {COLLECTIONS})
    WHERE j.kind = 'search' AND j.n % 10 = 3;
CREATE TEMP TABLE big_pools AS
    SELECT j.id AS search_id, j.n, j.state, r, i.id AS item_id, uuid_extract_timestamp(j.id) AS at
    FROM big_jobs j CROSS JOIN LATERAL generate_series(1, {POOL}) r
    JOIN big_items i ON i.c = j.c AND i.place = (j.n * 7 + r * 13) % {ITEMS // 2 // COLLECTIONS}
    WHERE j.kind = 'search';
INSERT INTO candidates (search_id, item_id, token, coarse_rank, similarity, final_rank, decided_by)
    SELECT search_id, item_id, :token, r, 1 - r / 200.0,
        CASE WHEN state IN ('succeeded', 'partial') THEN 1 + ({POOL} - r) END,
        CASE WHEN state IN ('succeeded', 'partial') THEN 'score' END FROM big_pools;
INSERT INTO scores (search_id, item_id, token, scorer_version, score, log_odds, entropy, injected_layer, uncertainty,
        tokens, created_at)
    SELECT search_id, item_id, :token, 'v' || n % 2, r / 110.0, ln(r / 110.0 / (1 - r / 110.0)), 0.3, 2, 0.8, 100, at
    FROM big_pools WHERE NOT (state = 'running' AND r > {POOL * 2 // 5});
INSERT INTO judgments (collection_id, question, item_id, relevant, user_id, search_id, created_at, updated_at)
    SELECT b.id, md5('bird ' || p.n % 3000), p.item_id, p.r % 2 = 0, :ada, p.search_id, p.at, p.at
    FROM big_pools p JOIN big_jobs j ON j.id = p.search_id JOIN big_collections b ON b.n = j.c
    WHERE p.n <= {REVIEWED} AND p.r <= {MARKS} ON CONFLICT DO NOTHING;
INSERT INTO audit_log (id, created_at, user_name, action, target)
    SELECT uuidv7(make_interval(secs => g * 40 - 8600000)), now() - make_interval(secs => 8600000 - g * 40), 'ada',
        CASE WHEN g % 2 = 0 THEN 'logged in' ELSE 'job submitted' END, 'bird' FROM generate_series(1, {AUDITED}) g;
INSERT INTO saved_views (id, user_id, name, address) VALUES (uuidv7(), :root, 'Failed', 'state=failed');
INSERT INTO evaluation_runs (id, collection_id, user_id, name, source, report)
    SELECT :run, id, :root, 'Asked again', 'reviewed', '{{}}' FROM big_collections WHERE n = 1;
INSERT INTO workers (name, queues, device, release)
    VALUES ('host:1', '{{score}}', 'cpu', '0'), ('host:2', '{{query,embed}}', 'cpu', '0');

INSERT INTO jobs (id, kind, state, user_id, collection_id, params, cancel_requested, started_at)
    SELECT :upload, 'upload', 'running', :root, id, jsonb_build_object('index', false, 'texts', false), false, now()
    FROM big_collections WHERE n = 1;
INSERT INTO uploads (id, closed_at) VALUES (:upload, now());
INSERT INTO upload_files (id, job_id, name, status, error_code, error)
    SELECT uuidv7(), :upload, 'picture ' || g || '.jpg', CASE WHEN g % 9 = 0 THEN 'rejected' ELSE 'added' END,
        CASE WHEN g % 9 = 0 THEN 'media_rejected' END, CASE WHEN g % 9 = 0 THEN 'The picture is damaged.' END
    FROM generate_series(1, {UPLOADED}) g;
INSERT INTO units (id, job_id, stage, seq, state, payload, attempt, worker, started_at, finished_at, run_after)
    SELECT uuidv7(), :upload, 'media', s, CASE WHEN s < {UNITS_OF_THE_UPLOAD - 500} THEN 'done' ELSE 'ready' END,
        jsonb_build_object('items', jsonb_build_array(uuidv7())), 1, 'host:1', now(),
        CASE WHEN s < {UNITS_OF_THE_UPLOAD - 500} THEN now() END, now()
    FROM generate_series(0, {UNITS_OF_THE_UPLOAD - 1}) s;
INSERT INTO attempts (token, unit_id, number, worker, started_at, ended_at, outcome)
    SELECT uuidv7(), id, 1, 'host:1', started_at, finished_at, 'committed' FROM units
    WHERE job_id = :upload AND state = 'done';
"""


@dataclass(frozen=True)
class Large:
    """IDs for the paths of pages; the objects are large for their kind."""

    collection_id: uuid.UUID
    item_id: uuid.UUID
    search_id: uuid.UUID
    running_id: uuid.UUID
    index_id: uuid.UUID
    several_id: uuid.UUID
    run_id: uuid.UUID
    user_id: uuid.UUID
    upload_id: uuid.UUID


def fill(engine: sa.Engine, users: dict[str, uuid.UUID], *, embedder: str, image_weight: float) -> Large:
    """Fill the database of ``engine``; ``users`` has the IDs of root (admin), ada (editor) and vic (viewer)."""
    run, upload = uuid.uuid4(), uuid.uuid4()
    values = {
        **users,
        "token": uuid.uuid4(),
        "model": uuid.uuid4(),
        "embedder": embedder,
        "weight": image_weight,
        "run": run,
        "upload": upload,
    }
    with engine.connect() as connection:
        # skip the checks of foreign keys: the rows are consistent by construction
        connection.execute(sa.text("SET session_replication_role = replica"))
        for statement in _FILL.split(";\n"):
            if statement.strip():
                connection.execute(sa.text(statement), {k: v for k, v in values.items() if f":{k}" in statement})
        # as the triggers do, which are off
        for counted in (OF_COLLECTIONS, OF_UNITS, OF_FILES):
            columns = ", ".join([counted.of, *counted.sums, *(name for name, _ in counted.others)])
            insert = f"INSERT INTO {counted.table.__tablename__} ({columns}, merged)"
            connection.execute(sa.text(f"{insert} SELECT {columns}, true FROM ({counted.real}) AS found"))
        found = connection.execute(sa.text(_KEYS)).one()
        connection.commit()
        vacuum = connection.execution_options(isolation_level="AUTOCOMMIT")
        # other transactions, such as autovacuum, can prevent pages from being marked as visible to all
        deadline = time.monotonic() + 120
        vacuum.execute(sa.text("VACUUM ANALYZE"))
        while vacuum.scalar(_NOT_ALL_VISIBLE) and time.monotonic() < deadline:
            vacuum.execute(sa.text("VACUUM ANALYZE"))
    return Large(*found, run_id=run, user_id=users["ada"], upload_id=upload)


_NOT_ALL_VISIBLE = sa.text(
    "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace "
    "AND relallvisible < relpages"
)

_KEYS = f"""
SELECT (SELECT id FROM big_collections WHERE n = 1), (SELECT id FROM big_items WHERE n = {ITEMS // 4 + 1}),
    (SELECT id FROM big_jobs WHERE kind = 'search' AND c = 1 AND state = 'succeeded' ORDER BY n LIMIT 1),
    (SELECT id FROM big_jobs WHERE state = 'running' ORDER BY n LIMIT 1),
    (SELECT id FROM big_jobs WHERE kind = 'index' AND state = 'partial' LIMIT 1),
    (SELECT id FROM big_jobs WHERE kind = 'search' AND n % 10 = 3 AND state = 'succeeded' ORDER BY n LIMIT 1)
"""
