"""Kernels for GPUs. Importing this package settles what Triton reads from the environment."""

import os

# Multiplications and additions are fused, as Triton does up to 3.9 by default; later releases change the default.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
