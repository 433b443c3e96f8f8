"""Small versions of the proofs, with real processes.

Restarts are those of servers around a core without a model, which starts in a second; the rest is the demo model.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.make_checkpoint import make_checkpoint, random_config
from tests.server.played import VOCAB_SIZE
from tools.reliability import crash, drain, key_timing, overload, soak, timing
from tools.reliability.__main__ import COMMANDS, main, prove
from tools.reliability.server_process import Launch

DEMO = Launch(("--threads", "1", "--kv-cache-memory", "32MiB"))


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """A server whose engine takes 5 ms per token and does nothing in them."""
    model = tmp_path_factory.mktemp("model") / "step=0.005"
    make_checkpoint(model, random_config(vocab_size=VOCAB_SIZE, max_position_embeddings=4096), seed=1)
    command = (sys.executable, "-m", "tests.server.fake_server", "serve", str(model))
    return Launch(("--served-model-name", "demo"), command)


def _prove(name: str, launch: Launch, plan: Any, directory: Path) -> list[Any]:
    """Run a proof, which must find nothing; returns its records."""
    kept = prove(name, launch, plan, directory / "kept", directory / "page.md")
    assert COMMANDS[name].problems(kept) == []
    assert (directory / "page.md").exists()
    return kept.records


def test_overload(tmp_path: Path) -> None:
    plan = overload.Plan(
        seed=1, rounds=1, streams=4, waiting=4, questions=4, calm=3, once=1, ten_times=4, twice=1, timeout=30
    )
    kept = prove("overload", DEMO, plan, tmp_path / "kept", tmp_path / "page.md")
    (one,) = kept.records
    surge = one.phase("10×")
    assert surge.requests == surge.right + surge.refused
    assert surge.refused > surge.right > 0
    assert [phase.lost for phase in one.phases] == [[]] * len(one.phases)
    assert [phase.bare for phase in one.phases] == [0] * len(one.phases)
    assert one.leftovers == ""  # goodput and recovery mean little on a machine that runs a test suite


def test_drain(fake: Launch, tmp_path: Path) -> None:
    plan = drain.Plan(seed=1, restarts=3, clients=6, think=0.2, questions=4, tokens=(40, 200))
    restarts = _prove("drain", fake, plan, tmp_path)
    assert [restart.exit_code for restart in restarts] == [0, 0, 0]
    assert all(restart.under_way for restart in restarts)
    assert sum(restart.tally.right for restart in restarts) > 20


def test_crash(fake: Launch, tmp_path: Path) -> None:
    plan = crash.Plan(
        seed=1,
        crashes=2,
        api_kills=1,
        heartbeat_timeout=1,
        streams=4,
        questions=3,
        tokens=(100, 300),
        settle=0.5,
    )
    crashes = _prove("crash", fake, plan, tmp_path)
    gave_up = [one for one in crashes if one.exit is not None and one.kind != crash.API]
    assert [one.exit_code for one in gave_up] == [70]
    assert sorted(one.kind for one in crashes if one.ready is not None) == ["kill -9"] * 2 + ["stop"] * 2
    assert all(one.under_way == 4 for one in crashes)
    assert sum(len(one.errors) for one in crashes) > 10


def test_soak(tmp_path: Path) -> None:
    plan = soak.Plan(seed=1, minutes=0.1, rate=15, interval=2, questions=4, tokens=(4, 12))
    samples = _prove("soak", DEMO, plan, tmp_path)
    kinds = {kind for sample in samples for kind in sample.requests}
    assert kinds == {"streamed", "whole", "given up", "unique schema", "tool call", "refused", "odd"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[timing.Pair]:
    plan = timing.Plan(seed=1, pairs=10, controls=10, tokens=256)
    directory = tmp_path_factory.mktemp("timing")
    return prove("timing", DEMO, plan, directory / "kept", directory / "page.md").records


def test_timing_shows_a_hit_to_the_one_who_sent_the_prompt(pairs: list[timing.Pair]) -> None:
    assert timing.area(pairs, control=True, seed=1).value > 0.8
    assert all(pair.cached > 0 for pair in pairs if pair.control)


def test_timing_shows_nothing_to_another_tenant(pairs: list[timing.Pair]) -> None:
    assert timing.area(pairs, control=False, seed=1).value < 0.9  # of so few pairs
    assert all(pair.cached == 0 for pair in pairs if not pair.control)


def test_key_timing_goes_on_where_it_was_stopped(fake: Launch, tmp_path: Path) -> None:
    """Far too few samples to show anything: that they can be taken."""
    for samples in (40, 200, 200):
        plan = key_timing.Plan(seed=1, samples=samples)
        kept = prove("key-timing", fake, plan, tmp_path / "kept", tmp_path / "page.md")
        for server in (key_timing.OURS, key_timing.CONTROL):
            assert key_timing.Difference.of(kept.records, server).samples == samples


@pytest.mark.parametrize("started_by", [signal.SIG_DFL, signal.SIG_IGN], ids=["terminal", "background"])
def test_a_run_that_is_told_to_end_stops_its_server(tmp_path: Path, started_by: signal.Handlers) -> None:
    where = ["--kept", str(tmp_path / "kept"), "--page", str(tmp_path / "page.md")]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "tools.reliability", "key-timing", *where]
    before = signal.signal(signal.SIGINT, started_by)
    with subprocess.Popen(command, env=environment) as process:
        signal.signal(signal.SIGINT, before)
        try:
            started = psutil.Process(process.pid)
            children = _wait_for(lambda: started.children(recursive=True))
            process.terminate()
            assert process.wait(60) == 130
        finally:
            process.kill()
    assert not any(child.is_running() for child in children)
    assert not list(tmp_path.glob("rel-*"))


def _wait_for(found: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while not (seen := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return seen


def test_a_server_that_does_not_start_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--kept", str(tmp_path / "kept"), "--page", str(tmp_path / "page.md")]
    assert main(["soak", *where, "--", "--no-such-option"]) == 2
    assert "No such option" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()
