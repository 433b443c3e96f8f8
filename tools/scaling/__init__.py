"""Runs two replicas, on Ray Serve and behind vllm-router, and says what held: `make ray-serve`, `make router`."""
