"""The loop alone, with messages from a list and no transport."""

import pytest

from engine.engine_loop import (
    COMPILING_WAIT_S,
    EXIT_CRASHED,
    EXIT_MODEL_ERROR,
    EXIT_OK,
    IDLE_WAIT_S,
    run_engine,
    run_loop,
)
from engine.messages import (
    Abort,
    CacheMap,
    Calibrate,
    DescribeCache,
    EngineFailed,
    EngineReady,
    FromEngine,
    RequestOutput,
    Shutdown,
    StepOutputs,
    StepShape,
    ToEngine,
)
from engine.options import EngineOptions
from tests.engine.fake_core import BREAK_ADD, BREAK_STEP, CALIBRATED, REFUSE, FakeCore, fake_request


class Script:
    """Gives the loop its messages turn by turn and records what it does."""

    def __init__(self, turns: list[list[ToEngine]]) -> None:
        self.turns = turns
        self.waits: list[float] = []
        self.sent: list[FromEngine] = []
        self.beats = 0

    def run(self, model_dir: str = "") -> int:
        options = EngineOptions(model_dir=model_dir)
        return run_engine(lambda: FakeCore.load(options, False), self.receive, self.sent.append, self.beat)

    def receive(self, wait: float) -> list[ToEngine]:
        self.waits.append(wait)
        return self.turns.pop(0) if self.turns else [Shutdown()]

    def beat(self) -> None:
        self.beats += 1

    @property
    def steps(self) -> list[StepOutputs]:
        return [message for message in self.sent if isinstance(message, StepOutputs)]

    @property
    def outputs(self) -> list[RequestOutput]:
        return [output for step in self.steps for output in step.outputs]


def test_request_runs_to_its_end_and_the_last_stats_are_idle() -> None:
    script = Script([[fake_request("a", [5], 3)], [], [], [], []])
    assert script.run() == EXIT_OK
    assert isinstance(script.sent[0], EngineReady)
    assert [output.token_ids for output in script.outputs] == [[6], [7], [8]]
    assert script.outputs[-1].finish_reason == "length"
    assert script.steps[-1].stats.running == 0
    assert script.steps[0].stats.step_seconds > 0
    assert len(script.steps) <= 4, "an idle engine is silent"


def test_waits_only_when_idle_and_beats_every_turn() -> None:
    script = Script([[], [fake_request("a", [5], 2)], [], [], []])
    script.run()
    assert script.waits[:4] == [IDLE_WAIT_S, IDLE_WAIT_S, 0.0, IDLE_WAIT_S]
    assert script.beats == 1 + 5


def test_looks_often_but_never_spins_while_a_grammar_compiles() -> None:
    script = Script([[], [fake_request("a", [5], 1)], []])
    core = FakeCore()
    core.compiling = True
    run_loop(core, script.receive, script.sent.append, script.beat)
    assert script.waits == [COMPILING_WAIT_S] * 4
    assert 0 < COMPILING_WAIT_S < IDLE_WAIT_S


def test_refused_and_unaddable_requests_end_alone() -> None:
    script = Script(
        [[fake_request("bad", [REFUSE]), fake_request("odd", [BREAK_ADD]), fake_request("good", [1], 1)]]
    )
    assert script.run() == EXIT_OK
    by_id = {output.request_id: output for output in script.outputs}
    assert (by_id["bad"].finish_reason, by_id["bad"].invalid) == ("error", True)
    assert by_id["bad"].error == "refused by the fake core"
    assert (by_id["odd"].finish_reason, by_id["odd"].invalid) == ("error", False)
    assert "broken add" not in (by_id["odd"].error or ""), "internals stay inside"
    assert by_id["good"].token_ids == [2]


def test_abort_stops_output_and_reports_idle() -> None:
    script = Script([[fake_request("a", [5], 100)], [Abort(["a", "unknown"])], []])
    script.run()
    assert len(script.outputs) == 1
    assert script.steps[-1].stats.running == 0
    assert script.steps[-1].stats.step_seconds == 0
    assert [step.stats.admitted for step in script.steps] == [["a"], []], "an admission is reported once"
    assert script.steps[0].stats.step.rows
    assert script.steps[-1].stats.step == StepShape(), "nor is a step"


