"""Kept scores survive if the process that wrote them is killed."""

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

#: writes the scores one by one, prints the number of each, and then waits to be killed
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


def test_exactly_the_kept_scores_are_found(tmp_path):
    with KeptScores(tmp_path / "run" / "scores.sqlite") as kept:
        kept.keep("v", "q", {"a": SCORE, "b": FAILED})
    with KeptScores(tmp_path / "run" / "scores.sqlite") as kept:
        assert kept.find("v", "q", ["a", "b", "c"]) == {"a": SCORE, "b": FAILED}
        assert kept.find("other", "q", ["a"]) == kept.find("v", "other", ["a"]) == {}


def killed_writer(path: Path, scores: int) -> None:
    """Keep some scores in a separate process, then kill it."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(scores)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(scores):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_killed_run_loses_no_kept_score(tmp_path):
    path = tmp_path / "scores.sqlite"
    killed_writer(path, 20)
    with KeptScores(path) as kept:
        found = kept.find("v", "q", [str(number) for number in range(20)])
    assert {key: score.score for key, score in found.items()} == {str(n): n / 100 for n in range(20)}


@pytest.mark.parametrize("missing", [1, 100, 5000])
def test_a_truncated_log_loses_only_the_last_scores(tmp_path, missing):
    """The last bytes are missing on disk, as after a power failure."""
    path = tmp_path / "scores.sqlite"
    killed_writer(path, 20)
    log = path.with_name("scores.sqlite-wal")
    log.write_bytes(log.read_bytes()[:-missing])
    with KeptScores(path) as kept:
        found = kept.find("v", "q", [str(number) for number in range(20)])
        assert 17 <= len(found) < 20
        assert set(found) == {str(number) for number in range(len(found))}
        kept.keep("v", "q", {"19": SCORE})
        assert kept.find("v", "q", ["19"]) == {"19": SCORE}


def test_the_error_for_an_invalid_file_of_scores_names_the_file(tmp_path):
    path = tmp_path / "scores.sqlite"
    path.write_text("something else, and longer than a header of SQLite would be" * 20)
    with pytest.raises(BenchmarkUnreadable, match=r"scores\.sqlite is not a file of scores"):
        KeptScores(path)
