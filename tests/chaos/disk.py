"""A small file system for the pictures that a test can fill."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from tests.chaos.client import picture

from retllm.queue.audit_files import orphans

if TYPE_CHECKING:
    from tests.chaos.scene import Scene

_SIZE = 32 << 20


@contextmanager
def small_disk(folder: Path) -> Iterator[str | None]:
    """Mount a small file system at ``folder``; yield None, or the reason why it could not be mounted."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "chaos", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        reason = None if done.returncode == 0 else done.stderr.strip() or "mount is not allowed"
    except OSError as error:
        reason = str(error)
    try:
        yield reason
    finally:
        if reason is None:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def noise(side: int = 300) -> bytes:
    """Return a picture that does not compress: about three bytes per pixel."""
    import io

    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(side * side * 3)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(scene: Scene) -> None:
    """See ``faults.fill_disk``."""
    from tests.chaos.scene import Skip

    if scene.platform.no_small_disk is not None:
        raise Skip(f"no file system can be mounted here ({scene.platform.no_small_disk})")
    collection = scene.client.collection()
    before = _orphans(scene)
    filler = scene.platform.storage_path / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    scene.inject(lambda: None)
    path = f"/collections/{collection}/items?index=false"
    try:
        for one in (noise(), picture((1, 2, 3))):
            answer = scene.client.http.post(path, files=[("file", ("p.png", one, "image/png"))])
            if answer.status_code != 507:
                scene.report(f"an upload to a full disk got status {answer.status_code}: {answer.text[:200]}")
        searches = f"/collections/{scene.library}/searches"
        answer = scene.client.http.post(searches, files={"picture": ("q.png", noise(), "image/png")})
        if answer.status_code != 507:
            scene.report(f"a query picture on a full disk got status {answer.status_code}: {answer.text[:200]}")
    finally:
        filler.unlink()
    left = sorted(_orphans(scene) - before)
    if left:
        scene.report(f"files without a row were left: {left}")
    answer = scene.client.upload_pictures(collection, noise())
    if answer.json().get("added") != 1:
        scene.report(f"an upload after the disk was emptied got status {answer.status_code}: {answer.text[:200]}")


def _orphans(scene: Scene) -> set[str]:
    with scene.platform.sessions() as session:
        return set(orphans(session, scene.platform.storage))
