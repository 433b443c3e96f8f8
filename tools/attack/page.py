"""docs/results/attack.md and attack-peers.md from kept results."""

from collections.abc import Iterable
from pathlib import Path

from tools.attack.results import Part, RowResult

PARTS = ("catalogue", "mutations", "disconnects", "exact")
Results = dict[str, dict[str, Part]]
"""Server → part → result."""

INTRODUCTION = """# Under attack

    make attack
    .venv/bin/python -m tools.attack mutations --self --seed S --number N     # sends one again and shows the answer

The server is attacked from outside, over the wire: a catalogue of hostile inputs, random mutations of valid requests,
clients that go away, and, on the side, exactness over HTTP. The rows are `tools/attack/rows`; each input is sent whole
and streamed, to completions and chat, where that makes sense.

A case passes if the status is the one wanted, errors are OpenAI's object of at most 4 KiB without internals or long
echoes, good answers are well-formed, and nothing hangs. Meanwhile a process of its own measures the health path, and
**canaries**, greedy streams of honest clients, must get the tokens that they got on the quiet server. At the end the
server must be as before: nothing running or waiting, no block held, no more files, threads or processes, at most 16 MiB
more memory. The catalogue is sent once before, without being counted, so that only what grows each time shows.
"""

PEERS_INTRODUCTION = """# Under attack, beside other servers

    make attack-peers

The same harness against every server on one machine, each with the same small random weights (hidden 256, 6 layers,
vocabulary 4,096, context 2,048; loopserve runs them with two loops), an API key and two threads, one after another.

A cell of the catalogue is `safe/asked`. **Safe** asks only what any server owes its users: no 5xx (501 and an overload
that says when to come back are none), an answer in time, no dropped connection, a readable answer, an error of at most
64 KiB without internals, and nothing fetched. In brackets: how many were also answered as loopserve's policy wants,
with 400 for a wrong value where others say 422 or ignore it. That is our choice, so it says little about others.
"n/a": the server has nothing that the row is about.

What got no answer is sent again alone before it counts (twice per row). Ends of processes are counted, not described.
Memory includes caches that grow by design.
"""


def load(directory: Path) -> Results:
    """All kept results, servers by the names of their directories."""
    return {
        server.name: {path.stem: Part.load(path) for path in sorted(server.glob("*.json"))}
        for server in sorted(directory.iterdir())
        if server.is_dir() and list(server.glob("*.json"))
    }


def own_page(parts: dict[str, Part]) -> str:
    """docs/results/attack.md."""
    chapters = [INTRODUCTION, _run_line(parts.values())]
    chapters += [_summary({"loopserve": parts})]
    if catalogue := parts.get("catalogue"):
        chapters += ["\n## The catalogue\n", _own_rows(catalogue), _problems(catalogue)]
    for name in ("mutations", "disconnects"):
        if part := parts.get(name):
            chapters += [f"\n## {name.capitalize()}\n", _statuses(part), _own_rows(part), _problems(part)]
    if exact := parts.get("exact"):
        chapters += ["\n## Exactness over HTTP\n", _exact({"loopserve": exact})]
    return "\n".join(chapters) + "\n"


def peers_page(results: Results) -> str:
    """docs/results/attack-peers.md."""
    every = [part for parts in results.values() for part in parts.values()]
    chapters = [PEERS_INTRODUCTION, _run_line(every), _summary(results)]
    catalogues = {name: parts["catalogue"] for name, parts in results.items() if "catalogue" in parts}
    if catalogues:
        chapters += ["\n## The catalogue\n", _compared_rows(catalogues)]
        chapters += ["\nWhat was not safe, or not as wanted, by kind:\n", _kinds(catalogues)]
    exact = {name: parts["exact"] for name, parts in results.items() if "exact" in parts}
    if exact:
        chapters += ["\n## Exactness over HTTP\n", _exact(exact)]
    return "\n".join(chapters) + "\n"


def _run_line(parts: Iterable[Part]) -> str:
    some = next(iter(parts))
    return f"Machine: {some.machine}. {some.date}, commit {some.commit}.\n"


def _summary(results: Results) -> str:
    """Figures as rows, (server, part) as columns."""
    columns = [
        (server, results[server][name]) for server in results for name in PARTS if name in results[server]
    ]
    lines = [
        ("server", [f"{server} {part.version}".strip() for server, part in columns]),
        ("part", [part.part for _, part in columns]),
        ("requests", [f"{part.requests:,}" for _, part in columns]),
        ("**passed**", [f"{part.passed:,}" for _, part in columns]),
        ("**not safe**", [f"{part.unsafe:,}" for _, part in columns]),
        ("5xx", [f"{part.kind('5xx'):,}" for _, part in columns]),
        ("no answer in time", [f"{part.kind('no answer in time'):,}" for _, part in columns]),
        ("no answer in time beside others, but alone", [f"{part.beside:,}" for _, part in columns]),
        ("process exited", [str(part.around.exits) for _, part in columns]),
        ("hung and was killed", [str(part.around.hangs) for _, part in columns]),
        ("told to come back later", [f"{part.overloads:,}" for _, part in columns]),
        ("health p50 / p99 / max, ms", [_health(part) for _, part in columns]),
        ("health probes failed", [_failures(part) for _, part in columns]),
        ("canaries identical", [_canaries(part) for _, part in columns]),
        ("with the same logprobs", [_same_logprobs(part) for _, part in columns]),
        ("afterwards", [_afterwards(part) for _, part in columns]),
        ("memory before → after, MiB", [_memory(part) for _, part in columns]),
        ("seconds", [f"{part.seconds:.0f}" + (f" ({part.cut})" if part.cut else "") for _, part in columns]),
    ]
    return _table(["", *[""] * len(columns)], [[name, *cells] for name, cells in lines])


