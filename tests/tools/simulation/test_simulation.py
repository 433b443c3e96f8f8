"""The simulator finds nothing in the engine, and something in every broken engine."""

import logging
import os
from collections.abc import Callable
from itertools import islice

import pytest
import torch

import tools.simulation.episode as episode_module
from tests.tools.simulation.mutations import CONTENT_MUTATIONS, MUTATIONS, SUITED, Mutation
from tools.simulation.episode import Totals, run_episode, run_seed, seeded
from tools.simulation.failure import SimulationError
from tools.simulation.many import Effort, run_many
from tools.simulation.results import Chunk, Results, page
from tools.simulation.setting import Setting

STEPS = int(os.environ.get("SIMULATION_STEPS", "200000"))
MOST_EPISODES = 40  # in which a broken engine must be found out


@pytest.fixture(autouse=True)
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def silence() -> object:
    """The engine logs each error that it is given."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_wrong(seed: int) -> None:
    totals = run_seed(seed, STEPS // 4)
    assert totals.steps >= STEPS // 4
    faults = (totals.restarts, totals.exceptions, totals.hiccups)
    for happened in (totals.aborts, totals.preemptions, totals.evictions, *faults):
        assert happened > STEPS // 20000
    assert totals.restored > 0
    assert totals.recomputed > 0
    assert totals.finished > totals.steps // 50


def test_an_episode_can_be_replayed() -> None:
    assert run_episode(5, 1) == run_episode(5, 1)
    assert run_episode(5, 1) != run_episode(5, 2)


def test_overtaking_by_the_urgent_is_no_starvation() -> None:
    """In this episode urgent requests come and end within a turn, so that one of low priority waits 19 turns."""
    assert run_episode(65, 27).steps > 0


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_bugs_are_found(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    with pytest.raises(SimulationError):
        _run_episodes(SUITED.get(mutation, lambda setting: True))


@pytest.mark.parametrize("mutation", CONTENT_MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_wrong_reading_gives_wrong_tokens(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a look at the books or at the cache's contents."""
    monkeypatch.setattr(episode_module, "check", lambda scheduler: None)
    monkeypatch.setattr(episode_module, "_check_contents", lambda *of: None)
    mutation(monkeypatch)
    with pytest.raises(SimulationError, match=r"WrongResultError: (token|logprob|loop logprobs)"):
        _run_episodes(lambda setting: True)


def test_a_failure_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[0](monkeypatch)
    with pytest.raises(SimulationError, match=r"python -m tools\.simulation --seed 0 --episode 0"):
        run_episode(0, 0)


def test_a_long_run_goes_on_where_it_stopped(tmp_path) -> None:
    results = Results(tmp_path / "kept" / "chunks.jsonl")
    results.add(Chunk(0, 2.0, Totals(episodes=3, steps=100, longest_wait=0.5)))
    results.add(Chunk(1, 3.0, Totals(episodes=1, steps=20, longest_wait=0.25), "token 3 is 1\nmore"))
    again = Results.load(results.path)
    assert again.chunks == results.chunks
    assert again.totals == Totals(episodes=4, steps=120, longest_wait=0.5)
    text = page(again, "a machine", "abc")
    assert "| steps of the engine | 120 |" in text
    assert "* seed 1: `token 3 is 1`" in text
    assert "24 steps per CPU second" in text


def test_many_seeds_are_run_until_there_are_enough_steps(tmp_path) -> None:
    kept, effort = tmp_path / "chunks.jsonl", Effort(7, steps=600, jobs=2, seconds=60, seed_steps=300)
    assert not run_many(Results.load(kept), effort, tmp_path / "page.md")
    results = Results.load(kept)
    assert sorted(chunk.seed for chunk in results.chunks) == [7, 8]
    assert results.totals.steps >= 600
    assert "| requests |" in (tmp_path / "page.md").read_text()
    assert not run_many(results, effort, tmp_path / "page.md")
    assert len(Results.load(kept).chunks) == 2


def _run_episodes(suits: Callable[[Setting], bool]) -> None:
    suitable = (n for n in range(10_000) if suits(Setting.draw(seeded(0, n))))
    for number in islice(suitable, MOST_EPISODES):
        run_episode(0, number)
