"""The processor time of processes and their descendants is told by name."""

from __future__ import annotations

import os
import subprocess
import sys

from retllm.bench.processor_time import processor_seconds
from retllm.media import decoder

# uses half a second in a child, which then waits with it until their input ends
_BUSY = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
# the clock of processes counts in hundredths
_LEAST = 0.4
_PARENT = "import os, subprocess, sys\nsubprocess.run([sys.executable, '-c', *os.environ['CHILD'].split('|')])"


def _seconds(*arguments: str) -> dict[str, float]:
    environment = os.environ | {"CHILD": "|".join([_BUSY, *arguments])}
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = processor_seconds({"busy": process.pid})
        process.communicate(b"\n")
    assert not processor_seconds({"busy": process.pid}), "it ended"
    return found


def test_descendants_count_for_their_process() -> None:
    found = _seconds()
    assert found.keys() == {"busy"}
    assert found["busy"] >= _LEAST


def test_decoders_are_told_apart() -> None:
    found = _seconds(decoder.__file__)
    assert found["busy decoders"] >= _LEAST
    assert "busy" in found
