"""Kernels: what a pass computes on rows, per device."""

from kernels.compiled_cache import use_cache_directory

# Before any kernel is defined.
use_cache_directory()
