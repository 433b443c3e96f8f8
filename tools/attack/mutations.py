"""The part "mutations": random changes of valid requests."""

import time

from tools.attack.mutators import mutation
from tools.attack.results import Part, RowResult
from tools.attack.running import Sender
from tools.attack.servers import Keeper
from tools.attack.surroundings import surroundings


async def run_mutations(
    keeper: Keeper, part: Part, *, first: int = 0, count: int = 10_000, seconds: float = float("inf")
) -> None:
    """Send the mutations `first` to `first + count - 1` of the part's seed."""
    row = RowResult("mutation", f"mutations {first:,} to {first + count - 1:,} of seed {part.seed}")
    part.rows = [row]
    sender = Sender(keeper, part, {row.id: row})
    async with surroundings(keeper, part):
        sender.until = time.monotonic() + seconds
        await sender.send_all(
            mutation(keeper.target, part.seed, number) for number in range(first, first + count)
        )
