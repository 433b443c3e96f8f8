"""The comparison with other servers: checkpoints, turns and the page; the servers themselves are not run here."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from benchmarks.errors import BenchmarkError
from benchmarks.servers import ServerPlan, ServerReport, ServerRow
from tests.make_checkpoint import random_config
from tools.peers import checkpoints, servers
from tools.peers.page import CLAIMS, CONCURRENT, DECODE, PREFILL, claim_cells, page
from tools.peers.servers import Running, Server, running

SCRIPTED = """
import sys
from tests.benchmarks.scripted_server import *
import tests.benchmarks.scripted_server as s
s.ThreadingHTTPServer = lambda address, handler, make=s.ThreadingHTTPServer: make((address[0], {port}), handler)
with scripted_server(Script(answer(2))):
    time.sleep(60)
"""


def row(name: str, load: object, per_token: list[float], first: list[float], rate: list[float]) -> ServerRow:
    return ServerRow(name, load, 128, 128, first, per_token, rate, 0.1, 0.2, 1.0)  # type: ignore[arg-type]


def test_claims_are_ratios_of_their_time_to_ours_by_round() -> None:
    rows = [
        row(servers.LOOPS_2, DECODE, [0.1, 0.2], [1.0, 1.0], [10.0, 10.0]),
        row(servers.NANBEIGE, DECODE, [0.1, 0.4], [1.0, 1.0], [10.0, 10.0]),
        row(servers.LOOPS_2, CONCURRENT, [1.0, 1.0], [1.0, 1.0], [30.0, 40.0]),
        row(servers.VLLM, CONCURRENT, [1.0, 1.0], [1.0, 1.0], [60.0, 20.0]),
        row(servers.LOOPS_1, PREFILL, [], [2.0, 2.0], [1.0, 1.0]),
        row(servers.LLAMA_CPP, PREFILL, [], [1.0, 1.5], [1.0, 1.0]),
    ]
    report = ServerReport(ServerPlan((DECODE, CONCURRENT, PREFILL)), rows)
    assert [cells[1:] for cells in claim_cells(report).rows] == [
        [servers.LOOPS_2, servers.NANBEIGE, "1.50 (1.00–2.00)", "≥ 1.5", "yes"],
        [servers.LOOPS_2, servers.VLLM, "1.25 (0.50–2.00)", "≥ 1", "yes"],
        [servers.LOOPS_1, servers.LLAMA_CPP, "0.62 (0.50–0.75)", "≥ 1", "**no**"],
    ]
    text = page(report, {servers.VLLM: 3 << 20}, {servers.VLLM: "9.9"}, "a machine")
    assert f"| {servers.VLLM} | 9.9 | 3 |" in text
    assert "a machine" in text
    assert len(CLAIMS) > 3


def test_the_same_weights_for_every_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "big_config", random_config)
    converted: list[list[str]] = []
    monkeypatch.setattr(checkpoints.subprocess, "run", lambda command, check: converted.append(command))
    made = checkpoints.write_checkpoints(tmp_path, Path("python"))
    looped = load_file(made.looped / "model.safetensors")
    llama = load_file(made.llama / "model.safetensors")
    assert set(llama) == {name for name in looped if "plt_gate" not in name}
    assert all(llama[name].equal(looped[name]) for name in llama)
    gates = set(load_file(made.iquestloopcoder / "model.safetensors")) - set(llama)
    assert gates == {
        f"model.gate_projections.{layer}.{part}" for layer in (0, 1) for part in ("weight", "bias")
    }
    assert [command[-2:] for command in converted] == [[made.llama_gguf, "1"], [made.nanbeige_gguf, "2"]]
    checkpoints.write_checkpoints(tmp_path, Path("python"))  # what is there is not made again
    assert len(converted) == 4


def await_stopped(started: Running, wanted: list[bool]) -> None:
    """A stopped process is seen as stopped a moment later."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        stopped = [process.status() == psutil.STATUS_STOPPED for process in started.processes.values()]
        if stopped == wanted:
            return
        time.sleep(0.01)
    raise AssertionError(f"stopped: {stopped}, wanted: {wanted}")


def test_only_the_server_whose_turn_it_is_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPTED]
    with running([Server("a", command), Server("b", command)], tmp_path) as started:
        processes = list(started.processes.values())
        await_stopped(started, [True, True])
        with started.turn(started.targets["b"]):
            await_stopped(started, [True, False])
        await_stopped(started, [True, True])
        assert started.memory("a") > 1 << 20
    assert not any(process.is_running() for process in processes)


def test_a_server_that_ends_is_an_error_that_names_its_log(tmp_path: Path) -> None:
    broken = Server("broken", [sys.executable, "-c", "print('no such model')"])
    with pytest.raises(BenchmarkError, match=r"broken does not answer .*log"), running([broken], tmp_path):
        pass
    assert "no such model" in next(tmp_path.glob("*.log")).read_text()


def test_the_installer_is_valid_shell() -> None:
    script = Path(checkpoints.__file__).parent / "install.sh"
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
