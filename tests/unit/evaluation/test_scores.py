"""Kept scores outlive whoever wrote them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from retllm.errors import BenchmarkUnreadable
from retllm.evaluation.scores import KeptScore, KeptScores

SCORE = KeptScore(0.25, -1.0986, 0.5, 3, 40, None, 0.125)
FAILED = KeptScore(None, None, None, None, 40, "The model wrote no number.", 0.25)

#: writes one score after another, tells of each, and waits to be killed after the last
WRITER = """
import sys, time
from pathlib import Path
from retllm.evaluation.scores import KeptScore, KeptScores
with KeptScores(Path(sys.argv[1])) as kept:
    for number in range(int(sys.argv[2])):
        kept.keep("v", "q", {str(number): KeptScore(number / 100, 0.0, 0.0, None, 1, None, 0.1)})
        print(number, flush=True)
    time.sleep(60)
"""


def test_what_is_kept_is_found_again_and_nothing_else(tmp_path):
    with KeptScores(tmp_path / "run" / "scores.sqlite") as kept:
        kept.keep("v", "q", {"a": SCORE, "b": FAILED})
    with KeptScores(tmp_path / "run" / "scores.sqlite") as kept:
        assert kept.find("v", "q", ["a", "b", "c"]) == {"a": SCORE, "b": FAILED}
        assert kept.find("other", "q", ["a"]) == kept.find("v", "other", ["a"]) == {}


def killed_writer(path: Path, scores: int) -> None:
    """Keep some scores in a process of its own, which is then killed without warning."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(scores)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(scores):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_killed_run_loses_no_score_that_it_had_kept(tmp_path):
    path = tmp_path / "scores.sqlite"
    killed_writer(path, 20)
    with KeptScores(path) as kept:
        found = kept.find("v", "q", [str(number) for number in range(20)])
    assert {key: score.score for key, score in found.items()} == {str(n): n / 100 for n in range(20)}


@pytest.mark.parametrize("torn", [1, 100, 5000])
def test_a_torn_end_costs_only_what_was_torn(tmp_path, torn):
    """The last bytes that reached the disk are missing, as after a loss of power."""
    path = tmp_path / "scores.sqlite"
    killed_writer(path, 20)
    log = path.with_name("scores.sqlite-wal")
    log.write_bytes(log.read_bytes()[:-torn])
    with KeptScores(path) as kept:
        found = kept.find("v", "q", [str(number) for number in range(20)])
        assert 17 <= len(found) < 20
        assert set(found) == {str(number) for number in range(len(found))}
        kept.keep("v", "q", {"19": SCORE})
        assert kept.find("v", "q", ["19"]) == {"19": SCORE}


def test_a_file_that_holds_no_scores_is_named(tmp_path):
    path = tmp_path / "scores.sqlite"
    path.write_text("something else, and longer than a header of SQLite would be" * 20)
    with pytest.raises(BenchmarkUnreadable, match=r"scores\.sqlite is not a file of scores"):
        KeptScores(path)
