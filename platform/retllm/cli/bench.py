"""``retllm bench``: measures speed on this machine, together with a baseline in the same run."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from retllm.cli import show
from retllm.cli.client import json_option
from retllm.cli.coarse_speed import show_coarse
from retllm.cli.duplicate_quality import show_duplicates
from retllm.cli.ocr_quality import ocr
from retllm.errors import InvalidInput
from retllm.settings import PRESETS, Settings, public_name

if TYPE_CHECKING:
    from retllm.fine import Injection, Scorer

_NAMES = {
    "published_shape": "the published code's shape of work",
    "pair_by_pair": "pair by pair, last position only",
    "cross_encoder": "sentence-transformers' cross-encoder",
    "forward": "limit: the forward pass alone",
    "cold": "this platform, pictures not seen before",
    "warm": "this platform, pictures seen before",
}
_BASES = {"published_shape": "published shape", "cross_encoder": "cross-encoder", "forward": "limit"}

_CONCURRENT_NAMES = {
    "scorer": "limit: the scorer alone, the same pairs",
    "platform": "this platform, searches at once",
    "one_by_one": "this platform, one search after the other",
}

_INDEX_NAMES = {
    "forward": "limit: the model alone",
    "preparing": "limit: decoding and preparing alone",
    "loop": "a plain loop",
    "upload": "this platform, receiving files",
    "platform": "this platform, from upload to vector",
    "again": "this platform, indexing what it has",
}


@click.group()
def bench() -> None:
    """Measure speed on this machine; needs no running server or database."""


bench.add_command(ocr)


@bench.command()
@click.option("--model", help="A transformers model (name or folder) instead of one with random weights.")
@click.option(
    "--size",
    type=click.Choice(["2b", "7b", "8b"]),
    help="Random weights in bfloat16, made on the device: Qwen3-VL-2B, Qwen2.5-VL-7B or Qwen3-VL-8B.",
)
@click.option("--width", type=click.IntRange(min=128), default=512, show_default=True, help="Width of the decoder.")
@click.option("--layers", type=click.IntRange(min=4), default=12, show_default=True, help="Layers of the decoder.")
@click.option(
    "--picture", type=click.IntRange(56, 4096), default=224, show_default=True, help="Side of a picture, in pixels."
)
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Candidates of a query.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Measured rounds.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--trigger", type=click.Choice(["entropy", "off"]), default="entropy", show_default=True)
@click.option("--scope", type=click.Choice(["all", "suffix"]), help="Positions of the re-injection.")
@click.option(
    "--concurrent",
    type=click.IntRange(min=1),
    metavar="N",
    help="Measure N searches at once through the whole platform.",
)
@json_option
def fine(
    model: str | None,
    size: str | None,
    width: int,
    layers: int,
    picture: int,
    k: int,
    rounds: int,
    device: str,
    trigger: str,
    scope: str | None,
    concurrent: int | None,
    as_json: bool,
) -> None:
    """Measure the fine stage in pairs per second, beside what else people would use, and beside its limit.

    The cross-encoder of sentence-transformers is measured if the extra "sentence" is installed. Without --model the
    weights are random, which does not affect the speed. The settings of a worker apply to --model, as RETLLM_PROFILE.
    """
    if width % 64:
        raise InvalidInput(f"--width must be a multiple of 64, not {width}.", field="width")
    if size and model:
        raise InvalidInput("--size makes a model: omit --model.", field="size")
    small = _tool("random_model").Size(width, layers, picture=picture)
    injection = _injection(trigger, scope)
    if concurrent:
        save = partial(_save_of_size, size, device, picture) if size else partial(_save_random, small)
        together = _measured_together(model, save, picture, k, concurrent, device, injection)
        _print_concurrent(together, as_json=as_json)
        return
    make = partial(_sized, size, device, picture) if size else partial(_loaded, model, small, device)
    result = _measured(make, k, rounds, injection, picture)
    if as_json:
        show.as_json(result)
        return
    click.echo(
        f"{result['parameters'] / 1e6:.0f} M parameters on {result['device']}, k = {k}, medians of {rounds} "
        f"interleaved rounds; the device multiplies large matrices with {result['matrix_flops'] / 1e12:.2f} TFLOPS"
    )
    for direction, title in (("t2i", "text to image"), ("i2t", "image to text")):
        _print_direction(result, direction, title)
    click.echo(
        "Tokens that a cache saves count as computed, so this platform can have more than 100% of the matrix speed."
    )


def _print_direction(result: dict[str, Any], direction: str, title: str) -> None:
    speeds, shares = result[direction], result["share_of_matrix_speed"][direction]
    tokens = result["tokens_per_pair"][direction]
    bases = [one for one in _BASES if one in speeds]
    rows = [
        (
            name,
            f"{speeds[way]:.2f}",
            *(f"{speeds[way] / speeds[one]:.2f}" for one in bases),
            f"{speeds[way] * tokens:,.0f}",
            f"{shares[way]:.0%}",
        )
        for way, name in _NAMES.items()
        if way in speeds
    ]
    headings = (title, "pairs/s", *(f"x {_BASES[one]}" for one in bases), "tokens/s", "of matrix speed")
    cost = result["host_ms_per_pair"][direction]
    show.table(headings, rows, f"{tokens} tokens a pair; preparing one takes {cost:.1f} ms of one core")


def _tool(name: str) -> Any:
    """Return the module of the tools that makes models with random weights.

    Raises:
        InvalidInput: it is not installed; the wheel does not contain the tools.
    """
    try:
        return importlib.import_module(f"retllm_tools.{name}")
    except ModuleNotFoundError as error:
        raise InvalidInput("This benchmark makes models with retllm_tools: run it from a checkout.") from error


def _injection(trigger: str, scope: str | None) -> Injection:
    from retllm.fine import Injection

    return Injection.from_json({"trigger": trigger, **({"scope": scope} if scope else {})})


def _sized(size: str, device: str, picture: int, folder: Path) -> Scorer:
    from retllm.bench.fine import captions

    scorer: Scorer = _tool("published_sizes").scorer_of_size(folder, size, device, picture, captions(40, 0))
    return scorer


def _save_of_size(size: str, device: str, picture: int, folder: Path) -> None:
    from retllm.bench.fine import captions

    _tool("published_sizes").save_model_of_size(folder, size, device, picture, captions(40, 0))


def _save_random(size: Any, folder: Path) -> None:
    from retllm.bench.fine import captions

    _tool("random_model").save_random_model(folder, size, captions(40, 0))


def _settings(model: str | None, folder: Path, device: str) -> Settings:
    """Return the settings with which a worker would serve the model; those of weights here are for any scorer.

    Raises:
        InvalidInput: the model is on a server.
    """
    own = {"profile": None, "scorer_revision": None} if model is None else {}
    settings = Settings.model_validate({"scorer": model or str(folder), "device": device, **own})
    if settings.remote_scorer is not None:
        raise InvalidInput("A scorer on a server can't be measured: --model is a name or a folder.", field="model")
    return settings


def _loaded(model: str | None, size: Any, device: str, folder: Path) -> Scorer:
    from retllm.fine.opening import open_scorer

    if model is None:
        _save_random(size, folder)
    return cast("Scorer", open_scorer(_settings(model, folder, device)))


def _measured(
    make: Callable[[Path], Scorer], k: int, rounds: int, injection: Injection, picture: int
) -> dict[str, Any]:
    from retllm.bench.fine import measure_fine
    from retllm.bench.rivals import CrossEncoder

    with tempfile.TemporaryDirectory() as folder:
        scorer = make(Path(folder))
        rival = CrossEncoder(scorer) if importlib.util.find_spec("sentence_transformers") else None
        speed = measure_fine(scorer, k, picture, rounds, injection, rival)
        parameters = sum(parameter.numel() for parameter in scorer.loaded.module.parameters())
    return speed.as_json(parameters)


def _measured_together(
    model: str | None,
    save: Callable[[Path], None],
    picture: int,
    k: int,
    searches: int,
    device: str,
    injection: Injection,
) -> dict[str, Any]:
    from retllm.bench.concurrent import measure_concurrent
    from retllm.fine.opening import open_scorer

    with tempfile.TemporaryDirectory(prefix="retllm-bench-") as name:
        folder = Path(name) / "model"
        settings = _settings(model, folder, device)
        if model is None:
            save(folder)
        load = cast("Callable[[], Scorer]", partial(open_scorer, settings))
        speed = measure_concurrent(Path(name), settings, load, searches, k, picture, injection, show.say)
    return speed.as_json()


def _print_concurrent(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show.as_json(result)
        return
    click.echo(
        f"{result['searches']} searches at once, k = {result['k']}; one of them takes {result['median_seconds']:.2f} s "
        f"(median), {result['slowest_seconds']:.2f} s at most"
    )
    rows = [
        (name, f"{result['rates'][way]['pairs_per_second']:.2f}", f"{result['rates'][way]['of_scorer']:.2f}")
        for way, name in _CONCURRENT_NAMES.items()
    ]
    show.table(("", "pairs/s", "x scorer alone"), rows)
    spent = dict(result["processor_ms"])
    alone = spent.pop("scorer alone")
    click.echo(f"\nProcessor time of a pair: {sum(spent.values()):.0f} ms; of the scorer alone: {alone:.0f} ms")
    _print_processes(spent)


@bench.command()
@click.option(
    "--starts", type=click.IntRange(min=1), default=100, show_default=True, help="Measured starts of each kind."
)
@click.option(
    "--units", type=click.IntRange(min=1), default=300, show_default=True, help="Units in a job without work."
)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Measured jobs.")
@json_option
def jobs(starts: int, units: int, rounds: int, as_json: bool) -> None:
    """Measure the job core: latency and rate of units without work, beside bare Celery tasks.

    Starts a database, a Redis, a dispatcher and one worker in a temporary folder for both. A unit is stored in the
    database, claimed with a lease and ended by a fenced transaction; a bare task is stored in Redis only.
    """
    from retllm.bench.jobs import measure_jobs

    with tempfile.TemporaryDirectory(prefix="retllm-bench-") as folder:
        home = Path(folder) / "home"
        result = measure_jobs(home, starts, units, rounds, notify=show.say).as_json()
    if as_json:
        show.as_json(result)
        return
    click.echo(
        f"One worker process, durable database. Start: from the commit, just before the hint or message is sent, until "
        f"the worker holds the unit or runs the task ({starts} of each, alternating). Rate: a job of {units} units, "
        f"and {units} tasks sent at once (medians of {rounds} rounds, alternating)."
    )
    rows = [
        _comparison("start, median, ms", result["start_p50_ms"], 2),
        _comparison("start, p95, ms", result["start_p95_ms"], 2),
        _comparison("units or tasks per second", result["per_second"], 1),
    ]
    show.table(("", "job core", "bare task", "ratio"), rows)


@bench.command()
@click.option("--photographs", type=click.IntRange(min=1), default=64, show_default=True, help="Photographs to index.")
@click.option(
    "--width",
    type=click.IntRange(64, 12_000),
    default=4000,
    show_default=True,
    help="Width of a photograph in pixels; its height is three quarters of it.",
)
@click.option("--preset", type=click.Choice(list(PRESETS)), help="The preset whose embedder is measured.")
@click.option("--embedder", help="open_clip model in place of the preset's.")
@click.option("--architecture", help="An architecture of open_clip with random weights instead, such as ViT-B-32.")
@click.option("--pictures", type=click.Choice(["copy", "original"]), help="What the model reads.")
@json_option
def index(
    photographs: int,
    width: int,
    preset: str | None,
    embedder: str | None,
    architecture: str | None,
    pictures: str | None,
    as_json: bool,
) -> None:
    """Measure indexing of generated photographs, from the upload to the vector.

    Beside two limits, the model alone and decoding alone, and a plain loop. Starts the platform in a temporary folder.
    """
    from retllm.bench.index import measure_index

    given: dict[str, Any] = {"preset": preset, "embedder": embedder, "model_pictures": pictures}
    with tempfile.TemporaryDirectory(prefix="retllm-bench-") as folder:
        if architecture is not None:
            model = Path(folder) / architecture
            model.mkdir()
            given["embedder"] = _tool("random_clip").save_random_clip(model, architecture)
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
        result = measure_index(Path(folder) / "home", settings, photographs, show.say, width).as_json()
    if as_json:
        show.as_json(result)
        return
    click.echo(
        f"{result['photographs']} photographs of {result['pixels'] / 1e6:.1f} megapixels, "
        f"{architecture or public_name(result['embedder'])}, {result['cores']} cores; "
        f"uploading one takes {result['upload_ms']:.0f} ms"
    )
    rows = [
        # the model alone gets one photograph again and again
        (title, None if name == "forward" else photographs, *(f"{rate:.2f}" for rate in result["rates"][name].values()))
        for name, title in _INDEX_NAMES.items()
    ]
    show.table(("", "photographs", "pictures/s", "x smaller limit", "x plain loop"), rows)
    spent = result["processor_ms"]
    click.echo(f"\nProcessor time of a photograph, from upload to vector: {sum(spent.values()):.0f} ms")
    _print_processes(spent)


def _print_processes(spent: dict[str, float]) -> None:
    show.table(("process", "ms"), [(name, f"{ms:.1f}") for name, ms in spent.items() if ms >= 0.1])


@bench.command()
@click.option("--items", type=click.IntRange(min=1000), default=100_000, show_default=True, help="Vectors in all.")
@click.option("--dim", type=click.IntRange(8, 2000), default=512, show_default=True, help="Dimensions of a vector.")
@click.option("--collections", type=click.IntRange(1, 1000), default=3, show_default=True, help="Collections.")
@json_option
def coarse(items: int, dim: int, collections: int, as_json: bool) -> None:
    """Measure the coarse stage on generated vectors: recall, time of a search, and storing vectors.

    Beside bare queries of the same table and index, comparing every vector, and FAISS and LanceDB if the extra
    "bench" is installed. Starts a database in a temporary folder. The collections have a half, a quarter and so on
    of the vectors, 200 at least; the first is measured, also with filters.
    """
    from retllm.bench.coarse import measure_coarse

    with tempfile.TemporaryDirectory(prefix="retllm-bench-") as folder:
        result = measure_coarse(Path(folder) / "home", items, dim, collections, notify=show.say).as_json()
    if as_json:
        show.as_json(result)
        return
    show_coarse(result)


def _comparison(name: str, values: dict[str, float], decimals: int) -> tuple[str, ...]:
    return name, f"{values['job']:.{decimals}f}", f"{values['task']:.{decimals}f}", f"{values['ratio']:.3g}"


@bench.command()
@click.option("--scenes", type=click.IntRange(2, 20_000), default=1000, show_default=True, help="Drawn scenes.")
@click.option("--embedder", help="An embedder instead of the demo's.")
@json_option
def duplicates(scenes: int, embedder: str | None, as_json: bool) -> None:
    """Measure how well near-duplicates are told from other pictures, on drawn scenes that are changed."""
    from retllm.bench.duplicates import measure_duplicates
    from retllm.embedding import load_embedder

    result = measure_duplicates(scenes, load_embedder(embedder or PRESETS["demo"].embedder, device="cpu"))
    if as_json:
        show.as_json(result.as_json())
        return
    show_duplicates(result)
