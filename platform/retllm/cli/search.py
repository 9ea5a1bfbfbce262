"""``retllm search``: search one collection, several, or all, by text, picture or both."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import click

from retllm.cli import show
from retllm.cli.client import Api, Json, connect, json_option
from retllm.db.enums import ItemKind
from retllm.search.settings import SETTINGS, Setting

# the settings of a search that have an option
_OPTIONS = {
    "k": ("-k", "Number of candidates; with --adaptive, the maximum."),
    "kinds": ("--kind", "Kind of items; repeatable."),
    "filter": ("--where", "Items to search, such as 'taken >= 1998 and camera = \"X100\"'."),
    "coarse.captions": (
        "--captions/--no-captions",
        "Also search for the query's words in texts, captions and pictures.",
    ),
    "coarse.embedders": ("--embedder", "Embedder of the coarse stage; repeatable, default: all."),
    "injection.alpha": ("--alpha", "Share of the visual re-injection."),
    "injection.trigger": ("--trigger", "When visual tokens are re-injected."),
    "injection.fixed_layer": ("--fixed-layer", "Layer of the trigger fixed, counted from 0."),
    "injection.tau": ("--tau", "Uncertainty that arms the next layer."),
    "mode": ("--mode", "How the scorer is asked."),
    "adaptive": ("--adaptive/--no-adaptive", "Score in waves and stop when the best candidate is clear."),
    "fusion_weight": ("--fusion-weight", "Log-odds that one standard deviation of similarity adds."),
    "trace": ("--trace", "Store what the scorer did at each layer, for each candidate."),
}


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    settings = {setting.name: setting for setting in SETTINGS}
    for name, (flags, text) in reversed(_OPTIONS.items()):
        setting = settings[name]
        add = click.option(flags, setting.path[-1], help=text, default=None, **_kind_of(setting))
        command = add(command)
    return command


def _kind_of(setting: Setting) -> dict[str, Any]:
    """Return the arguments of click.option for a setting."""
    if setting.is_switch:
        return {"is_flag": True}
    # the member of a list, or the type of a setting that can be unset
    optional = NoneType in get_args(setting.info.annotation)
    kind = get_args(setting.info.annotation)[0] if setting.is_list or optional else setting.info.annotation
    if kind in (int, float):
        number = click.IntRange if kind is int else click.FloatRange
        return {"type": number(setting.bounds.get("min"), setting.bounds.get("max"))}
    choices = [str(choice) for choice in (ItemKind if kind is ItemKind else get_args(kind))]
    return {"type": click.Choice(choices) if choices else str, "multiple": setting.is_list}


@click.command()
@click.argument("collection", required=False)
@click.argument("text", required=False)
@click.option("--collection", "several", multiple=True, help="Collection to search, a name or an id; repeatable.")
@click.option("--all-collections", "of_all", is_flag=True, help="Search all collections that you may search.")
@click.option("--scorer", help="Scorer of the fine stage, by the name that results show; default: the main one.")
@click.option("--picture", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Picture of the query.")
@_with_settings
@click.option("--watch/--no-watch", default=False, help="Wait for the final order, with a progress bar.")
@json_option
@click.pass_context
def search(
    ctx: click.Context,
    /,
    collection: str | None,
    text: str | None,
    several: tuple[str, ...],
    of_all: bool,
    scorer: str | None,
    picture: Path | None,
    watch: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Search COLLECTION (a name or an id) for TEXT, for a picture, or for both.

    With --collection, once for each, or --all-collections, give TEXT alone: the results of all are ranked together.

    Without --watch it prints the id of the job; `retllm jobs show ID` shows the result.
    """
    if several or of_all:
        if text is not None or (several and of_all):
            raise click.UsageError("Name collections in one way: COLLECTION, --collection, or --all-collections.")
        collection, text = None, collection
    elif collection is None:
        raise click.UsageError("Name the collection to search, or give --all-collections.")
    api = connect()
    given = {"text": text, "scorer": scorer}
    query: dict[str, Any] = {name: value for name, value in given.items() if value is not None} | {"injection": {}}
    for name in _OPTIONS:
        *group, last = name.split(".")
        value = list(options[last]) if isinstance(options[last], tuple) else options[last]
        if value not in (None, []):
            (query.setdefault(group[0], {}) if group else query)[last] = value
    if collection is None:
        targets = [api.collection(name) for name in several]
        query["collections"] = [target["id"] for target in targets] or "all"
        path = "/searches"
    else:
        targets = [api.collection(collection)]
        path = _path_of(targets[0]["id"])
    job = _submit(api, path, query, picture)
    notice = next((target["notice"] for target in targets if target.get("notice")), None)
    if not watch:
        if as_json:
            show.as_json(job | {"notice": notice})
        else:
            show.notice({"notice": notice})
            click.echo(job["id"])
        return
    job = show.follow(api, job["id"], quiet=as_json)
    result = api.get(f"/searches/{job['id']}")
    if as_json:
        show.as_json(result)
    else:
        show.candidates(result)
        click.echo(f"Job {job['id']} {show.job_state(job)}.", err=True)
    ctx.exit(0 if job["state"] == "succeeded" else 1)


def submit(api: Api, collection_id: str, query: Json, picture: Path | None = None) -> Json:
    """Submit a search of a collection and return its job."""
    return _submit(api, _path_of(collection_id), query, picture)


def _path_of(collection_id: str) -> str:
    """Return the address of the searches of a collection."""
    return f"/collections/{collection_id}/searches"


def _submit(api: Api, path: str, query: Json, picture: Path | None) -> Json:
    if picture is None:
        return api.submit(path, json=query)
    with ExitStack() as opened:
        content = opened.enter_context(picture.open("rb")).read()
    return api.submit(path, data={"query": json.dumps(query)}, files={"picture": (picture.name, content)})
