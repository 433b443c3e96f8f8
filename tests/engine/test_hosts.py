"""Both hosts around the fake core: messages, death, hang, stop, and no process left behind."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from engine.errors import EngineDeadError, EngineStartError
from engine.heartbeat import Heartbeat
from engine.host import EngineHost, Inbox
from engine.messages import Abort, EngineFailed, EngineReady, StepOutputs
from engine.options import EngineOptions
from engine.process_host import ProcessHost
from engine.thread_host import ThreadHost
from engine.wire import Hello, decode_hello, encode
from tests.engine.fake_core import BREAK_STEP, DIE, HANG, FakeCore, fake_request

FAKE_MODULE = "tests.engine.fake_engine_process"


def process_host(model_dir: str = "", heartbeat_timeout: float = 30.0) -> ProcessHost:
    return ProcessHost(
        EngineOptions(model_dir=model_dir), heartbeat_timeout=heartbeat_timeout, module=FAKE_MODULE
    )


def thread_host(model_dir: str = "") -> ThreadHost:
    return ThreadHost(lambda: FakeCore.load(EngineOptions(model_dir=model_dir), False))


HOSTS = pytest.mark.parametrize("make_host", [process_host, thread_host])


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(limited())


async def started(host: EngineHost) -> EngineReady:
    await host.start()
    message = await host.receive()
    assert isinstance(message, EngineReady), message
    return message


async def tokens_of(host: EngineHost, request_id: str) -> list[int]:
    tokens: list[int] = []
    while True:
        message = await host.receive()
        assert isinstance(message, StepOutputs), message
        for output in message.outputs:
            if output.request_id == request_id:
                tokens += output.token_ids
                if output.finish_reason is not None:
                    return tokens


async def death_of(host: EngineHost) -> str:
    try:
        while True:
            await host.receive()
    except EngineDeadError as error:
        return str(error)


def is_alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def gone(process_id: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(process_id) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return not is_alive(process_id)


@HOSTS
def test_serves_requests_and_aborts(make_host: Callable[[str], EngineHost]) -> None:
    async def scenario() -> None:
        host = make_host("step=0.001")
        info = await started(host)
        assert info.max_model_len == 4096
        host.send(fake_request("long", [1], 100_000))
        host.send(fake_request("a", [10], 3))
        assert await tokens_of(host, "a") == [11, 12, 13]
        host.send(Abort(["long"]))
        host.send(fake_request("b", [20], 2))
        assert await tokens_of(host, "b") == [21, 22]
        assert host.heartbeat_age() < 10
        await host.stop()
        await host.stop()

    run(scenario)


@HOSTS
@pytest.mark.parametrize(("model_dir", "model_error"), [("missing", True), ("broken", False)])
def test_failed_load_is_reported_then_the_host_is_dead(
    make_host: Callable[[str], EngineHost], model_dir: str, model_error: bool
) -> None:
    async def scenario() -> None:
        host = make_host(model_dir)
        await host.start()
        message = await host.receive()
        assert isinstance(message, EngineFailed)
        assert message.model_error is model_error
        await death_of(host)
        await host.stop()

    run(scenario)


@HOSTS
def test_crash_in_step_is_reported_then_the_host_is_dead(make_host: Callable[[str], EngineHost]) -> None:
    async def scenario() -> None:
        host = make_host("")
        await started(host)
        host.send(fake_request("a", [BREAK_STEP]))
        message = await host.receive()
        assert isinstance(message, EngineFailed)
        assert "broken step" in message.message
        await death_of(host)
        host.send(fake_request("b", [1]))  # nobody listens; must be harmless
        await host.stop()

    run(scenario)


def test_killed_process_is_noticed_at_once() -> None:
    async def scenario() -> None:
        host = process_host()
        await started(host)
        host.send(fake_request("a", [DIE]))
        before = time.monotonic()
        assert "SIGKILL" in await death_of(host)
        assert time.monotonic() - before < 5
        await host.stop()

    run(scenario)


def test_child_that_can_not_start_is_a_death() -> None:
    async def scenario() -> None:
        host = ProcessHost(EngineOptions(model_dir=""), heartbeat_timeout=30, module="tests.no_such_module")
        await host.start()
        assert "exit code 1" in await death_of(host)
        await host.stop()

    run(scenario)


def full_disk(descriptor: int, offset: int, length: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("trouble", "text"),
    [
        ("missing", "set TMPDIR to a directory"),
        ("full", "No space left"),
        ("long", "set TMPDIR to a shorter path"),
    ],
)
def test_a_machine_without_room_for_the_engine_says_so(
    trouble: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a process is started, and without leaving anything behind."""
    with tempfile.TemporaryDirectory(prefix="ls") as parent:
        directory = Path(parent, "x" * 100 if trouble == "long" else "d")
        if trouble != "missing":
            directory.mkdir()
        if trouble == "full":
            monkeypatch.setattr(os, "posix_fallocate", full_disk)
        monkeypatch.setattr(tempfile, "tempdir", str(directory))

        async def scenario() -> None:
            host = process_host()
            with pytest.raises(EngineStartError, match=text) as caught:
                await host.start()
            assert "\n" not in str(caught.value)
            assert host.process_id is None
            host.send(fake_request("a", [1]))
            assert host.heartbeat_age() == 0
            await host.stop()

        run(scenario)
        assert not directory.exists() or list(directory.iterdir()) == []


