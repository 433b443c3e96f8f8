"""Each client's script runs once per session, against servers that its kind shares."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tools.compatibility.catalogue import Client, Engine
from tools.compatibility.running import Outcome, run_client
from tools.compatibility.servers import Served, serving

ENVIRONMENTS = Path("build/clients")


class Outcomes:
    """What came of each client, found out when it is first asked for."""

    def __init__(self, stack: ExitStack, logs: Path) -> None:
        self._stack = stack
        self._logs = logs
        self._servers: dict[tuple[Engine, int], list[Served]] = {}
        self._outcomes: dict[str, Outcome] = {}

    def of(self, client: Client) -> Outcome:
        if client.name not in self._outcomes:
            servers = self._running(client.engine, client.servers)
            self._outcomes[client.name] = run_client(
                client, ENVIRONMENTS, servers, self._logs / f"{client.name}.log"
            )
        return self._outcomes[client.name]

    def _running(self, engine: Engine, count: int) -> list[Served]:
        if (engine, count) not in self._servers:
            self._servers[engine, count] = self._stack.enter_context(serving(engine, count, self._logs))
        return self._servers[engine, count]


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    with ExitStack() as stack:
        yield Outcomes(stack, tmp_path_factory.mktemp("clients"))