def test_exception_in_step_is_fatal_and_says_so() -> None:
    script = Script([[fake_request("a", [BREAK_STEP])], [], []])
    assert script.run() == EXIT_CRASHED
    last = script.sent[-1]
    assert isinstance(last, EngineFailed)
    assert not last.model_error
    assert "RuntimeError: broken step" in last.message


def test_a_request_refused_and_aborted_in_one_turn_gets_nothing() -> None:
    script = Script([[fake_request("a", [REFUSE]), fake_request("b", [BREAK_ADD]), Abort(["a"])]])
    script.run()
    assert [output.request_id for output in script.outputs] == ["b"]


@pytest.mark.parametrize("where", ["add", "step"])
@pytest.mark.parametrize("kind", [RuntimeError, type("PanicException", (BaseException,), {})])
def test_what_a_core_does_not_keep_in_ends_it_with_a_message(kind, where, monkeypatch) -> None:
    def broken(*of: object) -> None:
        raise kind("out of order")

    monkeypatch.setattr(FakeCore, where, broken)
    monkeypatch.setattr(FakeCore, "has_work", True)
    script = Script([[fake_request("a", [1])], [], []])
    assert script.run() == EXIT_CRASHED
    last = script.sent[-1]
    assert isinstance(last, EngineFailed)
    assert f"{kind.__name__}: out of order" in last.message


def test_an_interrupt_is_not_reported_as_a_crash(monkeypatch) -> None:
    def broken(self: FakeCore) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeCore, "step", broken)
    with pytest.raises(KeyboardInterrupt):
        Script([[fake_request("a", [1])], [], []]).run()


def test_model_error_is_one_line_with_its_own_code() -> None:
    script = Script([])
    assert script.run("missing") == EXIT_MODEL_ERROR
    assert script.sent == [EngineFailed("No such model.", True)]


def test_other_load_errors_are_crashes() -> None:
    script = Script([])
    assert script.run("broken") == EXIT_CRASHED
    assert isinstance(script.sent[0], EngineFailed)
    assert not script.sent[0].model_error


def test_a_calibration_takes_turns_with_steps_and_its_end_is_told() -> None:
    script = Script([[fake_request("a", [5], 2)], [Calibrate()], [], [], []])
    script.run()
    kinds = [type(message).__name__ for message in script.sent]
    assert kinds == ["EngineReady", "StepOutputs", "StepOutputs", "StepOutputs", "Calibrated"]
    assert script.sent[-1] == CALIBRATED
    assert script.waits[2:4] == [0.0] * 2, "a calibration is not slowed down by an idle engine's patience"
    assert script.waits[4] == IDLE_WAIT_S


def test_a_result_of_the_start_is_told_at_once() -> None:
    script, core = Script([[], []]), FakeCore()
    core.pairs_left = 1
    run_loop(core, script.receive, script.sent.append, script.beat)
    assert script.sent == [CALIBRATED]
    assert script.waits[:2] == [0.0, IDLE_WAIT_S]


def test_the_cache_is_described_between_steps() -> None:
    script = Script(
        [[fake_request("a", [5], 3), DescribeCache()], [DescribeCache()], [], [], [DescribeCache()]]
    )
    assert script.run() == EXIT_OK
    maps = [message for message in script.sent if isinstance(message, CacheMap)]
    assert [drawn.states[0].blocks for drawn in maps] == [1, 1, 0]
    assert [output.token_ids for output in script.outputs] == [[6], [7], [8]]
    assert script.waits[-1] == IDLE_WAIT_S, "an engine that only answers is idle"


def test_a_cache_that_cannot_be_described_costs_nobody_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeCore, "cache_map", lambda self: 1 // 0)
    script = Script([[fake_request("a", [5], 3)], [DescribeCache()], [], []])
    assert script.run() == EXIT_OK
    assert [output.token_ids for output in script.outputs] == [[6], [7], [8]]
    assert not any(isinstance(message, CacheMap) for message in script.sent)