def test_hung_engine_dumps_its_stacks_and_is_killed(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        host = process_host(heartbeat_timeout=0.5)
        await started(host)
        await asyncio.sleep(1.0)  # idle is no hang
        host.send(fake_request("a", [HANG]))
        assert "no progress" in await death_of(host)
        await host.stop()

    run(scenario)
    assert "_misbehave" in capfd.readouterr().err, "the stack dump shows where it hung"


@pytest.mark.parametrize("model_dir", ["", "slow-load"])
def test_stop_leaves_no_process_and_no_directory(
    model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not tmp_path itself: an ipc address must fit in 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ls") as parent:
        monkeypatch.setattr(tempfile, "tempdir", parent)

        async def scenario() -> None:
            host = process_host(model_dir)
            await host.start()
            [directory] = Path(parent).iterdir()
            assert directory.stat().st_mode & 0o777 == 0o700
            if not model_dir:
                await host.receive()
            process_id = host.process_id
            assert process_id is not None
            before = time.monotonic()
            await host.stop()
            assert time.monotonic() - before < 10
            assert not is_alive(process_id)
            assert list(Path(parent).iterdir()) == []

        run(scenario)


@pytest.mark.skipif(sys.platform != "linux", reason="relies on the parent-death signal")
@pytest.mark.parametrize("model_dir", ["", "slow-load"])
def test_no_orphan_when_the_parent_is_killed(model_dir: str) -> None:
    program = (
        "import asyncio, sys\n"
        "from tests.engine.test_hosts import process_host\n"
        "async def main():\n"
        f"    host = process_host({model_dir!r})\n"
        "    await host.start()\n"
        "    print(host.process_id, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    with tempfile.TemporaryDirectory(prefix="ls") as directory:  # a killed parent can't remove its own
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": directory}
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
        ) as parent:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            time.sleep(1.0)
            assert is_alive(child)
            parent.kill()
        assert asyncio.run(gone(child)), "the engine outlived the API process"


def test_ctrl_c_and_term_do_not_reach_the_engine() -> None:
    async def scenario() -> None:
        host = process_host()
        await started(host)
        process_id = host.process_id
        assert process_id is not None
        assert os.getpgid(process_id) != os.getpgid(0)
        os.kill(process_id, signal.SIGINT)
        os.kill(process_id, signal.SIGTERM)
        host.send(fake_request("a", [10], 2))
        assert await tokens_of(host, "a") == [11, 12]
        await host.stop()

    run(scenario)


def test_child_refuses_another_protocol_version() -> None:
    hello = Hello(options=EngineOptions(model_dir=""), log_level="info", show_progress=False)
    assert decode_hello(encode(hello)) == hello

    async def scenario() -> None:
        host = process_host()
        host._hello = Hello(
            options=EngineOptions(model_dir=""), log_level="info", show_progress=False, protocol_version=99
        )
        await host.start()
        message = await host.receive()
        assert isinstance(message, EngineFailed)
        assert "different versions" in message.message
        await host.stop()

    run(scenario)


def test_heartbeat_is_shared_between_two_mappings(tmp_path: Path) -> None:
    writer, reader = Heartbeat(tmp_path / "beat"), Heartbeat(tmp_path / "beat")
    assert reader.age() == 0.0
    writer.beat()
    assert reader.turns == 1
    assert 0 <= reader.age() < 5
    writer.close()
    reader.close()


def test_inbox_delivers_everything_before_the_death() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        inbox.put(EngineFailed("first", False))
        inbox.close("gone")
        inbox.close("second reason")
        inbox.put(EngineFailed("too late", False))
        assert await inbox.get() == EngineFailed("first", False)
        for _ in range(2):
            with pytest.raises(EngineDeadError, match="gone"):
                await inbox.get()

    run(scenario)
