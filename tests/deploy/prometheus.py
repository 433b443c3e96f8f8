"""A real Prometheus over the configuration of `deploy/prometheus`, scraping one server every second."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.promtool import BIN, PROMETHEUS

START_SECONDS = 30.0
SCRAPE_SECONDS = 1
_ADDRESS = re.compile(r'msg="Listening on" address=(\S+)')


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    client: httpx.Client

    def get(self, path: str, **parameters: str | float) -> Any:
        """The data of an answer of its API, which must be a success."""
        told = self.client.get(path, params=parameters).json()
        assert told["status"] == "success", f"{parameters}: {told}"
        return told["data"]

    def label_values(self, query: str) -> list[str]:
        """What Grafana's ``label_values(series, label)`` gives."""
        series, _, label = query.removeprefix("label_values(").removesuffix(")").rpartition(", ")
        return self.get(f"label/{label}/values", **{"match[]": series})


def configure(directory: Path, target: str, api_key: str) -> Path:
    """The committed configuration with the server's address, its key, and a second between scrapes.

    The lines about keys are those that the file has as comments.
    """
    shutil.copytree(PROMETHEUS, directory)
    config = directory / "prometheus.yaml"
    text = config.read_text().replace("#authorization:", "authorization:")
    text = text.replace("#  credentials_file:", "  credentials_file:").replace(
        ": 15s", f": {SCRAPE_SECONDS}s"
    )
    config.write_text(text)
    (directory / "api-key").write_text(api_key + "\n")
    (directory / "targets" / "loopserve.yaml").write_text(f"- targets: [{target}]\n")
    return config


@contextmanager
def running(config: Path, directory: Path) -> Iterator[Prometheus]:
    """Prometheus on a free port, with its data in `directory`."""
    log = directory / "prometheus.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                BIN / "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'data'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stdout=out,
            stderr=out,
        )
    try:
        with httpx.Client(base_url=f"http://{_address(process, log)}/api/v1/", timeout=20) as client:
            yield Prometheus(client)
    finally:
        process.terminate()
        process.wait(20)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        text = log.read_text()
        if (found := _ADDRESS.search(text)) and "Server is ready" in text:
            return found[1]
        assert process.poll() is None, text
        time.sleep(0.05)
    raise AssertionError(f"Prometheus never listened:\n{log.read_text()}")
