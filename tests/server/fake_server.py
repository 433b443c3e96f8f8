"""Main module: the real command line and the real application, over engines with the fake core."""

import functools
import sys
from collections.abc import Callable

from engine.engine_loop import Core
from engine.options import EngineOptions
from engine.process_host import ProcessHost
from server import bootstrap, cli
from tests.engine.fake_core import FakeCore


def fake_loader(options: EngineOptions, show_progress: bool) -> Callable[[], Core]:
    """Stands in for `engine.thread_host.core_loader`."""
    return lambda: FakeCore.load(options, show_progress)


if __name__ == "__main__":
    fake_process = functools.partial(ProcessHost, module="tests.engine.fake_engine_process")
    bootstrap.ProcessHost = fake_process  # type: ignore[assignment, misc]
    bootstrap.core_loader = fake_loader
    sys.exit(cli.run(sys.argv[1:]))
