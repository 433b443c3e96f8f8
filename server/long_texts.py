"""Work on texts: short ones at once, long ones in a thread, very long ones one after another.

Tokenising takes some 400 bytes of memory per token while it lasts, so six prompts of 3 MB at once took 2 GB, which the
C library then kept for the threads that had asked for it. One at a time needs a sixth, and what is free is given back.
"""

import asyncio
import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LONG_CHARS = 4096
"""Texts longer than this would hold up other requests on the event loop."""
VERY_LONG_CHARS = 1 << 16

_one_by_one = ThreadPoolExecutor(max_workers=1, thread_name_prefix="very-long-texts")
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the C library may be another than glibc


async def work_on(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `work`, where texts of `size` characters together allow it without hurting others."""
    if size <= LONG_CHARS:
        return work(*args, **kwargs)
    if size <= VERY_LONG_CHARS:
        return await asyncio.to_thread(work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(
        _one_by_one, lambda: _and_give_back(lambda: work(*args, **kwargs))
    )


def _and_give_back(work: Callable[[], T]) -> T:
    try:
        return work()
    finally:
        if _trim is not None:
            _trim(0)
