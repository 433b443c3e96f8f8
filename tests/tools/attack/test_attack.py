"""Inputs as data, and a small attack on a real server."""

import asyncio
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.make_checkpoint import make_checkpoint, random_config
from tests.tools.attack.scripted import response, scripted
from tools.attack import surroundings
from tools.attack.canary import CanaryCount, Generated
from tools.attack.case import GOOD, Case, once
from tools.attack.catalogue import cases, run_catalogue
from tools.attack.disconnects import run_disconnects
from tools.attack.exact import run_exact
from tools.attack.footing import Footing, differences, gauges
from tools.attack.mutations import run_mutations
from tools.attack.mutators import _places, mutation
from tools.attack.page import own_page, peers_page
from tools.attack.results import Around, Part, RowResult
from tools.attack.rows import CATALOGUE
from tools.attack.running import Sender
from tools.attack.servers import Keeper, own_server
from tools.attack.target import Dialect, Target

OURS = Target("x", "127.0.0.1", 1, Dialect.LOOPSERVE, key="Key-abc", model="m", vocab_size=320, context=64)
FEW_ROWS = ("H01", "H05", "H09", "H13", "H23", "H30", "H33", "H43", "H50", "H71", "H81", "H84")


def new_part(name: str) -> Part:
    return Part(name, "loopserve", "1", "m", "a machine", "abc", "2026-01-01", seed=3)


def sent(case: Case) -> bytes:
    return b"".join(piece.data for piece in case.pieces())


def test_every_row_has_inputs_and_each_row_and_input_its_own_name() -> None:
    assert len({row.id for row in CATALOGUE}) == len(CATALOGUE)
    target = dataclasses.replace(OURS, routes=(("POST", "/v1/completions"),))
    for row in CATALOGUE:
        found = list(row.cases(target))
        assert found, row.id
        assert {case.row for case in found} == {row.id}
        assert len({case.name for case in found}) > len(found) / 2
    assert sum(1 for _ in cases(CATALOGUE, target)) > 1000


def test_rows_of_one_dialect_are_not_sent_to_another() -> None:
    llama = dataclasses.replace(OURS, dialect=Dialect.LLAMA_CPP)
    assert {case.row for case in cases(CATALOGUE, llama, slow=False)}.isdisjoint({"H56", "H62", "H71"})


def test_a_mutation_can_be_sent_again_and_differs_from_others() -> None:
    drawn = [sent(mutation(OURS, 1, number)) for number in range(300)]
    assert drawn == [sent(mutation(OURS, 1, number)) for number in range(300)]
    assert len(set(drawn)) > 290
    assert drawn != [sent(mutation(OURS, 2, number)) for number in range(300)]


def test_deep_values_in_deep_values_can_be_sent() -> None:
    deep: Any = 1
    for _ in range(3 * sys.getrecursionlimit()):
        deep = [deep]
    assert len(list(_places({"a": deep}))) == 3 * sys.getrecursionlimit() + 1
    for seed, number in ((1, 1593), (2, 9742)):  # several such changes in one body
        assert sent(mutation(OURS, seed, number))


def test_what_is_not_as_before() -> None:
    before = Footing(0, 0, 0, 0, ((1, 1.0),), fds=5, threads=5, rss=100 << 20)
    assert not differences(before, dataclasses.replace(before, threads=6, rss=110 << 20))
    for change in (
        {"blocks": 1.0},
        {"running": 1.0},
        {"restarts": 1.0},
        {"pids": ((2, 1.0),)},
        {"fds": 6},
        {"threads": 50},
        {"rss": 120 << 20},
    ):
        assert len(differences(before, dataclasses.replace(before, **change))) == 1  # type: ignore[arg-type]


def test_series_are_summed_over_labels_that_are_not_asked_for() -> None:
    text = '# x\na{e="0"} 1.0\na{e="1"} 2.0\nb{state="used"} 3.0\nb{state="free"} 4.0\nab 5\n'
    assert gauges(text, {"a": "a", "b": 'b{state="used"}', "c": "c"}) == {"a": 3.0, "b": 3.0}


def test_a_canary_is_the_same_only_with_the_same_tokens() -> None:
    one = Generated("ab", ("a", "b"), (-1.0, -2.0))
    assert one.same_tokens(dataclasses.replace(one, logprobs=(-1.0, -2.5)))
    assert not one.same_tokens(dataclasses.replace(one, tokens=("ab",)))


