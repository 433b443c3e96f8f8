"""The trial compiler: verdicts, its time and memory, what is remembered, and what its death costs."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import server.grammar_trial as grammar_trial
from server.errors import UnavailableError
from server.grammar_trial import GrammarTrial
from server.grammar_worker import MEMORY_PER_TRIAL
from server.openai.constraints import choice_grammar, json_schema_grammar, lark_grammar, regex_grammar

GOOD = regex_grammar("[ab]{3}")
SLOW = regex_grammar("((a{1000}){1000}){1000}")


def run(checkpoint: Path, work: Callable[[GrammarTrial], Awaitable[Any]], **options: Any) -> Any:
    async def main() -> Any:
        trial = GrammarTrial([str(checkpoint), "320", "2,4"], **{"timeout": 10.0, **options})
        try:
            return await work(trial)
        finally:
            await trial.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    "grammar",
    [
        GOOD,
        lark_grammar('start: "a" | "b" start'),
        choice_grammar(["a", 'quo"te', "back\\slash", "line\nfeed", "🙂é", "/*", "\x01"]),
        json_schema_grammar({}),
        json_schema_grammar({"enum": [f"value {number}" for number in range(3000)]}),
    ],
)
def test_what_compiles_has_no_problem(checkpoint: Path, grammar: str) -> None:
    assert run(checkpoint, lambda trial: trial.problem_of(grammar)) is None


def test_only_what_is_tried_is_timed(checkpoint: Path) -> None:
    found: list[float] = []

    async def work(trial: GrammarTrial) -> None:
        for _ in range(3):
            await trial.problem_of(GOOD)

    run(checkpoint, work, on_trial=found.append)
    assert len(found) == 1
    assert 0 < found[0] < 10


def test_what_does_not_compile_says_why(checkpoint: Path) -> None:
    problem = run(checkpoint, lambda trial: trial.problem_of(lark_grammar("start: missing")))
    assert "missing" in problem
    assert "\n" not in problem


def test_over_time_the_worker_is_killed_and_the_next_grammar_gets_a_new_one(checkpoint: Path) -> None:
    async def work(trial: GrammarTrial) -> None:
        assert await trial.problem_of(GOOD) is None
        first = trial.worker_id
        trial._timeout = 0.001  # shorter than any compilation, so that no machine is too fast
        assert "more than 0.001 s" in (await trial.problem_of(SLOW) or "")
        assert trial.worker_id is None
        assert not psutil.pid_exists(first or 0)
        trial._timeout = 10.0
        assert await trial.problem_of(regex_grammar("c")) is None
        assert trial.worker_id not in (None, first)

    run(checkpoint, work)


def test_a_repeated_grammar_costs_nothing_either_way(checkpoint: Path, monkeypatch) -> None:
    asked = []
    ask = grammar_trial._ask

    async def counted(worker: Any, grammar: bytes) -> str:
        asked.append(grammar)
        return await ask(worker, grammar)

    monkeypatch.setattr(grammar_trial, "_ask", counted)

    async def work(trial: GrammarTrial) -> None:
        for _ in range(3):
            assert await trial.problem_of(GOOD) is None
            assert await trial.problem_of(lark_grammar("nonsense")) is not None
        assert len(asked) == 2
        together = await asyncio.gather(*(trial.problem_of(regex_grammar("x")) for _ in range(9)))
        assert together == [None] * 9
        assert len(asked) == 3

    run(checkpoint, work)


def test_a_grammar_over_time_may_try_again_later(checkpoint: Path) -> None:
    now = [0.0]

    async def work(trial: GrammarTrial) -> None:
        await trial.problem_of(GOOD)
        trial._timeout = 0.0
        assert await trial.problem_of(regex_grammar("x")) is not None
        trial._timeout = 10.0
        assert await trial.problem_of(regex_grammar("x")) is not None
        now[0] += grammar_trial.FAILURE_KEPT_S + 1
        assert await trial.problem_of(regex_grammar("x")) is None

    run(checkpoint, work, clock=lambda: now[0])


def test_verdicts_are_bounded(checkpoint: Path) -> None:
    async def work(trial: GrammarTrial) -> None:
        for letter in "abcde":
            await trial.problem_of(regex_grammar(letter))
        assert len(trial._verdicts) == 3

    run(checkpoint, work, max_verdicts=3)


def test_a_crash_is_the_grammars_fault_and_nobody_elses(checkpoint: Path, monkeypatch) -> None:
    ask = grammar_trial._ask

    async def crash(worker: Any, grammar: bytes) -> str:
        worker.send_signal(signal.SIGKILL)
        return await ask(worker, grammar)

    async def work(trial: GrammarTrial) -> None:
        monkeypatch.setattr(grammar_trial, "_ask", crash)
        assert "memory" in (await trial.problem_of(GOOD) or "")
        monkeypatch.setattr(grammar_trial, "_ask", ask)
        assert await trial.problem_of(regex_grammar("b")) is None

    run(checkpoint, work)


def test_a_worker_that_died_between_grammars_is_replaced(checkpoint: Path) -> None:
    async def work(trial: GrammarTrial) -> None:
        assert await trial.problem_of(GOOD) is None
        os.kill(trial.worker_id or 0, signal.SIGKILL)
        while psutil.pid_exists(trial.worker_id or 0) and trial._worker.returncode is None:
            await asyncio.sleep(0.01)
        assert await trial.problem_of(regex_grammar("b")) is None

    run(checkpoint, work)


def test_a_cancelled_request_leaves_no_answer_to_the_next(checkpoint: Path) -> None:
    async def work(trial: GrammarTrial) -> None:
        await trial.problem_of(GOOD)
        first = asyncio.create_task(trial.problem_of(SLOW))
        await asyncio.sleep(0.02)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert "missing" in (await trial.problem_of(lark_grammar("start: missing")) or "")

    run(checkpoint, work)


def test_a_worker_that_can_not_start_is_no_ones_fault(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        run(tmp_path / "nothing here", lambda trial: trial.problem_of(GOOD))


def test_waiting_for_a_turn_is_bounded(checkpoint: Path, monkeypatch) -> None:
    monkeypatch.setattr(grammar_trial, "QUEUE_TIMEOUT_S", 0.05)

    async def work(trial: GrammarTrial) -> None:
        async with trial._turn:
            with pytest.raises(UnavailableError, match="waiting"):
                await trial.problem_of(GOOD)
        assert await trial.problem_of(GOOD) is None

    run(checkpoint, work)


def test_memory_is_bounded_and_torch_is_not_in_it(checkpoint: Path) -> None:
    async def work(trial: GrammarTrial) -> None:
        await trial.problem_of(GOOD)
        worker = psutil.Process(trial.worker_id)
        soft, _ = worker.rlimit(psutil.RLIMIT_AS)
        assert 0 < soft < worker.memory_info().vms + 2 * MEMORY_PER_TRIAL
        assert not any("torch" in each.path for each in worker.memory_maps())

    run(checkpoint, work)


def test_the_worker_ends_with_the_trial(checkpoint: Path) -> None:
    pids = []

    async def work(trial: GrammarTrial) -> None:
        await trial.problem_of(GOOD)
        pids.append(trial.worker_id)

    began = time.monotonic()
    run(checkpoint, work)
    assert not psutil.pid_exists(pids[0])
    assert time.monotonic() - began < 10
