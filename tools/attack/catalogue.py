"""The part "catalogue": every row's inputs, once."""

import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import replace

from tools.attack.case import Case, Row
from tools.attack.results import Part, RowResult, note
from tools.attack.rows import CATALOGUE
from tools.attack.running import Sender, tripwire
from tools.attack.servers import Keeper
from tools.attack.surroundings import surroundings
from tools.attack.target import Target


async def run_catalogue(
    keeper: Keeper,
    part: Part,
    *,
    only: Collection[str] = (),
    slow: bool = True,
    seconds: float = float("inf"),
) -> None:
    """Send the catalogue to a server.

    Args:
        only: ids of rows; none means all.
        slow: whether to send what takes half a minute by design.
        seconds: begin no case after so long.
    """
    rows = [row for row in CATALOGUE if not only or row.id in only]
    results = {row.id: RowResult(row.id, row.what, applies=row.applies_to(keeper.target)) for row in rows}
    async with tripwire() as wire:
        sender = Sender(keeper, part, results)
        target = replace(keeper.target, tripwire=wire.address)
        await _rehearse(keeper, part, cases(rows, target, slow=False))
        async with surroundings(keeper, part):
            sender.until = time.monotonic() + seconds
            await sender.send_all(cases(rows, target, slow=slow))
        if wire.hits:
            row = results.setdefault("H67", RowResult("H67", ""))
            row.cases, row.unsafe = row.cases + 1, row.unsafe + 1
            note(row, f"an address in a request was fetched {wire.hits} times")
    part.rows = list(results.values())


async def _rehearse(keeper: Keeper, part: Part, sent: Iterator[Case]) -> None:
    """Send it all once before, and forget the results: what megabytes leave behind once is no leak.

    Small objects that outlive a large body pin the pages between which they were put, until the next large body.
    """
    print(f"{part.part}: rehearsing", file=sys.stderr, flush=True)
    rehearsal = Part(part.part, part.server, part.version, part.model, part.machine, part.commit, part.date)
    await Sender(keeper, rehearsal, {}).send_all(sent)


def cases(rows: Collection[Row], target: Target, *, slow: bool = True) -> Iterator[Case]:
    """Inputs of all rows that apply; slow ones first, so that they pass while the others are sent."""
    applying = [case for row in rows if row.applies_to(target) for case in row.cases(target)]
    if slow:
        yield from (case for case in applying if case.slow)
    yield from (case for case in applying if not case.slow)
