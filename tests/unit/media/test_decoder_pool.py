"""Decoders are started, shared, replaced and ended, and no picture fails because one is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.unit.media.samples import picture
from tests.unit.media.test_sandbox import decoders, inspected

from retllm.media import sandbox
from retllm.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_decoders")]


def test_no_picture_fails_if_idle_decoders_were_killed(settings: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: inspected(picture(n), settings), range(8)))
    for pid in decoders():
        os.kill(pid, signal.SIGKILL)
    assert inspected(picture(9), settings) == (40, 30)


def test_no_picture_fails_if_idle_decoders_are_dying(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """All idle decoders are dying when the picture arrives, but still seem to be alive."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: inspected(picture(n), settings), range(8)))
    waiting = decoders()
    monkeypatch.setattr(sandbox._Decoder, "is_alive", lambda _: True)
    for pid in waiting:
        os.kill(pid, signal.SIGKILL)
    assert inspected(picture(9), settings) == (40, 30)
    assert not set(decoders()) & set(waiting)


def test_a_decoder_is_replaced_after_its_maximum_number_of_pictures(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "PICTURES_PER_DECODER", 3)
    for seed in range(3):
        inspected(picture(seed), settings)
    assert not decoders()
    assert inspected(picture(4), settings) == (40, 30)


def test_many_threads_share_few_decoders(settings: Settings) -> None:
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(lambda n: inspected(picture(n, (20 + n, 30)), settings), range(40)))
    assert sizes == [(20 + n, 30) for n in range(40)]
    assert 1 <= len(decoders()) <= settings.decoders_at_once


def test_the_settings_limit_the_number_of_decoders(settings: Settings) -> None:
    few = settings.model_copy(update={"decoders": 3})
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda n: inspected(picture(n), few), range(30)))
    assert 1 <= len(decoders()) <= 3
    assert settings.model_copy(update={"decoders": 64}).decoders_at_once == 64


def test_decoders_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(picture())
    program = (
        "import os, signal, sys, time\n"
        "from retllm.media import sandbox\n"
        "from retllm.settings import Settings\n"
        f"with open({str(file)!r}, 'rb') as f:\n"
        f"    sandbox.ask(sandbox.DecodeRequest(10**6, 64), f, {file.stat().st_size}, Settings())\n"
        "print(next(iter(sandbox._pool._all))._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    pid = int(done.stdout)
    until = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < until, "the decoder outlived its process"
        time.sleep(0.05)


def test_a_forked_process_has_its_own_decoders(settings: Settings) -> None:
    inspected(picture(1), settings)
    before = decoders()
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if inspected(picture(2), settings) == (40, 30) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert inspected(picture(3), settings) == (40, 30)
    assert decoders() == before
