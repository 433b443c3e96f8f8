"""`python -m engine.engine_process`: started by `engine.process_host`, never imported by the API process."""

import sys

from engine.core import EngineCore
from engine.engine_child import child_main

if __name__ == "__main__":
    sys.exit(child_main(sys.argv[1:], EngineCore.load))
