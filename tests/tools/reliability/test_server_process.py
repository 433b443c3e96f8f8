"""What is seen of processes from outside."""

import os
import subprocess
import sys

from tools.reliability.server_process import Launch, is_alive, with_defaults
from tools.reliability.soak import _look


def test_a_process_that_ended_is_left_out() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert set(_look({"here": os.getpid(), "gone": ended.pid})) == {"here"}
    assert _look({"here": os.getpid()})["here"].rss > 1
    assert not is_alive(ended.pid)


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", "print()"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()  # until it ends
    while is_alive(process.pid):
        pass
    process.wait()


def test_defaults_give_way_to_given_options() -> None:
    defaults = {"--threads": "1", "--kv-cache-memory": "32MiB"}
    assert with_defaults(["--threads", "4"], defaults) == ("--threads", "4", "--kv-cache-memory", "32MiB")
    assert Launch(("a",)).with_options("b").options == ("a", "b")
