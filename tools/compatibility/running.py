"""Runs a client's checks and reads what they print."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.compatibility.catalogue import Client
from tools.compatibility.servers import DEMO_MODEL, CompatibilityError, Served

MAX_DETAIL_CHARS = 300

# Whatever a client would like to fetch does not exist here, and nothing it finds on the machine may help it.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "NO_PROXY": "127.0.0.1",
    "PYTHONNOUSERSITE": "1",
}


@dataclass(frozen=True, slots=True)
class Row:
    """How one feature went with one client; `detail` says what went wrong."""

    feature: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All rows of one client, one per feature that it has in the catalogue."""

    client: Client
    version: str
    rows: tuple[Row, ...]

    def unexpected(self) -> list[Row]:
        """Rows that are not as the catalogue says: failed ones, and known failures that pass."""
        known = {feature for feature, _ in self.client.known}
        return [row for row in self.rows if row.passed == (row.feature in known)]


def run_client(client: Client, environments: Path, servers: list[Served], log: Path) -> Outcome:
    """Run one client's script against running servers.

    Args:
        environments: where `install.sh` made the environments.
        log: gets everything that the script prints.

    Raises:
        CompatibilityError: the client's environment is missing.
    """
    environments = environments.resolve()
    home = environments / client.name
    if not (home / "installed").exists():
        raise CompatibilityError(
            f"{client.name} is not installed: run tools/compatibility/install.sh {environments}"
        )
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")},
        **OFFLINE,
        "LOOPSERVE_URLS": ",".join(server.url for server in servers),
        "LOOPSERVE_KEY": servers[0].key,
        "LOOPSERVE_MODEL": DEMO_MODEL.name,
        "LOOPSERVE_MODEL_DIRECTORY": str(DEMO_MODEL.resolve()),
    }
    with log.open("wb") as out, tempfile.TemporaryDirectory() as scratch:
        process = subprocess.Popen(
            [*client.command(environments), *client.features],
            cwd=home,
            env={**environment, "HOME": scratch, "TMPDIR": scratch},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            end = f"the script ended with code {process.wait(client.seconds)}"
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            end = f"not within {client.seconds:g} s"
    return _outcome(client, log.read_text(encoding="utf-8", errors="replace").splitlines(), end)


def _outcome(client: Client, lines: Iterable[str], end: str) -> Outcome:
    """Rows from the printed lines; a feature that the script said nothing about has failed."""
    version = ""
    rows: dict[str, Row] = {}
    for line in lines:
        match _parsed(line):
            case {"version": str(found)}:
                version = found
            case {"feature": str(name), "passed": bool(passed), "detail": str(detail)}:
                rows[name] = Row(name, passed, " ".join(detail.split())[:MAX_DETAIL_CHARS])
            case _:
                pass
    return Outcome(
        client,
        version,
        tuple(rows.get(name, Row(name, False, f"no result: {end}")) for name in client.features),
    )


def _parsed(line: str) -> object:
    try:
        return json.loads(line) if line.startswith("{") else None
    except ValueError:
        return None
