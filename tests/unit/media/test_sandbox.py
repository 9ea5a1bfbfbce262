"""A picture that crashes, blocks or overloads its decoder is refused; the next one is decoded."""

from __future__ import annotations

import errno
import io
import json
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.unit.media.samples import encoded, noise, picture

from retllm.errors import MediaRejected
from retllm.media import decoder, decoder_process, sandbox
from retllm.media.pictures import inspect_picture, load_picture, render_picture
from retllm.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_decoders")]


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
    with pytest.raises(MediaRejected, match=r"more than 268\.4 MB \(268,435,456 bytes\)"):
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


ATTACKS = """
    import ctypes, fcntl, resource, signal, subprocess
    library, parent, report = ctypes.CDLL(None, use_errno=True), os.getppid(), {}
    def call(name, *arguments):
        if getattr(library, name)(*arguments) == -1:
            raise OSError(ctypes.get_errno(), name)
    def write(*flags):
        os.close(os.open(FOLDER + '/victim', *flags))
    def chain(*steps):
        for step in steps:
            step()
    def unix(kind, address):
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.connect(address)
    attacks = {
        'read': lambda: open(FOLDER + '/victim').read(),
        'read the passwords': lambda: open('/etc/passwd').read(),
        'list': lambda: os.listdir(FOLDER),
        'read the memory of the parent': lambda: open(f'/proc/{parent}/mem', 'rb').read(1),
        'read the environment of the parent': lambda: open(f'/proc/{parent}/environ', 'rb').read(1),
        'open for writing': lambda: write(os.O_WRONLY),
        'open for appending': lambda: write(os.O_RDWR | os.O_APPEND),
        'truncate on opening': lambda: write(os.O_RDONLY | os.O_TRUNC),
        'truncate': lambda: os.truncate(FOLDER + '/victim', 0),
        'create': lambda: os.close(os.open(FOLDER + '/made', os.O_RDONLY | os.O_CREAT)),
        'create without a name': lambda: os.close(os.open(FOLDER, os.O_TMPFILE | os.O_RDWR)),
        'delete': lambda: os.unlink(FOLDER + '/victim'),
        'rename': lambda: os.rename(FOLDER + '/victim', FOLDER + '/renamed'),
        'link': lambda: os.link(FOLDER + '/victim', FOLDER + '/linked'),
        'symlink': lambda: os.symlink(FOLDER + '/victim', FOLDER + '/linked'),
        'make a folder': lambda: os.mkdir(FOLDER + '/made'),
        'delete a folder': lambda: os.rmdir(FOLDER + '/empty'),
        'change the mode': lambda: os.chmod(FOLDER + '/victim', 0o777),
        'change the time': lambda: os.utime(FOLDER + '/victim', (0, 0)),
        'set an attribute': lambda: os.setxattr(FOLDER + '/victim', 'user.x', b'x'),
        'connect': lambda: socket.create_connection(('127.0.0.1', PORT), 5).close(),
        'send a datagram': lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT)),
        'connect to a local socket': lambda: unix(socket.SOCK_STREAM, FOLDER + '/socket'),
        'listen': lambda: socket.create_server(('127.0.0.1', 0)).close(),
        'pair': lambda: socket.socketpair(),
        'signal the parent': lambda: os.kill(parent, 0),
        'stop the parent': lambda: os.kill(parent, signal.SIGUSR1),
        'signal a thread of the parent': lambda: call('syscall', TGKILL, parent, parent, 0),
        'signal its group': lambda: os.kill(0, 0),
        'signal all': lambda: os.kill(-1, 0),
        'queue a signal': lambda: call('sigqueue', parent, signal.SIGUSR1, None),
        'signal by a descriptor': lambda: signal.pidfd_send_signal(os.pidfd_open(parent), 0),
        'let the socket signal the parent': lambda: chain(
            lambda: fcntl.fcntl(0, fcntl.F_SETOWN, parent), lambda: fcntl.fcntl(0, 10, signal.SIGUSR1)),
        'let a device signal the parent': lambda: fcntl.ioctl(0, 0x8901, struct.pack('i', parent)),
        'trace the parent': lambda: call('ptrace', 16, parent, None, None),
        'write to the memory of the parent': lambda: call('process_vm_writev', parent, None, 0, None, 0, 0),
        'limit the parent': lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE, (0, 0)),
        'slow the parent down': lambda: os.setpriority(os.PRIO_PROCESS, parent, 19),
        'move the parent': lambda: os.sched_setaffinity(parent, {0}),
        'fork': os.fork,
        'exec': lambda: os.execv('/bin/true', ['true']),
        'run': lambda: subprocess.run(['/bin/true'], check=True),
        'share memory': lambda: call('shmget', 1, 4096, 0o1600),
        'memory without a limit': lambda: os.memfd_create('x'),
        'other namespaces': lambda: call('unshare', 0x10000000),
        'mount': lambda: call('mount', b'none', FOLDER.encode(), b'tmpfs', 0, None),
        'ask the kernel for programs': lambda: call('syscall', BPF, 0, None, 0),
    }
    for name, attack in attacks.items():
        try:
            attack()
            report[name] = 'done'
        except OSError as error:
            report[name] = error.errno
    raise decoder.Refused('damaged', reason=json.dumps(report, separators=(',', ':')))
"""


def test_a_decoder_that_is_taken_over_reaches_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = decoder_process.protections(settings.decode_memory)
    if not {"calls", "files"} <= held:
        pytest.skip("the kernel has no seccomp or no Landlock; the doctor tells")
    reach = tmp_path / "reach"
    (reach / "empty").mkdir(parents=True)
    victim = reach / "victim"
    victim.write_text("a secret")
    victim.chmod(0o600)
    signals: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: signals.append(number))
    limit, priority = resource.getrlimit(resource.RLIMIT_NOFILE), os.getpriority(os.PRIO_PROCESS, 0)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(reach / "socket"))
        local.listen()
        tgkill, bpf = (131, 280) if platform.machine() == "aarch64" else (234, 321)
        names = f"FOLDER, PORT, TGKILL, BPF = {str(reach)!r}, {server.getsockname()[1]}, {tgkill}, {bpf}"
        monkeypatch.setattr(decoder, "__file__", hostile(f"{names}\n{ATTACKS.rstrip()}", tmp_path))
        seen = sandbox.ask(sandbox.DecodeRequest(10**6, 64), io.BytesIO(picture()), len(picture()), settings).facts
    signal.signal(signal.SIGUSR1, before)
    report = json.loads(seen["reason"])
    assert len(report) > 40
    assert not {name: code for name, code in report.items() if code not in (errno.EPERM, errno.EACCES, errno.ENOSYS)}
    assert sorted(path.name for path in reach.iterdir()) == ["empty", "socket", "victim"]
    assert victim.read_text() == "a secret"
    assert victim.stat().st_mode & 0o777 == 0o600
    assert not signals
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limit
    assert os.getpriority(os.PRIO_PROCESS, 0) == priority


def test_decoders_work_where_the_kernel_holds_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "unconfined.py"
    program.write_text(
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(Path(decoder.__file__).parent)!r})\n"
        "import decoder\n"
        "from retllm.media.decoding import confinement\n"
        "confinement._restrict = lambda: []\n"
        "decoder.main()\n"
    )
    monkeypatch.setattr(decoder, "__file__", str(program))
    assert inspected(picture(), settings) == (40, 30)
    decoder_process.protections.cache_clear()
    assert decoder_process.protections(settings.decode_memory) == frozenset()
    decoder_process.protections.cache_clear()


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