def test_an_overloaded_server_is_asked_again_and_that_is_counted() -> None:
    busy = response(503, b"{}").replace(b"X\r\n", b"X\r\nRetry-After: 0\r\n")
    part, row = new_part("catalogue"), RowResult("H01", "")

    async def run() -> None:
        async with scripted(busy) as target:
            one = Case("H01", "x", once(b"x"), GOOD)
            await Sender(Keeper(target), part, {"H01": row}).send_all([one])

    asyncio.run(run())
    assert part.overloads > 1
    assert (row.cases, row.passed, row.unsafe) == (1, 0, 0)


def test_an_answer_that_comes_only_without_others_is_told_apart() -> None:
    """A server that forgets whoever comes beside others."""
    part, row = new_part("catalogue"), RowResult("H01", "")

    async def run() -> None:
        here: set[asyncio.StreamWriter] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if b"/case" in await reader.read(1 << 16):
                here.add(writer)
                await asyncio.sleep(0.1)
                if len(here) > 1:
                    await reader.read()  # until the client leaves
                here.discard(writer)
            writer.write(response(200, b"{}"))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        target = dataclasses.replace(OURS, port=server.sockets[0].getsockname()[1])
        one = Case("H01", "x", once(target.get("/case")), GOOD)
        one = dataclasses.replace(one, manners=dataclasses.replace(one.manners, deadline=0.5))
        await Sender(Keeper(target), part, {"H01": row}).send_all([one] * 3)
        server.close()

    asyncio.run(run())
    assert part.beside >= 1
    assert row.passed == row.cases == 3


def test_results_survive_their_file_and_make_pages(tmp_path: Path) -> None:
    part = new_part("catalogue")
    part.rows = [
        RowResult("H01", "what | it is", 4, 3, 1, kinds={"5xx": 1}, problems=["x: 5xx: 500 `{}`"]),
        RowResult("H71", "ours", applies=False),
    ]
    part.around = Around((1.0, 2.0, 3.0), 9, 1, CanaryCount(5, 4, 1), 2, after=Footing(0, 0, 0, rss=5))
    part.save(tmp_path)
    assert Part.load(tmp_path / "catalogue.json") == part
    own = own_page({"catalogue": part})
    assert "| H01 | what &#124; it is | 4 | **3** |" in own
    assert "5 of 6, 1 **different**" in own
    peers = peers_page({"loopserve": {"catalogue": part}, "llama.cpp": {"catalogue": part}})
    assert "| H01 | what &#124; it is | **3/4** (3) | **3/4** (3) |" in peers
    assert "| H71 | ours | n/a | n/a |" in peers
    assert "500" not in peers  # kinds and counts only


@pytest.mark.timeout(180)
def test_a_small_attack_on_a_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows, mutations, disconnects and comparisons: nothing unsafe, nothing left, honest clients unharmed."""
    monkeypatch.setattr(surroundings, "WARM_UP_MUTATIONS", 60)
    monkeypatch.setattr(surroundings, "LARGE", ())
    make_checkpoint(tmp_path / "model", random_config(), seed=0)
    parts = {name: new_part(name) for name in ("catalogue", "mutations", "disconnects", "exact")}

    async def run() -> None:
        launched = own_server(tmp_path / "model", tmp_path, ("--max-num-seqs", "8", "--threads", "1"))
        keeper = Keeper(await launched.start(), launched)
        try:
            await run_catalogue(keeper, parts["catalogue"], only=FEW_ROWS, seconds=10)
            await run_mutations(keeper, parts["mutations"], count=200, seconds=8)
            await run_disconnects(keeper, parts["disconnects"], count=100, seconds=8)
            await run_exact(keeper, parts["exact"], count=2, seconds=8)
        finally:
            launched.stop()

    started = time.monotonic()
    asyncio.run(run())
    for part in parts.values():
        found = [text for row in part.rows for text in row.problems]
        assert part.passed == part.requests > 0, (part.part, found)
        assert part.around.exits == part.around.hangs == part.around.health_failures == 0
        assert not [text for text in part.around.changed if not text.startswith("memory")], part.part
        assert not part.around.log
        assert not part.around.canaries.different, part.around.canaries
    assert parts["catalogue"].around.canaries.identical
    print(f"{time.monotonic() - started:.0f} s")
