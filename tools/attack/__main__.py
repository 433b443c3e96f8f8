"""Attack a server over the wire.

    python -m tools.attack all --self                                   # our own server, started by this tool
    python -m tools.attack all --peer llama.cpp --peers build/peers     # another one, started by this tool
    python -m tools.attack catalogue --url http://127.0.0.1:8000 --key KEY [--pid PID] [--row H05 ...]
    python -m tools.attack mutations --self --seed 1 [--count 10000] [--first N] [--number N]
    python -m tools.attack disconnects --self --count 10000
    python -m tools.attack exact --self --count 200
    python -m tools.attack report --page docs/results/attack.md --peers-page docs/results/attack-peers.md

Each part is kept in build/attack/SERVER/PART.json. `all` runs catalogue, mutations and exact, and leaves alone what is
kept already (`--again` does it again). What --row, --number and --first try out is shown, not kept.
Ends with 1 if a server of ours, or one given by --url, did not pass.
"""

import argparse
import asyncio
import dataclasses
import datetime
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from server.settings import DEMO_MODEL
from tools.attack.catalogue import run_catalogue
from tools.attack.disconnects import run_disconnects
from tools.attack.exact import run_exact
from tools.attack.mutations import run_mutations
from tools.attack.mutators import mutation
from tools.attack.page import PARTS, load, own_page, peers_page
from tools.attack.results import Part
from tools.attack.servers import Keeper, Launched, own_server, peer_server
from tools.attack.target import AttackError, Target, look_at
from tools.attack.wire import exchange

OWN_DIRECTORY = "self"
FEW_SEQUENCES = ("--max-num-seqs", "8")
"""For disconnects of our own server: with so few, most requests wait in the queue for a while."""
ALL = ("catalogue", "mutations", "exact")
COUNTS = {"mutations": 10_000, "disconnects": 10_000, "exact": 100}


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers it started end with it
    try:
        if arguments.part == "report":
            return _report(arguments)
        if arguments.number is not None:
            return asyncio.run(_replay(arguments))
        passed = asyncio.run(_run(arguments))
    except AttackError as error:
        print(f"attack: {error}", file=sys.stderr)
        return 2
    return 0 if passed or arguments.peer else 1


async def _run(arguments: argparse.Namespace) -> bool:
    directory: Path = arguments.out / (arguments.peer or OWN_DIRECTORY if not arguments.url else "url")
    trying = bool(arguments.row or arguments.first)
    passed = True
    for name in ALL if arguments.part == "all" else (arguments.part,):
        if arguments.part == "all" and not arguments.again and (directory / f"{name}.json").exists():
            print(f"{name}: kept from before")
            continue
        options = FEW_SEQUENCES if name == "disconnects" else ()
        async with _server(arguments, directory, options) as keeper:
            part = _new_part(name, keeper.target, arguments.seed)
            await _do(part, keeper, arguments)
        if not trying:
            part.save(directory)
        _show(part)
        passed = passed and _passed(part)
    return passed


async def _do(part: Part, keeper: Keeper, arguments: argparse.Namespace) -> None:
    count = COUNTS.get(part.part, 0) if arguments.count is None else arguments.count
    seconds = float(arguments.seconds)
    if part.part == "catalogue":
        await run_catalogue(keeper, part, only=arguments.row, slow=not arguments.quick, seconds=seconds)
    elif part.part == "mutations":
        await run_mutations(keeper, part, first=arguments.first, count=count, seconds=seconds)
    elif part.part == "disconnects":
        await run_disconnects(keeper, part, count=count, seconds=seconds)
    else:
        await run_exact(keeper, part, count=count, seconds=seconds)


@asynccontextmanager
async def _server(
    arguments: argparse.Namespace, directory: Path, options: tuple[str, ...] = ()
) -> AsyncIterator[Keeper]:
    """The server to attack, started if that is our business."""
    if arguments.url:
        target = await look_at(arguments.url, arguments.key, vocab_size=arguments.vocab)
        yield Keeper(target, foreign_pid=arguments.pid)
        return
    launched = _launched(arguments, directory, options)
    try:
        yield Keeper(await launched.start(), launched)
    finally:
        launched.stop()


