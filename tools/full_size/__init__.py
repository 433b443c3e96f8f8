"""Measures LoopCoder-V2's released shape, 7.6 B parameters, on this machine: `make bench-full-size`."""
