"""Every setting of a search is in every place: its request, row, view and form, the comparison and the export."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any, get_args

import pytest
import sqlalchemy as sa
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from tests.unit.web.conftest import Caller

from retllm.db.enums import ItemKind
from retllm.db.searches import Search
from retllm.fine.injection import Injection
from retllm.fine.waves import Adaptive
from retllm.search import coarse
from retllm.search.request import SearchRequest, resolve
from retllm.search.results import SearchView
from retllm.search.settings import SETTINGS, AdaptiveSettings, InjectionSettings, SearchSettings, Setting
from retllm.settings import Settings
from retllm_web.app import create_app
from retllm_web.pages.search_form import SearchForm, form_of, request_of

from .conftest import Visitor


@pytest.fixture(scope="module")
def offline_app() -> Flask:
    """An app with two embedders, which needs no servers."""
    return create_app(
        Settings(
            home=Path("unused"),
            secret_key=secrets.token_hex(),
            database_url="postgresql://unused",
            redis_url="redis://unused",
            extra_embedders=("hf-hub:some/other",),
        )
    )


def _embedders(app: Flask) -> list[str]:
    return list(app.extensions["retllm"].settings.embedders)


def _values(setting: Setting, app: Flask) -> SearchStrategy[Any]:
    """Return a strategy for the values of the setting."""
    kind = setting.info.annotation
    if kind == list[ItemKind]:
        return st.lists(st.sampled_from(ItemKind), min_size=1)
    if setting.is_list:
        return st.lists(st.sampled_from(_embedders(app)))
    if setting.is_switch:
        return st.booleans()
    if setting.name == "filter":
        return st.sampled_from([None, "has taken", 'folder ~ "Italy/" and not rating > 3'])
    if choices := get_args(kind):
        # a choice of texts, or an optional number
        return st.integers(1, 60) | st.none() if int in choices else st.sampled_from(choices)
    if kind is str:
        return st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=20)
    least, most = setting.bounds.get("min"), setting.bounds.get("max")
    if kind is int:
        return st.integers(int(least or 0), 200 if most is None else int(most))
    return st.floats(least, most, allow_nan=False, allow_infinity=False)


@st.composite
def _requests(draw: st.DrawFn, app: Flask) -> SearchRequest:
    values = {setting.name: draw(_values(setting, app), setting.name) for setting in SETTINGS}
    layers = {"entropy": ("start", "end"), "fixed": ("fixed_layer",), "off": ()}[values["injection.trigger"]]
    # the form omits a layer that the trigger does not use
    values |= {f"injection.{name}": None for name in {"start", "end", "fixed_layer"} - {*layers}}
    if "fixed_layer" in layers:
        values["injection.fixed_layer"] = values["injection.fixed_layer"] or 0
    if None not in (values["injection.start"], values["injection.end"]):
        values["injection.end"] += values["injection.start"]
    values["coarse.captions"] |= not values["coarse.embedders"]
    off = [setting.name for setting in SETTINGS if setting.is_group and not values.pop(setting.name)]
    asked: dict[str, Any] = {"text": "a bird"}
    for name, value in values.items():
        *group, last = name.split(".")
        (asked.setdefault(group[0], {}) if group else asked)[last] = value
    return SearchRequest.model_validate(asked | dict.fromkeys(off, False))


def _row_of(asked: SearchSettings, embedder: str) -> Search:
    """Return the row of a search, as read from the database."""
    values = asked.columns() | {"coarse": coarse.plan(asked, embedder, has_text=True)}
    return Search(embedder=embedder, **json.loads(json.dumps(values)))


def _view_of(row: Search) -> SearchView:
    return SearchView.model_construct(
        text="a bird",
        collections=[],
        has_picture=False,
        scorer="a scorer",
        injection=row.injection,
        adaptive=row.adaptive,
        sources=coarse.sources_of(row, None, 0),
        **SearchSettings.of(row).plain(),
    )


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_setting_is_lost_between_request_row_view_and_form(offline_app: Flask, data: st.DataObject) -> None:
    in_force: Settings = offline_app.extensions["retllm"].settings
    embedder = _embedders(offline_app)[0]
    request = data.draw(_requests(offline_app))
    asked = resolve(request, in_force, embedder)
    row = _row_of(asked, embedder)
    assert SearchSettings.of(row) == asked
    view = _view_of(row)
    assert view.settings == asked
    with offline_app.test_request_context():
        values = form_of(view).values
    # an unchecked box is not sent
    fields = {name: "1" if value is True else value for name, value in values.items() if value is not False}
    with offline_app.test_request_context(method="POST", data=fields | {"whole": "1"}):
        sent = request_of(SearchForm.posted())
    assert resolve(sent, in_force, embedder) == asked


def test_a_request_contains_only_given_settings_and_defaults_apply_to_the_others(offline_app: Flask) -> None:
    in_force: Settings = offline_app.extensions["retllm"].settings
    assert SearchRequest(text="a").model_dump(mode="json", exclude_none=True) == {
        "text": "a",
        "injection": {},
        "trace": False,
    }
    plain = resolve(SearchRequest(text="a"), in_force, _embedders(offline_app)[0])
    whole = {setting.name: setting.default(in_force) for setting in SETTINGS if not setting.in_optional}
    by_mode = {"tie_decimals": 4, "adaptive": None, "kinds": sorted(ItemKind)}
    assert plain.flat() == whole | by_mode


def test_each_setting_has_its_own_column_and_form_field(offline_app: Flask) -> None:
    columns = {column.key for column in Search.__table__.columns}
    plain = resolve(SearchRequest(text="a"), offline_app.extensions["retllm"].settings, _embedders(offline_app)[0])
    assert plain.columns().keys() <= columns
    assert SearchSettings.model_fields.keys() <= SearchRequest.model_fields.keys()
    assert SearchSettings.model_fields.keys() - {"coarse"} <= SearchView.model_fields.keys()
    fields = [setting.path[-1] for setting in SETTINGS]
    assert len(fields) == len({*fields}), "a form is flat"


def test_setting_groups_match_the_parameters_of_the_fine_stage() -> None:
    assert InjectionSettings.model_fields.keys() <= Injection.__dataclass_fields__.keys()
    assert AdaptiveSettings.model_fields.keys() == Adaptive.__dataclass_fields__.keys()


def test_each_setting_is_in_the_form_the_comparison_and_the_export(
    reader: Visitor, indexed: str, ada: Caller, served: Any
) -> None:
    form = reader.get(f"/search?collection={indexed}")
    fields = {e.attributes.get("name") for tag in ("input", "select") for e in form.all(tag)}
    assert {setting.path[-1] for setting in SETTINGS} <= fields
    asked: dict[str, Any] = {"text": "a", "k": 2, "kinds": ["text"], "coarse": {"captions": True}, "adaptive": True}
    keys = [ada.post(f"/collections/{indexed}/searches", json=one).json["id"] for one in (asked, {"text": "a"})]
    compared = {e.text for e in reader.get(f"/compare?of={keys[0]}&of={keys[1]}").all("th", scope="row")}
    whole = [setting for setting in SETTINGS if not setting.in_optional]
    assert {setting.label for setting in whole} <= compared
    _, exported = json.loads(ada.get("/jobs/export").text)
    with served.sessions() as session:
        kept = SearchSettings.of(session.scalars(sa.select(Search).filter_by(k=2)).one()).flat()
    assert {name: exported[name.replace(".", "_")] for name in kept} == kept
    assert kept["adaptive"] == {"first": 4, "step": 4, "clear_score": 0.0, "clear_gap": 2.0}
    assert '"{""first"": 4, ""step"": 4,' in ada.get("/jobs/export?format=csv").text
