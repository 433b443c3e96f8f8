"""Whether the time of an answer tells one tenant what another has sent.

The server has two API keys. In each trial, the owner's key sends a prompt; then the spy's key sends either that prompt
or one that nobody has sent, and its time is taken. What came just before is thus of the same kind in both cases, and a
prompt is never used twice. A pair is one trial of each, in a drawn order. The area under the ROC curve (AUC) is how
well the time tells the two apart: 0.5 is not at all, 1 always. In the control, the spy has the owner's key.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from tools.reliability.failure import ReliabilityError
from tools.reliability.results import Kept, command_line, milliseconds, table, verdict
from tools.reliability.server_process import Launch, running
from tools.reliability.statistics import Interval, auc_interval, percentile
from tools.reliability.wire import Call, exchange

KEYS = ("owner-key-of-this-test", "spy-key-of-this-test")
FIRST_TOKEN_ID = 300
LAST_TOKEN_ID = 4000
"""Prompts are random ids in between: of one length, without a tokenizer's part in the time."""
WARM_UP = 5
MARGIN = 0.03
CONTROL = 0.9


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes.

    Attributes:
        pairs: across tenants.
        controls: pairs with one key.
        tokens: of a prompt; long enough for a hit to show in the control.
    """

    seed: int
    pairs: int = 2000
    controls: int = 200
    tokens: int = 256
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Two timed requests of the spy, in seconds.

    Attributes:
        control: with the owner's key.
        known: for the prompt that the owner had sent.
        unknown: for one that nobody had sent.
        cached: prompt tokens that the answer to the first says were found in the cache.
    """

    control: bool
    known: float
    unknown: float
    cached: int


async def run(launch: Launch, plan: Plan, kept: Kept[Pair]) -> None:
    """Time pairs until enough are kept; controls are spread among them."""
    async with running(Launch(launch.options, launch.command, KEYS)) as server:
        spying = _Spying(server.port, plan, first=len(kept.records))
        for _ in range(WARM_UP):
            await spying.pair(control=True)
        while (control := _next_is_control(plan, kept.records)) is not None:
            kept.add(await spying.pair(control=control))


def _next_is_control(plan: Plan, pairs: list[Pair]) -> bool | None:
    """None if there are enough; both kinds grow in proportion."""
    controls = sum(pair.control for pair in pairs)
    others = len(pairs) - controls
    if others >= plan.pairs and controls >= plan.controls:
        return None
    return controls * plan.pairs <= others * plan.controls if controls < plan.controls else False


class _Spying:
    def __init__(self, port: int, plan: Plan, first: int) -> None:
        self._port = port
        self._plan = plan
        self._rng = random.Random(f"{plan.seed}/{first}")

    async def pair(self, *, control: bool) -> Pair:
        """One trial of each kind."""
        spy = KEYS[0] if control else KEYS[1]
        times, cached = {}, 0
        for known in self._rng.sample((True, False), 2):
            owners = self._prompt()
            await self._send(owners, KEYS[0])
            times[known], found = await self._send(owners if known else self._prompt(), spy)
            cached += found if known else 0
        return Pair(control, times[True], times[False], cached)

    def _prompt(self) -> list[int]:
        return [self._rng.randrange(FIRST_TOKEN_ID, LAST_TOKEN_ID) for _ in range(self._plan.tokens)]

    async def _send(self, prompt: list[int], key: str) -> tuple[float, int]:
        """Seconds of the answer, and the prompt tokens that it says were cached."""
        body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "ignore_eos": True}
        done = await exchange(self._port, Call("POST", "/v1/completions", body, key=key), self._plan.timeout)
        if done.failure or done.status != 200:
            raise ReliabilityError(f"the server answered {done.failure or done.body!r}")
        return done.ended - done.sent, json.loads(done.body)["usage"]["prompt_tokens_details"][
            "cached_tokens"
        ]


def area(pairs: list[Pair], *, control: bool, seed: int) -> Interval:
    """AUC of one kind of pairs."""
    chosen = [pair for pair in pairs if pair.control == control]
    return auc_interval([p.known for p in chosen], [p.unknown for p in chosen], seed)


def problems(pairs: list[Pair], seed: int) -> list[str]:
    """Broken promises."""
    found = []
    across, control = area(pairs, control=False, seed=seed), area(pairs, control=True, seed=seed)
    told = sum(pair.cached > 0 for pair in pairs if not pair.control)
    if abs(across.value - 0.5) > MARGIN:
        found.append(f"across tenants, time tells them apart: AUC {across.format(3)}")
    if told:
        found.append(f"across tenants, {told} answers say that tokens were found in the cache")
    if control.value < CONTROL:
        found.append(f"the control shows nothing: AUC {control.format(3)}; longer prompts may help")
    return found


def page(kept: Kept[Pair], path: Path) -> None:
    """docs/results/timing.md."""
    pairs, seed = kept.records, int(kept.options["seed"])
    rows = []
    for name, control in (("two tenants", False), ("control: one tenant", True)):
        chosen = [pair for pair in pairs if pair.control == control]
        known, unknown = [pair.known for pair in chosen], [pair.unknown for pair in chosen]
        rows.append(
            (
                name,
                f"{len(chosen):,}",
                f"**{area(pairs, control=control, seed=seed).format(3)}**",
                *(milliseconds(percentile(known, share)) for share in (0.5, 0.99)),
                *(milliseconds(percentile(unknown, share)) for share in (0.5, 0.99)),
                f"{sum(pair.cached > 0 for pair in chosen):,}",
            )
        )
    head = (
        *("", "pairs", "AUC (95 % interval)", "known prompt p50", "p99", "unknown prompt p50", "p99"),
        "`cached_tokens` above 0",
    )
    path.write_text(f"""# Timing across tenants

    make timing
    {command_line()}

{__doc__.strip() if __doc__ else ""}

{table(head, rows)}

Prompts have {kept.options["tokens"]} tokens, answers one. The interval is a bootstrap over pairs.

Broken promises (AUC across tenants within 0.5 ± {MARGIN:g}, no word of the other's cache, at least {CONTROL:g} in
the control):

{verdict(problems(pairs, seed))}

{kept.provenance()}
""")
