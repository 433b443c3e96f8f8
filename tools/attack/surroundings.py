"""What runs and is measured around a part of the attack: prober, canaries, footing."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tools.attack.canary import Canaries, generate, greedy, token_prompt
from tools.attack.footing import differences, settled
from tools.attack.mutators import mutation
from tools.attack.results import Around, Part
from tools.attack.servers import Keeper, log_problems
from tools.attack.target import AttackError, Target
from tools.attack.wire import exchange

WARM_UP = 12
WARM_UP_MUTATIONS = 300
WARM_UP_AT_ONCE = 8
LARGE = (b'{"prompt": [' + b"1," * 900_000 + b"1]}", b'{"prompt": "' + b"x" * 3_000_000 + b'"}')
"""What takes the most memory for a moment, which allocators keep."""


@asynccontextmanager
async def surroundings(
    keeper: Keeper, part: Part, *, canaries: bool = True, hostile: bool = True
) -> AsyncIterator[None]:
    """Measure before, run the honest clients meanwhile, and measure when all is quiet again.

    Args:
        canaries: whether honest clients run beside.
        hostile: whether mutations and megabytes of prompt belong to the warm-up.

    An `AttackError` from inside ends the part early; what was counted so far is kept and says so.
    """
    target, around = keeper.target, part.around
    _say(f"{part.part}: warming {target.name} up")
    await warm_up(target, hostile=hostile)
    await keeper.check()
    birds = await Canaries.measured(target) if canaries else Canaries(target, [])
    around.before = await settled(target, keeper.pid)
    _say(f"{part.part}: begun")
    prober = await _start_prober(target)
    flying = asyncio.create_task(birds.fly() if canaries else asyncio.sleep(0))
    started, gone = time.monotonic(), False
    try:
        yield
    except AttackError as error:
        part.cut, gone = str(error), True
    finally:
        part.seconds = time.monotonic() - started
        birds.stopping.set()
        await flying
        _note_health(around, await _stop_prober(prober))
    _say(f"{part.part}: {part.requests:,} requests in {part.seconds:.0f} s; waiting until all is quiet")
    around.canaries = birds.count
    around.exits, around.hangs = keeper.exits, keeper.hangs
    if not gone:
        around.after = await settled(target, keeper.pid, around.before)
        around.changed = differences(around.before, around.after)
    if keeper.launched is not None and target.ours:
        around.log = log_problems(keeper.launched.log)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def warm_up(target: Target, *, hostile: bool = True) -> None:
    """Fill caches, pools and buffers once and start whatever starts late, so that what grows afterwards is a leak.

    Raises:
        AttackError: the server doesn't serve plain completions.
    """
    waiting = asyncio.Semaphore(WARM_UP_AT_ONCE)

    async def one(number: int) -> None:
        length = max(1, target.context - 64) if number % 2 else 32
        fields = greedy(token_prompt(f"warm {number}", length, target.vocab_size), 8)
        async with waiting:
            await generate(target, fields, stream=bool(number % 3))
            for large in LARGE if hostile else ():
                await target.ask(target.post("/v1/completions", large))

    async def mutated(number: int) -> None:
        case = mutation(target, "warm-up", number)
        async with waiting:
            await exchange(target.host, target.port, case.pieces(), case.manners)

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(WARM_UP):
                group.create_task(one(number))
            for number in range(WARM_UP_MUTATIONS if hostile else 0):
                group.create_task(mutated(number))
    except ExceptionGroup as errors:
        raise AttackError(f"the quiet server: {errors.exceptions[0]}") from None


async def _start_prober(target: Target) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tools.attack.prober", target.host, str(target.port), target.health),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def _stop_prober(prober: asyncio.subprocess.Process) -> dict[str, Any]:
    out, _ = await prober.communicate(b"")  # closes its standard input
    found: dict[str, Any] = json.loads(out) if out else {"seconds": [], "failures": 0}
    return found


def _note_health(around: Around, found: dict[str, Any]) -> None:
    seconds = sorted(found["seconds"]) or [0.0]
    picked = (seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.99)], seconds[-1])
    around.health_ms = (picked[0] * 1000, picked[1] * 1000, picked[2] * 1000)
    around.health_probes, around.health_failures = len(found["seconds"]), found["failures"]
