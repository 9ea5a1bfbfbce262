"""A process that embeds units like a worker, and prints by how much its memory grew at most, in bytes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from PIL import Image
from tests.unit.stand_ins import FakeEmbedder, SilentNotifier

from retllm.db.session import make_sessions
from retllm.indexing.worker import embed_unit
from retllm.job_kinds import register_handlers
from retllm.media.storage import get_storage
from retllm.queue.worker import WorkerContext, run_unit
from retllm.settings import Settings


class Embedder(FakeEmbedder):
    """Decodes like a model of 224 pixels."""

    least_side = 448

    def prepare(self, picture: Image.Image) -> Image.Image:
        return picture.resize((224, 224))


def main(settings_file: str, unit_id: str) -> None:
    """Do the unit with the settings in the file."""

    def work(context: WorkerContext) -> bool:
        return run_unit(context, UUID(unit_id), lambda c, held: embed_unit(c, held, lambda _: Embedder()))

    measure(settings_file, work)


def measure(settings_file: str, work: Callable[[WorkerContext], bool]) -> None:
    """Do work as a worker with the settings in the file, and print by how many bytes the memory grew at most."""
    settings = Settings.model_validate_json(Path(settings_file).read_text("utf-8"))
    register_handlers()
    context = WorkerContext(
        make_sessions(settings.database_url), get_storage(settings), settings, SilentNotifier(), "tester:2"
    )
    before = peak()
    assert work(context)
    sys.stdout.write(f"{peak() - before}\n")


def peak() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    # not ru_maxrss, which begins with that of the parent process
    (line,) = [line for line in Path("/proc/self/status").read_text("ascii").splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
