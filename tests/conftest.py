"""Settings of the test process that must be made before torch and Triton are loaded."""

import os

# Tests run servers and cores beside each other; compute threads that spin while they wait would starve them.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# GPU kernels run in Triton's interpreter and everything else on the CPU, also on a machine with a GPU, unless
# `make gpu-check` runs the kernel tests there.
if os.environ.get("KERNEL_TEST_DEVICE", "cpu") == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["HIP_VISIBLE_DEVICES"] = ""
