"""Which requests are accepted or refused, and that a repeated request returns the same job."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from pydantic import ValidationError
from tests.factories import make_collection, make_text, store

from retllm.db.enums import ItemKind, Role, Stage
from retllm.db.jobs import Job
from retllm.db.searches import Search
from retllm.db.session import transaction
from retllm.db.tables import Embedding, Item, new_id
from retllm.db.vectors import register_model
from retllm.errors import Conflict, InvalidInput, NotFound
from retllm.history import control
from retllm.identity import accounts
from retllm.identity.actor import Actor
from retllm.indexing.submit import submit_index
from retllm.queue.routing import Notification
from retllm.queue.submission import Submitted
from retllm.search.request import SearchRequest
from retllm.search.settings import InjectionSettings, in_force
from retllm.search.submit import StoredPicture, submit_search
from retllm.settings import PRESETS


def _index(world, key: str | None = None) -> Submitted:
    with transaction(world.sessions) as session:
        return submit_index(session, world.user, world.collection_id, world.settings, idempotency_key=key)


def _search(world, picture: StoredPicture | None = None, key: str | None = None, **fields: object) -> Submitted:
    with transaction(world.sessions) as session:
        return submit_search(
            session,
            world.user,
            world.collection_id,
            SearchRequest(**fields),
            world.settings,
            picture=picture,
            idempotency_key=key,
        )


@pytest.fixture
def indexed(world):
    """The world with two texts that have embeddings."""
    ids = world.add_texts("one", "two")
    with transaction(world.sessions) as session:
        model = register_model(session, name="local-dir:embedder", revision="r1", dimension=3, preprocessing_hash="p1")
        for number, item in enumerate(ids):
            session.add(
                Embedding(
                    token=new_id(),
                    item_id=item,
                    model_id=model.id,
                    collection_id=world.collection_id,
                    item_version=1,
                    image_weight=0.7,
                    vector=[1.0, float(number), 0.0],
                )
            )
    return world


def test_an_index_job_fixes_its_items_in_units_of_the_configured_size(world) -> None:
    ids = world.add_texts(*"abcde")
    submitted = _index(world)
    world.add_texts("later")
    units = world.units(submitted.job.id)
    assert [len(unit.payload["items"]) for unit in units] == [2, 2, 1]
    assert [UUID(item) for unit in units for item in unit.payload["items"]] == sorted(ids)
    assert submitted.units == [Notification(unit.id, Stage.EMBED) for unit in units]


def test_only_items_without_a_current_embedding_are_indexed(indexed) -> None:
    (check,) = indexed.units(_index(indexed).job.id)
    assert check.payload["items"] == [], "a worker only confirms that it has no newer embedder"
    (new,) = indexed.add_texts("three")
    with transaction(indexed.sessions) as session:
        session.execute(sa.update(Item).where(Item.text == "two").values(version=2))
        changed = session.scalar(sa.select(Item.id).where(Item.text == "two"))
    (unit,) = indexed.units(_index(indexed).job.id)
    assert {UUID(item) for item in unit.payload["items"]} == {new, changed}


def test_an_embedding_of_another_model_does_not_count(indexed) -> None:
    with transaction(indexed.sessions) as session:
        register_model(session, name="local-dir:embedder", revision="r2", dimension=3, preprocessing_hash="p1")
    (unit,) = indexed.units(_index(indexed).job.id)
    assert len(unit.payload["items"]) == 2


def test_concurrent_requests_with_the_same_key_make_one_job(world) -> None:
    world.add_texts("a")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: _index(world, "key-1"), range(8)))
    assert len({one.job.id for one in made}) == 1
    assert sum(one.created for one in made) == 1
    assert len(world.units(made[0].job.id)) == 1


def test_the_same_key_for_another_request_is_refused(indexed) -> None:
    first = _search(indexed, key="k", text="a cat")
    assert _search(indexed, key="k", text="a cat").job.id == first.job.id
    with pytest.raises(Conflict, match="different request"):
        _search(indexed, key="k", text="a dog")


def test_the_same_key_for_another_collection_is_refused(world) -> None:
    world.add_texts("a")
    _index(world, "k")
    with transaction(world.sessions) as session:
        other = make_collection(world.user.id, "other")
        store(session, other, make_text(other.id, "a"))
    world.collection_id = other.id
    with pytest.raises(Conflict, match="different request"):
        _index(world, "k")


def test_a_refused_request_leaves_no_job_and_its_key_can_be_used_again(world) -> None:
    with pytest.raises(Conflict, match="empty"):
        _index(world, "key")
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Job)) == 0
    world.add_texts("a")
    assert _index(world, "key").created


def test_a_search_stores_everything_that_can_change_its_result(indexed) -> None:
    submitted = _search(indexed, text="  a red circle ", k=7, injection={"alpha": 0.12}, tie_decimals=2)
    with indexed.sessions() as session:
        search = session.get_one(Search, submitted.job.id)
    assert search.query_text == "a red circle"
    assert (search.k, search.kind, search.mode, search.tie_decimals) == (7, ItemKind.TEXT, "true_false", 2)
    assert (search.embedder, search.scorer) == ("local-dir:embedder", "scorer")
    assert search.injection["alpha"] == 0.12
    assert search.injection["trigger"] == "entropy"
    assert search.injection["tau"] == 0.75
    assert search.query_image_weight == 0.8
    assert [(unit.stage, unit.payload) for unit in indexed.units(submitted.job.id)] == [(Stage.COARSE, {})]


def _stored(world, **fields: object) -> Search:
    submitted = _search(world, text="a", **fields)
    with world.sessions() as session:
        return session.get_one(Search, submitted.job.id)


def test_the_options_of_the_fine_stage_are_stored_with_the_search(indexed) -> None:
    default = _stored(indexed)
    assert (default.mode, default.adaptive, default.fusion_weight, default.trace) == ("true_false", None, 0.0, False)
    assert default.unit_candidates == 2
    custom = _stored(indexed, mode="choice", adaptive={"first": 2, "clear_gap": 1.5}, fusion_weight=0.25, trace=True)
    assert (custom.mode, custom.fusion_weight, custom.trace) == ("choice", 0.25, True)
    assert custom.adaptive == {"first": 2, "step": 4, "clear_score": 0.0, "clear_gap": 1.5}


def test_the_options_of_a_search_default_to_the_settings_and_override_them(indexed) -> None:
    chosen = {"mode": "verbalized", "adaptive": True, "adaptive_first": 7, "adaptive_step": 2, "fusion_weight": 0.5}
    indexed.settings = indexed.settings.model_copy(update=chosen)
    default = _stored(indexed)
    assert (default.mode, default.fusion_weight) == ("verbalized", 0.5)
    assert default.adaptive == {"first": 7, "step": 2, "clear_score": 0.0, "clear_gap": 2.0}
    assert _stored(indexed, adaptive=True).adaptive == default.adaptive
    assert _stored(indexed, adaptive={"step": 3}).adaptive == {**default.adaptive, "step": 3}
    other = _stored(indexed, adaptive=False, mode="true_false", fusion_weight=0)
    assert (other.adaptive, other.mode, other.fusion_weight) == (None, "true_false", 0.0)


def test_a_search_can_disable_the_scaling_of_the_injection(indexed) -> None:
    assert _stored(indexed).injection["scaling"] is True
    assert _stored(indexed, injection={"scaling": False}).injection["scaling"] is False
    indexed.settings = indexed.settings.model_copy(update={"injection_scaling": False})
    assert _stored(indexed).injection["scaling"] is False


def test_the_fixed_layer_defaults_to_the_settings_and_is_kept_for_its_trigger_only(indexed) -> None:
    assert _stored(indexed, injection={"trigger": "fixed", "fixed_layer": 3}).injection["fixed_layer"] == 3
    assert _stored(indexed, injection={"trigger": "off", "fixed_layer": 3}).injection["fixed_layer"] is None
    with pytest.raises(InvalidInput, match="needs fixed_layer") as caught:
        _search(indexed, text="a", injection={"trigger": "fixed"})
    assert caught.value.detail["field"] == "fixed_layer"
    indexed.settings = indexed.settings.model_copy(update={"fixed_layer": 2})
    assert _stored(indexed, injection={"trigger": "fixed"}).injection["fixed_layer"] == 2
    assert _stored(indexed).injection["fixed_layer"] is None
    indexed.settings = indexed.settings.model_copy(update={"trigger": "fixed"})
    assert (_stored(indexed).injection["trigger"], _stored(indexed).injection["fixed_layer"]) == ("fixed", 2)


def test_a_layer_beyond_those_of_a_scorer_on_this_machine_is_refused_at_submission(indexed, tmp_path: Path) -> None:
    """Also in the demo scorer's configuration, which has six; an unknown scorer's workers check it."""
    folder = tmp_path / "scorer"
    folder.mkdir()
    (folder / "config.json").write_text('{"text_config": {"num_hidden_layers": 4}}')
    beyond = {"trigger": "fixed", "fixed_layer": 6}
    assert _stored(indexed, injection=beyond).injection["fixed_layer"] == 6
    for scorer, layers in ((str(folder), 4), (PRESETS["demo"].scorer, 6)):
        indexed.settings = indexed.settings.model_copy(update={"scorer": scorer})
        with pytest.raises(InvalidInput, match=f"this model's layers are 0 to {layers - 1}") as caught:
            _search(indexed, text="a", injection=beyond)
        assert caught.value.detail["field"] == "fixed_layer"
        assert _stored(indexed, injection={**beyond, "fixed_layer": layers - 1}).injection["fixed_layer"] == layers - 1


def test_a_mode_that_the_profile_of_the_scorer_lacks_is_refused_at_submission(indexed) -> None:
    for scorer in (PRESETS["demo"].scorer, "openai+http://gpu:8000#m"):
        update = {"scorer": scorer, "profile": "qwen3_vl_reranker"}
        indexed.settings = indexed.settings.model_copy(update=update)
        with pytest.raises(
            InvalidInput, match="qwen3_vl_reranker of the scorer has no mode choice: use true_false"
        ) as it:
            _search(indexed, text="a", mode="choice")
        assert it.value.detail["field"] == "mode"
        assert _stored(indexed, mode="true_false", injection={"trigger": "off"}).mode == "true_false"


@pytest.mark.parametrize(
    ("scorer", "asked", "field"),
    [
        ("openai+http://gpu#m", {"injection": {"trigger": "fixed", "fixed_layer": 1}}, "injection.trigger"),
        ("openai+http://gpu#m", {"injection": {"trigger": "entropy"}}, "injection.trigger"),
        ("openai+http://gpu#m", {"trace": True}, "trace"),
        ("rerank+http://gpu#m", {"mode": "verbalized"}, "mode"),
    ],
)
def test_what_a_scorer_on_a_server_cannot_do_is_refused_at_submission(indexed, scorer, asked, field) -> None:
    indexed.settings = indexed.settings.model_copy(update={"scorer": scorer})
    with pytest.raises(InvalidInput) as caught:
        _search(indexed, text="a", **asked)
    assert caught.value.detail["field"] == field
    stored = _stored(indexed)
    assert (stored.scorer, stored.injection["trigger"]) == (f"{scorer[:6]}:m", "off")


#: another value than the default of each setting of the re-injection
OTHERS = {
    "trigger": "entropy",
    "alpha": 0.2,
    "tau": 0.5,
    "start": 1,
    "end": 9,
    "fixed_layer": 3,
    "scope": "all",
    "scaling": False,
}


@pytest.mark.parametrize("scorer", ["openai+http://gpu#m", "rerank+http://gpu#m"])
@pytest.mark.parametrize("name", list(InjectionSettings.model_fields))
def test_each_setting_without_a_use_on_a_server_is_refused_unless_it_is_the_default(indexed, scorer, name) -> None:
    """Also beside the trigger off, which a form always sends."""
    indexed.settings = indexed.settings.model_copy(update={"scorer": scorer})
    usual = in_force(InjectionSettings, indexed.settings)
    for beside in ({}, {"trigger": "off"}):
        with pytest.raises(InvalidInput, match="runs on a server") as caught:
            _search(indexed, text="a", injection=beside | {name: OTHERS[name]})
        assert caught.value.detail["field"] == f"injection.{name}"
    assert _stored(indexed, injection={name: usual[name]}).injection["trigger"] == "off"
    assert _stored(indexed, injection=usual).injection["trigger"] == "off"


def test_the_decimals_of_a_tie_depend_on_the_mode_unless_they_are_set(indexed) -> None:
    assert [_stored(indexed, mode=mode).tie_decimals for mode in ("true_false", "choice", "verbalized")] == [4, 4, 2]
    assert _stored(indexed, mode="verbalized", tie_decimals=3).tie_decimals == 3
    indexed.settings = indexed.settings.model_copy(update={"tie_decimals": 0})
    assert _stored(indexed, mode="verbalized").tie_decimals == 0
    assert _stored(indexed, tie_decimals=5).tie_decimals == 5


@pytest.mark.parametrize(
    ("with_text", "with_picture", "kind"),
    [(True, False, ItemKind.TEXT), (False, True, ItemKind.IMAGE), (True, True, ItemKind.BOTH)],
)
def test_the_kind_of_a_query_follows_from_its_parts(
    indexed, with_text: bool, with_picture: bool, kind: ItemKind
) -> None:
    picture = StoredPicture("queries/x/picture", "0" * 64) if with_picture else None
    submitted = _search(indexed, picture, **({"text": "a"} if with_text else {}))
    with indexed.sessions() as session:
        assert session.get_one(Search, submitted.job.id).kind is kind


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "query is empty"),
        ({"text": "  \n"}, "query is empty"),
        ({"text": "x" * 20_001}, "longer than"),
        ({"text": "a\x00b"}, "NUL"),
        ({"text": "a", "k": 201}, "at most 200"),
        ({"text": "a", "injection": {"start": 9, "end": 3}}, "start"),
    ],
)
def test_an_invalid_search_is_refused(indexed, fields: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        _search(indexed, **fields)
    with indexed.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Job)) == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"k": 0},
        {"k": "many"},
        {"kinds": []},
        {"kinds": ["film"]},
        {"topk": 3},
        {"injection": {"alpha": 2}},
        {"mode": "guess"},
        {"adaptive": {"first": 0}},
        {"adaptive": {"most": 3}},
        {"adaptive": {"clear_gap": float("inf")}},
        {"adaptive": 4},
        {"fusion_weight": -1},
        {"fusion_weight": float("nan")},
        {"trace": None},
    ],
)
def test_wrong_types_and_unknown_fields_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SearchRequest(text="a", **fields)


def test_a_collection_that_is_empty_or_not_indexed_cannot_be_searched(world) -> None:
    with pytest.raises(Conflict, match="empty"):
        _search(world, text="a")
    world.add_texts("a")
    with pytest.raises(Conflict, match="not indexed"):
        _search(world, text="a")


def test_the_collection_of_another_user_is_not_found(indexed) -> None:
    with transaction(indexed.sessions) as session:
        eve = Actor.unlimited(accounts.create_user(session, "eve", "a-long-password"))
        root = Actor.unlimited(accounts.create_user(session, "root", "a-long-password", Role.ADMIN))
    job = _index(indexed).job
    with transaction(indexed.sessions) as session:
        for collection in (indexed.collection_id, uuid.uuid4()):
            with pytest.raises(NotFound):
                submit_index(session, eve, collection, indexed.settings)
        with pytest.raises(NotFound):
            control.cancel_job(session, eve, job.id)
        assert submit_index(session, root, indexed.collection_id, indexed.settings).created