def _health(part: Part) -> str:
    return " / ".join(f"{value:.1f}" for value in part.around.health_ms)


def _failures(part: Part) -> str:
    return f"{part.around.health_failures:,} of {part.around.health_probes + part.around.health_failures:,}"


def _canaries(part: Part) -> str:
    count = part.around.canaries
    if part.part == "exact":
        return "-"
    rest = [(count.different, "**different**"), (count.lost, "lost"), (count.refused, "refused")]
    more = "".join(f", {number:,} {name}" for number, name in rest if number)
    return f"{count.identical:,} of {count.identical + count.different:,}{more}"


def _same_logprobs(part: Part) -> str:
    return "-" if part.part == "exact" else f"{part.around.canaries.same_logprobs:,}"


def _afterwards(part: Part) -> str:
    if part.cut and part.around.after.rss is None:
        return "not measured"
    unknown = "" if part.around.after.running is not None else " (gauges unknown)"
    return ("; ".join([*part.around.changed, *part.around.log]) or "as before") + unknown


def _memory(part: Part) -> str:
    before, after = part.around.before.rss, part.around.after.rss
    return "-" if before is None or after is None else f"{before / 2**20:.0f} → {after / 2**20:.0f}"


def _own_rows(part: Part) -> str:
    rows = [
        [
            row.id,
            row.what,
            f"{row.cases:,}",
            f"{row.passed:,}" if row.passed == row.cases else f"**{row.passed:,}**",
        ]
        for row in part.rows
        if row.applies
    ]
    return _table(["row", "what", "cases", "passed"], rows)


def _problems(part: Part) -> str:
    """A few examples of each row that has problems; for our own server only."""
    lines = [f"* {row.id}: {_code(text)}" for row in part.rows for text in row.problems]
    return "\nNot passed, some of each row:\n\n" + "\n".join(lines) + "\n" if lines else ""


def _statuses(part: Part) -> str:
    if part.part != "mutations":
        return ""
    listed = ", ".join(f"{status} × {count:,}" for status, count in sorted(part.statuses.items()))
    return f"Seed {part.seed}. Answers by status: {listed}.\n"


def _compared_rows(parts: dict[str, Part]) -> str:
    by_id: dict[str, dict[str, RowResult]] = {}
    for server, part in parts.items():
        for row in part.rows:
            by_id.setdefault(row.id, {})[server] = row
    lines = []
    for row_id, found in by_id.items():
        what = next(iter(found.values())).what
        lines.append([row_id, what, *(_cell(found.get(server)) for server in parts)])
    return _table(["row", "what", *parts], lines)


def _cell(row: RowResult | None) -> str:
    if row is None or not row.applies or not row.cases:
        return "n/a"
    safe = f"{row.safe}/{row.cases}"
    return f"{safe if row.safe == row.cases else f'**{safe}**'} ({row.passed})"


def _kinds(parts: dict[str, Part]) -> str:
    names = sorted({kind for part in parts.values() for row in part.rows for kind in row.kinds})
    return _table(
        ["kind", *parts], [[name, *(f"{part.kind(name):,}" for part in parts.values())] for name in names]
    )


def _exact(parts: dict[str, Part]) -> str:
    """Conditions as rows: answers identical to those of the quiet server, and same logprobs."""
    conditions = list(dict.fromkeys(row.id for part in parts.values() for row in part.rows))
    lines = []
    for condition in conditions:
        cells = []
        for part in parts.values():
            row = next((one for one in part.rows if one.id == condition), None)
            cells += ["-", "-"] if row is None else [f"{row.passed:,} of {row.cases:,}", row.what]
        lines.append([condition, *cells])
    header = [text for server in parts for text in (f"{server}: same tokens", f"{server}: same logprobs")]
    return (
        "Each prompt alone on the quiet server is the truth; 32 tokens per answer, half of the prompts share one of "
        "five prefixes.\n\n" + _table(["condition", *header], lines)
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return (
        "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines) + "\n"
    )


def _code(text: str) -> str:
    return "`" + ascii(text)[1:-1].replace("`", "'")[:240] + "`"
