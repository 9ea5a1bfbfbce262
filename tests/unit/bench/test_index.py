"""``retllm bench index`` measures two limits, a plain loop and the real platform on the same photographs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from retllm.bench import index, index_stack, photographs
from retllm.bench.index import IndexSpeed
from retllm.bench.index_stack import Flow
from retllm.cli import bench
from retllm.cli.main import main


def _speed() -> IndexSpeed:
    used = {"web": 0.4, "media decoders": 4.0}
    flow = Flow(8.0, upload_seconds=5.0, again_seconds=4.0, one_upload_seconds=0.25, processor_seconds=used)
    return IndexSpeed(40, 12_000_000, cores=2, embedder="e", forward=100.0, preparing=20.0, loop=2.0, flow=flow)


def test_the_ratios_are_to_the_smaller_limit_and_to_the_loop() -> None:
    assert _speed().as_json() == {
        "photographs": 40,
        "pixels": 12_000_000,
        "cores": 2,
        "embedder": "e",
        "upload_ms": 250.0,
        "processor_ms": {"media decoders": 100.0, "web": 10.0},
        "rates": {
            "forward": {"per_second": 100.0, "of_limit": 5.0, "of_loop": 50.0},
            "preparing": {"per_second": 20.0, "of_limit": 1.0, "of_loop": 10.0},
            "loop": {"per_second": 2.0, "of_limit": 0.1, "of_loop": 1.0},
            "upload": {"per_second": 8.0, "of_limit": 0.4, "of_loop": 4.0},
            "platform": {"per_second": 5.0, "of_limit": 0.25, "of_loop": 2.5},
            "again": {"per_second": 10.0, "of_limit": 0.5, "of_loop": 5.0},
        },
    }


def test_the_table_tells_of_how_many_photographs_each_rate_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "measure_index", lambda *_: _speed())
    printed = CliRunner().invoke(bench.index, ["--photographs", "40"]).output
    rows = {line.split("  ")[0]: line.split()[-4:] for line in printed.splitlines()}
    assert rows["this platform, from upload to vector"] == ["40", "5.00", "0.25", "2.50"]
    assert rows["this platform, indexing what it has"] == ["40", "10.00", "0.50", "5.00"]
    assert rows["limit: the model alone"] == ["alone", "100.00", "5.00", "50.00"]


def test_generated_photographs_differ_and_are_the_same_in_every_run(tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        folder.mkdir()
        photographs.write_photographs(folder, 3, width=400)
    files = [[path.read_bytes() for path in sorted(folder.iterdir())] for folder in (first, second)]
    assert files[0] == files[1]
    assert len(set(files[0])) == 3
    with Image.open(first / "0000.jpg") as picture:
        assert picture.size == (400, 300)
        assert np.asarray(picture).std() > 30, "it has contrast"


@pytest.mark.slow
def test_the_command_uploads_to_real_processes_and_prints_all_measurements(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(index, "_LEAST_SECONDS", 0.0)
    seen: list[int] = []
    wait = index_stack._Side._await_vectors

    def counted(side: index_stack._Side, collection: str, count: int) -> float:
        seen.append(count)
        return wait(side, collection, count)

    monkeypatch.setattr(index_stack._Side, "_await_vectors", counted)
    # configured servers are not used: they may contain other work
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(SystemExit) as caught:
        main(["bench", "index", "--photographs", "6", "--width", "640", "--json"])
    assert not caught.value.code
    result = json.loads(capsys.readouterr().out)
    assert (result["photographs"], result["pixels"]) == (6, 640 * 480)
    assert all(rate["per_second"] > 0 for rate in result["rates"].values())
    assert result["upload_ms"] > 0
    spent = result["processor_ms"]
    assert {"client", "web", "media", "media decoders", "embed", "embed decoders", "postgres"} <= spent.keys()
    assert max(spent, key=spent.__getitem__) == next(iter(spent)), "the largest one comes first"
    assert seen == [1, 6, 6]
