"""What a server process needs of the machine before anything else: file descriptors, and a way to speak."""

import os
import resource
import sys

from engine.errors import EngineStartError

MIN_FILES = 64
"""Enough to load a model and to serve a few clients; with still fewer, ZeroMQ ends the process by itself."""
MAX_FILES = 65536


def raise_file_limit() -> None:
    """Allow this process as many open files as it may have: each connection is one, and the usual limit is 1024.

    Raises:
        EngineStartError: there are too few to start.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft != resource.RLIM_INFINITY and soft < MIN_FILES:
        raise EngineStartError(
            f"the limit of open files is {soft}; raise it to {MIN_FILES} or more (ulimit -n)."
        )


def say(text: str) -> None:
    """Print a line to stdout; that nobody reads it is no reason to end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Else the interpreter tries to write the line again at its end, and exits with an error.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
