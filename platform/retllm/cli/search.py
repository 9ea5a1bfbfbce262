"""``retllm search``: ask a collection, by text, picture or both."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import click

from retllm.cli import show
from retllm.cli.client import Api, Json, connect, json_option
from retllm.db.enums import ItemKind
from retllm.fine.prompts import Mode


@click.command()
@click.argument("collection")
@click.argument("text", required=False)
@click.option(
    "--picture", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A picture as (part of) the query."
)
@click.option("-k", type=click.IntRange(min=1), help="Candidates that go to the fine stage; with --adaptive, at most.")
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice([kind.value for kind in ItemKind]), help="Kinds of items."
)
@click.option(
    "--captions/--no-captions", default=None, help="Look for the query's words in texts and captions, or do not."
)
@click.option(
    "--embedder", "embedders", multiple=True, help="Embedders of the coarse stage; all that there are if none."
)
@click.option("--alpha", type=click.FloatRange(0, 1), help="Share of the visual re-injection.")
@click.option("--trigger", type=click.Choice(["entropy", "fixed", "off"]), help="When visual tokens are re-injected.")
@click.option("--tau", type=click.FloatRange(0, 1), help="Uncertainty that arms the next layer.")
@click.option("--mode", type=click.Choice(get_args(Mode)), help="How the scorer is asked.")
@click.option(
    "--adaptive/--no-adaptive", default=None, help="Score in waves and stop when the best candidate is clear."
)
@click.option(
    "--fusion-weight", type=click.FloatRange(0, 100), help="Log-odds that a deviation of coarse similarity adds."
)
@click.option("--trace", is_flag=True, help="Keep what the model did at each layer, for each candidate.")
@click.option("--watch/--no-watch", default=False, help="Wait for the final order, with a progress bar.")
@json_option
@click.pass_context
def search(
    ctx: click.Context,
    collection: str,
    text: str | None,
    picture: Path | None,
    k: int | None,
    kinds: tuple[str, ...],
    captions: bool | None,
    embedders: tuple[str, ...],
    alpha: float | None,
    trigger: str | None,
    tau: float | None,
    mode: str | None,
    adaptive: bool | None,
    fusion_weight: float | None,
    trace: bool,
    watch: bool,
    as_json: bool,
) -> None:
    """Search COLLECTION (a name or an id) for TEXT, for a picture, or for both.

    Without --watch the job is submitted and its id printed; `retllm jobs show ID` gives the result.
    """
    api = connect()
    injection = {"alpha": alpha, "trigger": trigger, "tau": tau}
    coarse = {"captions": captions, "embedders": list(embedders) or None}
    query: dict[str, Any] = {
        "text": text,
        "k": k,
        "kinds": list(kinds) or None,
        "coarse": {name: value for name, value in coarse.items() if value is not None} or None,
        "mode": mode,
        "adaptive": adaptive,
        "fusion_weight": fusion_weight,
        "trace": trace or None,
    }
    query = {name: value for name, value in query.items() if value is not None}
    query["injection"] = {name: value for name, value in injection.items() if value is not None}
    target = api.collection(collection)
    job = submit(api, target["id"], query, picture)
    if not watch:
        if as_json:
            show.as_json(job | {"notice": target.get("notice")})
        else:
            show.notice(target)
            click.echo(job["id"])
        return
    job = show.follow(api, job["id"], quiet=as_json)
    result = api.get(f"/searches/{job['id']}")
    if as_json:
        show.as_json(result)
    else:
        show.candidates(result)
        click.echo(f"Job {job['id']} {job['state']}.", err=True)
    ctx.exit(0 if job["state"] == "succeeded" else 1)


def submit(api: Api, collection_id: str, query: Json, picture: Path | None = None) -> Json:
    """Submit a search; returns its job."""
    path = f"/collections/{collection_id}/searches"
    if picture is None:
        return api.submit(path, json=query)
    with ExitStack() as opened:
        content = opened.enter_context(picture.open("rb")).read()
    return api.submit(path, data={"query": json.dumps(query)}, files={"picture": (picture.name, content)})
