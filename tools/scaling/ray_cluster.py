"""`serve run` as a child process, and what can be seen of it from outside: which replicas live."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "deploy" / "ray_serve.yaml"
ENGINE_TITLE = "ray::ServeReplica:loopserve:Engine"
STOP_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """One run."""

    process: subprocess.Popen[bytes]
    log: Path

    def replicas(self) -> list[psutil.Process]:
        """The processes of the engine replicas that have come up."""
        return [each for each in self._descendants() if _title(each).startswith(ENGINE_TITLE)]

    def engines(self) -> list[int]:
        """Process ids of the engines below the replicas."""
        return [
            child.pid
            for replica in self.replicas()
            for child in replica.children()
            if "engine.engine_process" in " ".join(child.cmdline())
        ]

    def end(self) -> bool:
        """Ctrl-C; returns whether everything was gone in time. What was not is killed."""
        children = self._descendants()
        if self.process.poll() is not None:
            return True
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
        _, alive = psutil.wait_procs(children, timeout=STOP_SECONDS / 4)
        for each in alive:
            each.kill()
        return not alive

    def _descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


@contextmanager
def cluster(port: int, engine: dict[str, Any], key: str | None = None) -> Iterator[Cluster]:
    """deploy/ray_serve.yaml with another port, these keys of the engine's deployment, and an API key."""
    config = yaml.safe_load(CONFIG.read_text())
    config["proxy_location"] = "HeadOnly"
    config["http_options"]["port"] = port
    for deployment in config["applications"][0]["deployments"]:
        if deployment["name"] == "Engine":
            if "num_replicas" in engine:
                del deployment["autoscaling_config"]
            deployment.update(engine)
    with tempfile.TemporaryDirectory(prefix="ray-") as directory:
        path, log = Path(directory) / "config.yaml", Path(directory) / "log"
        path.write_text(yaml.safe_dump(config))
        environment = {
            **os.environ,
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
        }
        if key is not None:
            environment["LOOPSERVE_API_KEYS"] = key
        serve = Path(sys.executable).with_name("serve")
        with log.open("wb") as out:
            process = subprocess.Popen(
                [str(serve), "run", "--app-dir", str(ROOT), str(path)],
                stdout=out,
                stderr=out,
                env=environment,
                cwd=ROOT,
                preexec_fn=_take_interrupts,
            )
        running = Cluster(process, log)
        try:
            yield running
        finally:
            running.end()


def _take_interrupts() -> None:
    """A shell starts what it runs in the background with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
