"""A picture that crashes, blocks or overloads its decoder is refused; the next one is decoded."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.unit.media.samples import encoded, noise, picture

from retllm.errors import MediaRejected
from retllm.media import decoder, sandbox
from retllm.media.pictures import inspect_picture, load_picture, render_picture
from retllm.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Stop all decoders before and after each test."""
    sandbox.close()
    yield
    sandbox.close()


def decoders() -> set[int]:
    """The process ids of the decoders that this process started in any thread."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(folder.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1])
            line = folder.joinpath("cmdline").read_text()
        except (OSError, IndexError):
            continue
        if parent == os.getpid() and decoder.__file__ in line:
            found.add(int(folder.name))
    return found


def inspected(data: bytes, settings: Settings) -> tuple[int, int]:
    seen = inspect_picture(io.BytesIO(data), settings)
    return seen.width, seen.height


def hostile(body: str, folder: Path) -> str:
    """Write a program that replaces the decoder and runs ``body`` for the first picture."""
    program = folder / "hostile.py"
    program.write_text(
        "import sys, os, json, time, socket, signal, struct\n"
        f"sys.path.insert(0, {str(Path(decoder.__file__).parent)!r})\n"
        "import decoder\n"
        "decoder.restrict_process(int(sys.argv[1]))\n"
        "def _handle(request, data):\n"
        f"    {body}\n"
        "decoder._handle = _handle\n"
        "decoder.serve(socket.socket(fileno=0))\n"
    )
    return str(program)


def test_a_decoder_is_reused_for_the_next_picture(settings: Settings) -> None:
    inspected(picture(1), settings)
    first = decoders()
    inspected(picture(2), settings)
    assert len(first) == 1
    assert decoders() == first


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGXCPU])
def test_a_picture_that_crashes_its_decoder_is_refused_and_the_next_is_decoded(
    number: signal.Signals, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "__file__", hostile(f"os.kill(os.getpid(), {int(number)})", tmp_path))
        with pytest.raises(MediaRejected, match="can't be read: the decoder crashed"):
            inspected(picture(), settings)
        assert not decoders()
    assert inspected(picture(), settings) == (40, 30)


def test_a_picture_that_blocks_its_decoder_is_refused_after_the_time_limit(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = settings.model_copy(update={"decode_seconds": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "__file__", hostile("time.sleep(600)", tmp_path))
        began = time.monotonic()
        with pytest.raises(MediaRejected, match="longer than 1 s"):
            inspected(picture(), short)
        # long before the decoder would end on its own
        assert time.monotonic() - began < 60
        assert not decoders()
    assert inspected(picture(), settings) == (40, 30)


def test_a_picture_that_needs_too_much_memory_is_refused(settings: Settings) -> None:
    small = settings.model_copy(update={"decode_memory": 256 << 20, "max_pixels": 200_000_000})
    # 400 MB of pixels in a small file
    data = encoded(noise(size=(1, 1)).resize((10_000, 10_000)), "PNG", compress_level=1)
    with pytest.raises(MediaRejected, match=r"more than 256\.0 MiB"):
        inspect_picture(io.BytesIO(data), small)
    assert inspected(picture(), small) == (40, 30)


@pytest.mark.parametrize(
    "answer",
    [
        "return {'width': 40, 'height': 30, 'format': 'PNG'}, b'x' * (1 << 24)",
        "return {'width': -1, 'height': 30, 'format': 'PNG'}, b''",
        "return {'width': 10**9, 'height': 10**9, 'format': 'PNG'}, b''",
        "return {'width': '<script>', 'height': 30, 'format': 'PNG'}, b''",
        "return {'width': 40, 'height': 30, 'format': 'text/html'}, b''",
        "return {'x': 'y' * 100_000}, b''",
        "os.write(0, b'\\xff' * 100); os._exit(0)",
        "os.write(0, struct.pack('!I', 2) + b'[]'); time.sleep(1)",
        "os.write(0, struct.pack('!I', 2) + b'{}'); time.sleep(1)",
    ],
)
def test_invalid_answers_of_a_compromised_decoder_are_refused(
    answer: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "__file__", hostile(answer, tmp_path))
    with pytest.raises(MediaRejected, match="can't be read"):
        inspected(picture(), settings)


def test_an_answer_with_the_wrong_number_of_pixels_is_refused(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "__file__", hostile("return {'width': 40, 'height': 30}, bytes(7)", tmp_path))
    with pytest.raises(MediaRejected, match="can't be read"):
        load_picture(io.BytesIO(picture()), settings)


def test_a_decoder_has_no_secrets_and_cannot_write_files_or_start_processes(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETLLM_SECRET_KEY", "canary-in-the-environment")
    canary = tmp_path / "written"
    body = (
        "report = {'environ': dict(os.environ), 'files': os.listdir('/proc/self/fd')}\n"
        f"    try:\n        report['wrote'] = open({str(canary)!r}, 'w').write('x' * 100)\n"
        "    except OSError as error:\n        report['wrote'] = error.errno\n"
        "    import resource\n"
        "    report['limits'] = [resource.getrlimit(n)[1] for n in (resource.RLIMIT_AS, resource.RLIMIT_CORE,"
        " resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)]\n"
        "    import subprocess, threading\n"
        "    attempts = {'fork': os.fork, 'exec': lambda: os.execv('/bin/true', ['true']),"
        " 'spawn': lambda: os.posix_spawn('/bin/true', ['true'], {}), 'run': lambda: subprocess.run(['/bin/true']),"
        " 'socket': socket.socket}\n"
        "    for name, attempt in attempts.items():\n"
        "        try:\n            attempt()\n            report[name] = 'done'\n"
        "        except OSError as error:\n            report[name] = error.errno\n"
        "    threads = []\n"
        "    thread = threading.Thread(target=threads.append, args=('ran',))\n"
        "    thread.start()\n    thread.join()\n    report['threads'] = threads\n"
        "    report['seconds'] = resource.getrlimit(resource.RLIMIT_CPU)[0]\n"
        "    raise decoder.Refused('damaged', reason=json.dumps(report)[:3000])"
    )
    monkeypatch.setattr(decoder, "__file__", hostile(body, tmp_path))
    seen = sandbox.ask(sandbox.DecodeRequest(10**6, 64), io.BytesIO(picture()), len(picture()), settings).facts
    report = json.loads(seen["reason"])
    assert "canary" not in json.dumps(report["environ"])
    # its three standard streams, and the folder that it lists
    assert len(report["files"]) <= 4
    assert canary.read_text() == "" if canary.exists() else True
    assert report["limits"] == [settings.decode_memory, 0, 0, 16]
    # whoever the server runs as; threads, which some codecs need, are no processes
    assert {name: report[name] for name in ("fork", "exec", "spawn", "run", "socket")} == dict.fromkeys(
        ("fork", "exec", "spawn", "run", "socket"), errno.EPERM
    )
    assert report["threads"] == ["ran"]
    assert settings.decode_seconds < report["seconds"] <= settings.decode_seconds + 10


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


def test_a_rendition_is_small_upright_and_without_metadata(settings: Settings) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "where I live"
    data = encoded(noise(size=(400, 100)), "JPEG", exif=exif, comment=b"a comment of mine", xmp=b"<x:xmpmeta/>")
    made = render_picture(io.BytesIO(data), 200, settings)
    assert b"where I live" not in made
    assert b"comment of mine" not in made
    with Image.open(io.BytesIO(made)) as shown:
        assert (shown.format, shown.size) == ("WEBP", (50, 200))
        assert not {"exif", "icc_profile", "xmp", "comment"} & set(shown.info)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user; others run all tests as such")
def test_codecs_with_threads_work_for_users_whose_processes_are_limited() -> None:
    """HEIC needs a thread; a limit of the number of processes, which root is exempt from, would forbid it."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    program = (
        "import os, sys\n"
        "import pillow_heif, pillow_jxl\n"
        "from PIL import AvifImagePlugin\n"
        "from retllm.media import decoder\n"
        "data = sys.stdin.buffer.read()\n"
        "os.setgid(65534)\n"
        "os.setuid(65534)\n"
        "decoder.restrict_process(1 << 30)\n"
        "print(decoder.load(data, 10**6).size, os.getuid())\n"
    )
    data = encoded(noise(size=(200, 100)), "HEIF")
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, timeout=60, check=True)
    assert done.stdout.split(b"\n")[0] == b"(200, 100) 65534"
