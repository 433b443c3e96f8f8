"""Settings of the test process that must be made before torch is loaded."""

import os

from engine.process_host import WAITING_THREADS_SLEEP

os.environ.update({**WAITING_THREADS_SLEEP, **os.environ})
