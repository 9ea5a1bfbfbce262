"""A worker of the queue ``embed`` loads each embedder once, at first use, and lets index jobs go on beside searches."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import json
import sys
import retllm.embedding
from retllm.errors import ModelUnavailable
from retllm_workers import app, embed

light = not {"torch", "open_clip", "transformers"} & set(sys.modules)

loaded = []

def load(name, **_):
    loaded.append(name)
    if name.endswith("broken"):
        raise ModelUnavailable("It can't be loaded.")
    return "model of " + name

retllm.embedding.load_embedder = load
at_first = list(loaded)
got = [embed._embedder(name) for name in ("local-dir:/m/main", "local-dir:/m/two", "local-dir:/m/main")]
for _ in range(2):
    try:
        embed._embedder("local-dir:/m/broken")
    except ModelUnavailable:
        got.append(None)
print(json.dumps([at_first, got, loaded, embed.HELD.get(), light]))
"""


def test_each_embedder_is_loaded_once_at_first_use_and_a_failed_load_is_retried() -> None:
    """In a separate process, since the modules of a worker read the settings once."""
    environment = os.environ | {
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "RETLLM_EMBEDDER": "local-dir:/m/main",
        "RETLLM_EXTRA_EMBEDDERS": "local-dir:/m/two,local-dir:/m/broken",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    main, two, broken = "local-dir:/m/main", "local-dir:/m/two", "local-dir:/m/broken"
    at_first, got, loaded, early, light = json.loads(done.stdout)
    assert at_first == []
    assert got == [f"model of {main}", f"model of {two}", f"model of {main}", None, None]
    assert loaded == [main, two, broken, broken]
    assert early == f"model of {main}"
    assert light, "the worker imported the libraries of the models at its start"


SEARCHES = """
import json
import sys
import uuid
from celery.worker import state
from retllm_workers import app, embed

done = []
waiting = [str(uuid.uuid4()) for _ in range(2)]
embed.get_context = lambda: type("Context", (), {"sessions": None, "settings": None, "turns": None})
embed.run_unit = lambda context, unit_id, *_: done.append(str(unit_id))
embed.waiting_unit = lambda *_: waiting[0] if waiting else None

def search(times):
    found = []
    for _ in range(times):
        done.clear()
        embed.coarse_unit(str(uuid.uuid4()))
        found += done[1:]
        if done[1:]:
            waiting.pop(0)
    return found

first, second = waiting
embed.serve({"query"})
found = [search(32)]
embed.serve({"embed"})
found += [search(16), search(15), search(16), search(40)]
waiting.append(first)
state.should_stop = 0
found += [search(40)]
print(json.dumps([[[first, second].index(one) for one in some] for some in found]))
"""


def test_many_searches_do_not_keep_the_units_of_index_jobs_waiting() -> None:
    environment = os.environ | {"REDIS_URL": "redis://127.0.0.1:1/0"}
    done = subprocess.run(
        [sys.executable, "-c", SEARCHES], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    nothing: list[int] = []
    # one after 16 searches, if this worker serves index jobs and does not stop
    assert json.loads(done.stdout) == [nothing, [0], nothing, [1], nothing, nothing]
