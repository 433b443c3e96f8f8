"""Starts the servers that are attacked, and starts them again when they end or hang."""

import asyncio
import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.make_checkpoint import random_config
from tools.attack.target import AttackError, Target, look_at
from tools.peers import servers as peer_servers
from tools.peers.checkpoints import write_checkpoints
from tools.peers.servers import LOOPSERVE, all_servers

START_SECONDS = 300.0
STOP_SECONDS = 20.0
HANG_SECONDS = 30.0
RECOVERY_SECONDS = 120.0
MAX_RESTARTS = 8
CACHE_MEMORY = "64MiB"
"""Small, so that it can be filled before memory is measured."""
PEERS = {"llama.cpp": peer_servers.LLAMA_CPP, "vllm": peer_servers.VLLM}
EXTRA = {"llama.cpp": ["--metrics"], "vllm": ["--enable-prefix-caching"]}


def small_config() -> dict[str, object]:
    """Shape of the checkpoint that all servers of a comparison get: small, as the model is not what is tested."""
    return random_config(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        head_dim=64,
        max_position_embeddings=2048,
        plt_window_size=[64, 0],
    )


@dataclass(slots=True)
class Launched:
    """A server process of this tool.

    Attributes:
        command: `{port}` stands for the port.
        log: its output, appended to.
    """

    command: list[str]
    log: Path
    key: str
    environment: Mapping[str, str] = field(default_factory=dict)
    vocab_size: int | None = None
    port: int = field(default_factory=lambda: _free_port())
    process: Any = None

    async def start(self) -> Target:
        """Start it and wait until it generates.

        Raises:
            AttackError: it ends, or doesn't answer in five minutes.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [part.replace("{port}", str(self.port)) for part in self.command]
        with self.log.open("ab") as out:
            self.process = psutil.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **self.environment}
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and not self.exited:
            with suppress(AttackError):
                target = await look_at(f"http://127.0.0.1:{self.port}", self.key, vocab_size=self.vocab_size)
                content = b'{"model": "%s", "prompt": "a", "max_tokens": 1}' % target.model.encode()
                done = await target.ask(target.post("/v1/completions", content))
                if done.answers and done.answers[0].status == 200:
                    return target
            await asyncio.sleep(0.3)
        self.stop()
        raise AttackError(f"the server did not start; see {self.log}")

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    @property
    def exited(self) -> bool:
        return self.process.poll() is not None

    def stop(self) -> None:
        """Ask it to end, then make it."""
        tree = [self.process]
        with suppress(psutil.NoSuchProcess):
            tree += self.process.children(recursive=True)
        with suppress(psutil.NoSuchProcess):
            self.process.terminate()
        _, alive = psutil.wait_procs(tree, timeout=STOP_SECONDS)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=STOP_SECONDS)


def own_server(model: Path, directory: Path, options: tuple[str, ...] = ()) -> Launched:
    """loopserve itself with an API key, given by the environment."""
    key = _new_key()
    command = [*LOOPSERVE, str(model), "--port", "{port}", "--kv-cache-memory", CACHE_MEMORY, *options]
    vocab_size = json.loads((model / "config.json").read_text())["vocab_size"]
    return Launched(command, directory / "server.log", key, {"LOOPSERVE_API_KEYS": key}, vocab_size)


def peer_server(name: str, peers: Path, models: Path, directory: Path) -> Launched:
    """Another engine's server, as `tools/peers` starts it, with an API key; or ours over the same weights.

    Args:
        name: "llama.cpp", "vllm" or "loopserve".
        peers: where `tools/peers/install.sh` installed them.
        models: where the checkpoint is, or is written to.
    """
    made = write_checkpoints(models, peers / "llama/bin/python", small_config())
    vocab_size = int(str(small_config()["vocab_size"]))
    if name == "loopserve":
        return own_server(made.looped, directory)
    if name not in PEERS:
        raise AttackError(f"unknown peer {name}; known are loopserve, {', '.join(PEERS)}")
    server = next(one for one in all_servers(peers, made) if one.name == PEERS[name])
    key = _new_key()
    command = [*server.command, "--api-key", key, *EXTRA[name]]
    return Launched(command, directory / "server.log", key, server.environment, vocab_size)


@dataclass(slots=True)
class Keeper:
    """Keeps the attacked server up.

    Attributes:
        launched: None for a server that somebody else runs; it is then waited for.
        foreign_pid: the process of such a server, if it is known.
        exits: how often its process ended by itself.
        hangs: how often it answered nobody any more and had to be ended.
    """

    target: Target
    launched: Launched | None = None
    exits: int = 0
    hangs: int = 0
    foreign_pid: int | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def pid(self) -> int | None:
        return self.launched.pid if self.launched is not None else self.foreign_pid

    async def check(self) -> None:
        """Called after a connection was lost: make sure that there is a server again.

        Raises:
            AttackError: it can't be had any more.
        """
        async with self._lock:
            exited = self.launched is not None and self.launched.exited
            if not exited and await self._answers():
                return
            await self._restart()

    async def recovered(self) -> None:
        """Wait until the server completes a prompt again; one that doesn't in two minutes counts as hung.

        Raises:
            AttackError: it can't be had any more.
        """
        content = json.dumps({"model": self.target.model, "prompt": "a", "max_tokens": 1}).encode()
        deadline = time.monotonic() + RECOVERY_SECONDS
        while time.monotonic() < deadline:
            done = await self.target.ask(self.target.post("/v1/completions", content), 10.0)
            if done.answers and done.answers[0].status == 200:
                return
            await self.check()
            await asyncio.sleep(0.5)
        async with self._lock:
            await self._restart()

    async def _restart(self) -> None:
        if self.launched is None:
            raise AttackError(f"{self.target.name} does not answer any more")
        if self.launched.exited:
            self.exits += 1
        else:
            self.hangs += 1
            self.launched.process.kill()
        if self.exits + self.hangs > MAX_RESTARTS:
            raise AttackError(f"{self.target.name} ended or hung {MAX_RESTARTS + 1} times")
        self.launched.stop()
        await self.launched.start()

    async def _answers(self) -> bool:
        deadline = time.monotonic() + HANG_SECONDS
        while time.monotonic() < deadline:
            done = await self.target.ask(self.target.get(self.target.health), 10.0)
            if done.answers and done.answers[0].status == 200:
                return True
            if self.launched is not None and self.launched.exited:
                return False
            await asyncio.sleep(0.3)
        return False


def log_problems(log: Path) -> list[str]:
    """What a log should not have: control characters, endless lines, lines that a client forged."""
    found = []
    for line in log.read_bytes().split(b"\n") if log.is_file() else []:
        if len(line) > 4096:
            found.append(f"a log line of {len(line):,} bytes")
        if any(byte < 32 and byte != 9 for byte in line.rstrip(b"\r")):
            found.append("control characters in the log")
        if line.startswith(b"ERROR forged"):
            found.append("a forged line in the log")
    return sorted(set(found))


def _new_key() -> str:
    return f"Key-{secrets.token_hex(16)}"


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
