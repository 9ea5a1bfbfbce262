"""Speed of indexing photographs: the platform from the upload to the vector, beside two limits and a plain loop.

All are measured in one run, on the same photographs and cores:

- ``forward``: the model alone, on tensors in memory;
- ``preparing``: decoding and preprocessing alone, in the decoders of the platform, on all cores;
- ``loop``: what most people write: Pillow, the library's own preprocessing and its model, one picture at a time;
- ``platform``: real processes (web server, dispatcher, worker, database), from the first byte of the first upload until
  the last vector is stored (:mod:`retllm.bench.index_stack`).
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
import torch
from PIL import Image

from retllm.bench.index_stack import Flow, measure_flow
from retllm.bench.photographs import WIDTH, write_photographs
from retllm.embedding import load_embedder
from retllm.embedding.sentence_sources import is_sentence_name
from retllm.embedding.sources import parse
from retllm.errors import ModelUnsuited
from retllm.media.parallel import InParallel, PixelBudget
from retllm.media.pictures import load_picture
from retllm.settings import Settings

if TYPE_CHECKING:
    from retllm.embedding import Embedder

Notify = Callable[[str], None]

# pictures of one forward pass
_BATCH = 32
_LEAST_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class IndexSpeed:
    """The result of one run; rates are pictures per second.

    Attributes:
        photographs: number of photographs, and ``pixels`` of each.
        cores: number of cores of this machine.
        embedder: name of the embedder.
        forward, preparing, loop: rates, see the module.
        flow: the measurement of the platform.
    """

    photographs: int
    pixels: int
    cores: int
    embedder: str
    forward: float
    preparing: float
    loop: float
    flow: Flow

    @property
    def rates(self) -> dict[str, float]:
        """All rates by name."""
        return {
            "forward": self.forward,
            "preparing": self.preparing,
            "loop": self.loop,
            "upload": self.photographs / self.flow.upload_seconds,
            "platform": self.photographs / self.flow.seconds,
            "again": self.photographs / self.flow.again_seconds,
        }

    def as_json(self) -> dict[str, Any]:
        """Return the result as a JSON object.

        It has the ratio of each rate to the smaller limit and to the loop, and the processor time of one photograph
        from the upload to the vector, by process.
        """
        limit = min(self.forward, self.preparing)
        return {
            "photographs": self.photographs,
            "pixels": self.pixels,
            "cores": self.cores,
            "embedder": self.embedder,
            "upload_ms": round(1000 * self.flow.one_upload_seconds, 1),
            "processor_ms": {
                name: round(1000 * seconds / self.photographs, 1)
                for name, seconds in sorted(self.flow.processor_seconds.items(), key=lambda one: -one[1])
            },
            "rates": {
                name: {
                    "per_second": round(rate, 2),
                    "of_limit": round(rate / limit, 3),
                    "of_loop": round(rate / self.loop, 3),
                }
                for name, rate in self.rates.items()
            },
        }


def measure_index(
    home: Path, settings: Settings, count: int, notify: Notify = lambda _: None, width: int = WIDTH
) -> IndexSpeed:
    """Measure the limits, the loop, and a separate stack in ``home``, with the embedder of ``settings``.

    Args:
        home: an empty folder.
        settings: of the embedder, its device, the decoders and the working copies.
        count: number of photographs.
        notify: called with a short description of each step.
        width: of the photographs in pixels; their height is three quarters of it.

    Raises:
        ModelUnavailable: the embedder can't be loaded, or takes no pictures.
        StackError: a process can't be started, or the photographs are not indexed in time.
    """
    folder = home / "photographs"
    folder.mkdir(parents=True)
    pixels = width * (width * 3 // 4)
    notify(f"writing {count} photographs of {pixels / 1e6:.1f} megapixels")
    paths = write_photographs(folder, count, width=width)
    name, cores = settings.embedder_name, os.cpu_count() or 1
    embedder = load_embedder(name, device=settings.device, dtype=settings.dtype, picture_source=settings.picture_source)
    if not embedder.info.pictures:
        raise ModelUnsuited(f"{name} takes no pictures. Measure an embedder that does.", model=name)
    notify("the model alone")
    forward = _forward_rate(embedder, paths[0], settings)
    notify("decoding and preparing alone")
    preparing = _preparing_rate(embedder, paths, settings)
    notify("a plain loop")
    loop = _loop_rate(name, embedder, paths)
    del embedder
    notify("the platform")
    flow = measure_flow(home / "stack", settings, paths, notify)
    return IndexSpeed(count, pixels, cores, name, forward, preparing, loop, flow)


def _forward_rate(embedder: Embedder, path: Path, settings: Settings) -> float:
    with path.open("rb") as file:
        one = embedder.prepare(load_picture(file, settings, embedder.least_side))
    batch = [one] * _BATCH
    embedder.embed_prepared(batch)
    began, done, spent = time.perf_counter(), 0, 0.0
    while not done or spent < _LEAST_SECONDS:
        embedder.embed_prepared(batch)
        done += len(batch)
        spent = time.perf_counter() - began
    return done / spent


def _preparing_rate(embedder: Embedder, paths: Sequence[Path], settings: Settings) -> float:
    def prepare(data: bytes) -> None:
        embedder.prepare(load_picture(io.BytesIO(data), settings, embedder.least_side))

    files = [path.read_bytes() for path in paths]
    threads = os.cpu_count() or 1
    settings = settings.model_copy(update={"decoders": threads})
    # the first pictures start the decoders
    spent = 0.0
    for some in (files[:threads], files):
        began = time.perf_counter()
        for result in InParallel(some, prepare, len, threads=threads, budget=PixelBudget(1 << 30), ahead=2 * _BATCH):
            if result.error is not None:
                raise result.error
        spent = time.perf_counter() - began
    return len(files) / spent


def _loop_rate(name: str, embedder: Embedder, paths: Sequence[Path]) -> float:
    if is_sentence_name(name):
        began = time.perf_counter()
        for path in paths:
            with Image.open(path) as picture:
                embedder.embed_images([picture.convert("RGB")])
        return len(paths) / (time.perf_counter() - began)
    device = embedder.device
    parsed = parse(name)
    model, preprocess = (
        open_clip.create_model_from_pretrained(parsed.architecture, pretrained=parsed.tag, device=device)
        if parsed.architecture
        else open_clip.create_model_from_pretrained(name, device=device)
    )
    model.eval()
    with torch.inference_mode():
        began = time.perf_counter()
        for path in paths:
            with Image.open(path) as picture:
                pixels = preprocess(picture.convert("RGB"))
            torch.nn.functional.normalize(model.encode_image(pixels[None].to(device)), dim=-1).cpu()
        return len(paths) / (time.perf_counter() - began)
