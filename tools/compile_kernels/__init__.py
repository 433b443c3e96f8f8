"""Ahead-of-time compile of every Triton kernel for every GPU family we claim, on a machine without a GPU."""
