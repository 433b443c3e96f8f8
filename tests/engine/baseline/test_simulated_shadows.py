"""Shadow passes in the simulation, where H at a position is a number that only exact reading gives.

A shadow pass that overwrites what a later loop still reads, or leaves something that the real pass doesn't overwrite,
gives wrong tokens there.
"""

import logging
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

import tools.simulation.episode as episode_module
from engine.baseline.decode_watch import DecodeWatch
from engine.baseline.ratio_table import RatioTable
from engine.core import EngineCore
from tools.simulation.curses import Curses
from tools.simulation.episode import Episode
from tools.simulation.hash_runner import Fault, make_core
from tools.simulation.memory import Memory
from tools.simulation.setting import Setting

EPISODES = 20
MOST_STEPS = 200


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """The engine logs each error that it is given."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class SteppingClock:
    """Every look at it is a second later."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


class ShadowingBaseline:
    """The part of a baseline that is about passes; every decode pass has a shadow."""

    calibrating = False

    def __init__(self, core: EngineCore) -> None:
        scheduler = core.scheduler
        table = RatioTable(scheduler.layout.num_loops, [])
        table.observe = lambda *of: None  # type: ignore[method-assign]
        self.watch = DecodeWatch(core.model.runner, scheduler.limits.execution, table, SteppingClock(), 1)
        self.run = self.watch.run

    @property
    def times(self) -> object:
        return self.watch.times


def test_no_token_differs_and_no_block_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    shadows = 0

    def with_shadows(setting: Setting, fault: Fault, curses: Curses) -> tuple[EngineCore, Memory]:
        nonlocal shadows
        core, memory = make_core(setting, fault, curses)
        baseline = ShadowingBaseline(core)
        core.baseline = baseline  # type: ignore[assignment]
        shadow = baseline.watch._shadow

        def counting(plan: object) -> float | None:
            nonlocal shadows
            shadows += 1
            return shadow(plan)  # type: ignore[arg-type]

        baseline.watch._shadow = counting  # type: ignore[assignment, method-assign]
        return core, memory

    monkeypatch.setattr(episode_module, "make_core", with_shadows)
    for number in range(EPISODES):
        rng = random.Random(number)
        setting = Setting.draw(rng)
        setting = replace(setting, steps=min(setting.steps, MOST_STEPS))
        Episode(setting, rng).run()
    assert shadows > 300
