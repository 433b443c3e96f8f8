"""Run the proofs of reliability against our own server.

    python -m tools.reliability overload                # ten times as much as it can answer
    python -m tools.reliability drain --restarts 200    # rolling restarts under load
    python -m tools.reliability crash --crashes 50      # kill -9 and STOP of the engine process
    python -m tools.reliability soak --minutes 60       # mixed load for hours
    python -m tools.reliability timing --pairs 2000     # prefix cache across tenants
    python -m tools.reliability key-timing              # comparison of API keys

Options of the server go behind `--`. All but the soak go on where they were stopped, if they are run again with the
same options but for the amount. The exit code is 1 if a promise was broken, 2 if the run could not be carried out.
"""

import argparse
import asyncio
import dataclasses
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any

from tools.reliability import (
    crash,
    crash_page,
    drain,
    key_timing,
    overload,
    soak,
    soak_page,
    timing,
)
from tools.reliability.failure import ReliabilityError
from tools.reliability.results import Kept
from tools.reliability.server_process import Launch, with_defaults


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """One proof.

    Attributes:
        plan: dataclass of its sizes, each of which is an option.
        record: what it keeps.
        run: adds records until there are enough.
        page: writes the page of all records.
        problems: broken promises of all records.
        server: default options of the server.
        amounts: fields of the plan that only say how much: an earlier run may have had others and still counts.
        resumable: whether an earlier run counts at all.
    """

    plan: type[Any]
    record: type[Any]
    run: Callable[[Launch, Any, Kept[Any]], Coroutine[Any, Any, None]]
    page: Callable[[Kept[Any], Path], None]
    problems: Callable[[Kept[Any]], list[str]]
    server: dict[str, str]
    amounts: tuple[str, ...]
    resumable: bool = True


ONE_THREAD = {"--threads": "1"}
"""Clients need a core, too; compute threads that wait for one another would mix the two up."""

COMMANDS = {
    "overload": Command(
        overload.Plan,
        overload.Round,
        overload.run,
        overload.page,
        lambda kept: overload.problems(kept.records),
        ONE_THREAD,
        ("rounds",),
    ),
    "drain": Command(
        drain.Plan,
        drain.Restart,
        drain.run,
        drain.page,
        lambda kept: drain.problems(kept.records),
        ONE_THREAD,
        ("restarts",),
    ),
    "crash": Command(
        crash.Plan,
        crash.Crash,
        crash.run,
        crash_page.page,
        lambda kept: crash_page.problems(kept.records, float(kept.options["heartbeat_timeout"])),
        ONE_THREAD,
        ("crashes", "api_kills"),
    ),
    "soak": Command(
        soak.Plan,
        soak.Sample,
        soak.run,
        soak_page.page,
        lambda kept: soak_page.problems(kept.records),
        ONE_THREAD | {"--kv-cache-memory": "32MiB"},
        (),
        resumable=False,
    ),
    "timing": Command(
        timing.Plan,
        timing.Pair,
        timing.run,
        timing.page,
        lambda kept: timing.problems(kept.records, int(kept.options["seed"])),
        ONE_THREAD,
        ("pairs", "controls"),
    ),
    "key-timing": Command(
        key_timing.Plan,
        key_timing.Sample,
        key_timing.run,
        key_timing.page,
        lambda kept: key_timing.problems(kept.records),
        ONE_THREAD,
        ("samples",),
    ),
}


def main(arguments: list[str]) -> int:
    """Run one proof; returns the exit code."""
    arguments, server_options = _split(arguments)
    given = _parser().parse_args(arguments)
    command = COMMANDS[given.command]
    launch = Launch(with_defaults(server_options, command.server))
    # What was started is stopped, and the page written. A shell's background jobs begin with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        kept = prove(given.command, launch, _plan(command, given), given.kept, given.page)
    except ReliabilityError as error:
        print(f"reliability: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    problems = command.problems(kept)
    print("\n".join(problems) or f"{given.command}: no promise was broken; see {given.page}")
    return 1 if problems else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)


def prove(name: str, launch: Launch, plan: Any, kept_path: Path, page: Path) -> Kept[Any]:
    """Run one proof with servers of any kind and write its page, also when it is stopped.

    Raises:
        ReliabilityError: it can't be carried out.
    """
    command = COMMANDS[name]
    if not command.resumable:
        kept_path.unlink(missing_ok=True)
    kept = Kept(kept_path, command.record, _identity(command, plan, launch))
    try:
        asyncio.run(command.run(launch, plan, kept))
    finally:
        if kept.records:
            page.parent.mkdir(parents=True, exist_ok=True)
            command.page(kept, page)
    return kept


def _plan(command: Command, given: argparse.Namespace) -> Any:
    values = {field.name: getattr(given, field.name) for field in dataclasses.fields(command.plan)}
    return command.plan(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def _identity(command: Command, plan: Any, launch: Launch) -> dict[str, str | int | float]:
    """What records must have been made with to count for a run."""
    sizes = {name: v for name, v in dataclasses.asdict(plan).items() if name not in command.amounts}
    plain = {name: " to ".join(map(str, v)) if isinstance(v, tuple) else v for name, v in sizes.items()}
    return {**plain, "server": " ".join(launch.options)}


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.reliability",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        own.add_argument("--kept", type=Path, default=Path(f"build/reliability/{name}.jsonl"))
        own.add_argument("--page", type=Path, default=Path(f"docs/results/{name}.md"))
        for field in dataclasses.fields(command.plan):
            _add_size(own, field.name, 1 if field.default is dataclasses.MISSING else field.default)
    return parser


def _add_size(parser: argparse.ArgumentParser, name: str, default: Any) -> None:
    """An option of a plan's field, which may be a pair."""
    pair = isinstance(default, tuple)
    parser.add_argument(
        "--" + name.replace("_", "-"),
        type=type(default[0] if pair else default),
        nargs=2 if pair else None,
        default=default,
        help=" ",  # for the default to be shown
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
