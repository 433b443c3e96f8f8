"""Main module of an engine process around the fake core; `ProcessHost(module=...)` names it in tests."""

import sys

from engine.engine_child import child_main
from tests.engine.fake_core import FakeCore

if __name__ == "__main__":
    sys.exit(child_main(sys.argv[1:], FakeCore.load))
