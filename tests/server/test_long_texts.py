import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from server.long_texts import LONG_CHARS, VERY_LONG_CHARS, work_on

ROOT = Path(__file__).parents[2]
SIX_LONG_PROMPTS = """
import asyncio, sys
from pathlib import Path
from engine.tokenizer import Tokenizer
from server.openai.prompts import encode

TEXT = chr(10) * 300_000 + "a b" * 200_000
tokenizer = Tokenizer.load(Path(sys.argv[1]))

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

async def tokenise():
    asked = [encode(tokenizer, TEXT, add_special_tokens=True) for _ in range(6)]
    return [len(ids) for ids in await asyncio.gather(*asked)]

before = resident()
lengths = asyncio.run(tokenise())
assert min(lengths) > 100_000, lengths
print(resident() - before)
"""


def names_of_threads(size: int, count: int) -> tuple[set[str], int]:
    """Where `count` pieces of work of one size are done, and how many of them at the same time."""
    running, most, names = 0, 0, set()
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            names.add(threading.current_thread().name.rpartition("_")[0])
        time.sleep(0.02)
        with lock:
            running -= 1

    async def all_of_them() -> None:
        await asyncio.gather(*(work_on(size, work) for _ in range(count)))

    asyncio.run(all_of_them())
    return names, most


def test_short_texts_cost_no_thread() -> None:
    assert names_of_threads(LONG_CHARS, 1) == ({""}, 1)  # the main thread's name has no number


def test_long_texts_are_worked_on_beside_each_other() -> None:
    names, most = names_of_threads(LONG_CHARS + 1, 3)
    assert "very-long-texts" not in names
    assert most > 1


def test_very_long_texts_are_worked_on_one_by_one() -> None:
    assert names_of_threads(VERY_LONG_CHARS + 1, 3) == ({"very-long-texts"}, 1)


def test_what_a_very_long_text_raises_is_raised() -> None:
    def fails() -> None:
        raise ValueError("as it is")

    with pytest.raises(ValueError, match="as it is"):
        asyncio.run(work_on(VERY_LONG_CHARS + 1, fails))


def test_a_client_that_leaves_does_not_let_the_next_one_in() -> None:
    ends: list[float] = []
    starts: list[float] = []

    def work() -> None:
        starts.append(time.monotonic())
        time.sleep(0.1)
        ends.append(time.monotonic())

    async def leave_and_come() -> None:
        first = asyncio.create_task(work_on(VERY_LONG_CHARS + 1, work))
        await asyncio.sleep(0.03)
        first.cancel()
        await work_on(VERY_LONG_CHARS + 1, work)

    asyncio.run(leave_and_come())
    assert starts[1] >= ends[0]


def test_memory_of_long_prompts_is_given_back() -> None:
    """Six prompts of 0.9 MB at once, of which the process kept 290 MiB."""
    asked = [sys.executable, "-c", SIX_LONG_PROMPTS, str(ROOT / "models" / "demo")]
    grown = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert float(grown) < 64
