"""Measures loopserve beside other servers on this machine: `make bench-peers`."""
