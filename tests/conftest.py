"""Settings of the test process that must be made before torch is loaded."""

import os

# Tests run servers and cores beside each other; compute threads that spin while they wait would starve them.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