def _launched(arguments: argparse.Namespace, directory: Path, options: tuple[str, ...]) -> Launched:
    if arguments.peer:
        peers: Path = arguments.peers.resolve()
        launched = peer_server(arguments.peer, peers, arguments.out / "models", directory)
        if arguments.peer == "loopserve":
            launched.command += options
        return launched
    return own_server(arguments.model, directory, options)


def _new_part(name: str, target: Target, seed: int) -> Part:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Part(name, target.dialect, target.version, target.model, describe(), commit, today, seed)


async def _replay(arguments: argparse.Namespace) -> int:
    """Send one mutation and show both sides."""
    async with _server(arguments, arguments.out / "replay") as keeper:
        target = keeper.target
        case = mutation(target, arguments.seed, arguments.number)
        pieces = list(case.pieces())
        print(b"".join(piece.data for piece in pieces).decode("utf-8", "backslashreplace"), "\n")
        done = await exchange(target.host, target.port, pieces, case.manners)
    print(f"{done.outcome} after {done.seconds:.2f} s")
    for answer in done.answers:
        print(answer.status, answer.headers, answer.body[:4096].decode("utf-8", "backslashreplace"), sep="\n")
    return 0


def _passed(part: Part) -> bool:
    around = part.around
    clean = not (part.cut or part.beside or around.changed or around.log or around.exits or around.hangs)
    return clean and part.passed == part.requests and not around.canaries.different


def _show(part: Part) -> None:
    around = part.around
    print(
        f"{part.part}: {part.passed:,} of {part.requests:,} passed, {part.unsafe:,} not safe, in {part.seconds:.0f} s; "
        f"health {around.health_ms[0]:.1f}/{around.health_ms[1]:.1f}/{around.health_ms[2]:.1f} ms, "
        f"{around.health_failures} of {around.health_probes} failed; exits {around.exits}, hangs {around.hangs}; "
        f"overloads {part.overloads}; only beside others {part.beside}; {part.cut or 'complete'}"
    )
    print(f"  statuses: {part.statuses}\n  canaries: {dataclasses.asdict(around.canaries)}")
    print(
        f"  afterwards: {around.changed or 'as before'} {around.log or ''}\n  {around.before}\n  {around.after}"
    )
    for row in part.rows:
        if row.passed < row.cases or part.part == "exact":
            print(f"  {row.id} {row.what}: {row.passed}/{row.cases} {row.kinds}")
            for text in row.problems:
                print(f"      {ascii(text)[:300]}")


def _report(arguments: argparse.Namespace) -> int:
    results = load(arguments.out)
    if own := results.pop(OWN_DIRECTORY, None):
        arguments.page.write_text(own_page(own), encoding="utf-8")
        print(f"wrote {arguments.page}")
    results.pop("url", None)
    if results:
        arguments.peers_page.write_text(peers_page(results), encoding="utf-8")
        print(f"wrote {arguments.peers_page}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.attack",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=[*PARTS, "all", "report"])
    which: Any = parser.add_mutually_exclusive_group()
    which.add_argument("--self", action="store_true", help="start loopserve (the default)")
    which.add_argument("--peer", choices=["loopserve", "llama.cpp", "vllm"], help="start this one")
    which.add_argument("--url", help="attack what runs there")
    parser.add_argument("--model", type=Path, default=DEMO_MODEL, help="checkpoint for --self")
    parser.add_argument("--key", help="API key of --url")
    parser.add_argument("--pid", type=int, help="process of --url, if it runs on this machine")
    parser.add_argument("--vocab", type=int, help="width of the logits of --url")
    parser.add_argument("--peers", type=Path, default=Path("build/peers"))
    parser.add_argument("--out", type=Path, default=Path("build/attack"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, help="of mutations, disconnects or prompts")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--number", type=int, help="send this mutation alone and show the answer")
    parser.add_argument("--row", action="append", default=[], help="only this row of the catalogue")
    parser.add_argument("--quick", action="store_true", help="without the clients that are slow by design")
    parser.add_argument(
        "--seconds", type=float, default=840.0, help="begin nothing new in a part after so long"
    )
    parser.add_argument("--again", action="store_true", help="also what is kept from before")
    parser.add_argument("--page", type=Path, default=Path("docs/results/attack.md"))
    parser.add_argument("--peers-page", type=Path, default=Path("docs/results/attack-peers.md"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
