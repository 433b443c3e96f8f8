"""An exception in one request's work ends that request, and its neighbours get what they would have got without it."""

import json
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import engine.core as core_module
import engine.sampler as sampler_module
from engine.core import MAX_FAILED_STEPS, EngineCore
from engine.errors import EngineDeadError, RequestFailedError
from engine.grammar import make_vocabulary
from engine.grammar_compiler import BackgroundCompiler
from engine.grammar_gate import GrammarGate
from engine.grammar_state import GrammarState
from engine.isolation import bisect, is_fatal
from engine.log_format import JsonFormatter
from engine.runner import StepLogits
from engine.sampler import SamplingState
from engine.tokenizer import Tokenizer
from scheduler.errors import InvariantError
from scheduler.invariants import check_idle
from scheduler.step_plan import StepPlan
from tests.engine.grammars import ImmediateCompiler, regex
from tests.engine.harness import Answer, Driver, checkpoint

MODEL = checkpoint(seed=2, plt_num_loops=3)
PROMPTS = {
    f"good {i}": [(11 * i + 7 * j) % 290 + 10 for j in range(length)] for i, length in enumerate((45, 9, 22))
}
CULPRIT = "culprit"
CULPRITS_PROMPT = [(13 * j) % 290 + 10 for j in range(30)]
VOCABULARY = make_vocabulary(Tokenizer.load(MODEL.path), 320, (2, 4))

Panic: type[BaseException] = type("PanicException", (BaseException,), {})
"""What pyo3 raises when Rust code panics; no `Exception`."""

Logits = dict[tuple[str, int, int], torch.Tensor]
Break = Callable[[Driver, pytest.MonkeyPatch, BaseException], None]


def in_plan(plan: StepPlan, name: str = CULPRIT) -> bool:
    return any(sequence.sequence_id == name for sequence in plan.sequences)


def before_pass(driver: Driver, patch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Of every pass with a row of the culprit."""
    runner = driver.core.model.runner
    run = runner.run

    def broken(plan: StepPlan) -> StepLogits:
        if in_plan(plan):
            raise error
        return run(plan)

    patch.setattr(runner, "run", broken)


def after_pass(driver: Driver, patch: pytest.MonkeyPatch, error: BaseException) -> None:
    runner = driver.core.model.runner
    run = runner.run

    def broken(plan: StepPlan) -> StepLogits:
        result = run(plan)
        if in_plan(plan):
            raise error
        return result

    patch.setattr(runner, "run", broken)


def within_pass(driver: Driver, patch: pytest.MonkeyPatch, error: BaseException) -> None:
    """When the first layer has written its keys and values, and the last has not."""
    runner = driver.core.model.runner
    run, attend = runner.run, runner.model._attend
    breaks = False

    def noting(plan: StepPlan) -> StepLogits:
        nonlocal breaks
        breaks = in_plan(plan)
        return run(plan)

    def broken(layer: Any, *of: Any) -> torch.Tensor:
        if breaks and layer is runner.model.weights.layers[-1]:
            raise error
        return attend(layer, *of)

    patch.setattr(runner, "run", noting)
    patch.setattr(runner.model, "_attend", broken)


def when_choosing(driver: Driver, patch: pytest.MonkeyPatch, error: BaseException) -> None:
    """In the middle of sampling for many at once."""
    adjust = sampler_module.adjust

    def broken(logits: torch.Tensor, states: list[SamplingState]) -> torch.Tensor:
        if CULPRIT in driver.core.active and driver.core.active[CULPRIT].sampling in states:
            raise error
        return adjust(logits, states)

    patch.setattr(sampler_module, "adjust", broken)


def when_masking(driver: Driver, patch: pytest.MonkeyPatch, error: BaseException) -> None:
    patch.setattr(SamplingState, "may_draw", _for_culprit(driver, SamplingState.may_draw, error))


def when_counting(driver: Driver, patch: pytest.MonkeyPatch, error: BaseException) -> None:
    patch.setattr(SamplingState, "count", _for_culprit(driver, SamplingState.count, error))


def when_reporting(driver: Driver, patch: pytest.MonkeyPatch, error: BaseException) -> None:
    report = driver.core._output

    def broken(sequence: Any, sample: Any) -> object:
        output = report(sequence, sample)
        if sequence.sequence_id == CULPRIT:
            raise error
        return output

    patch.setattr(driver.core, "_output", broken)


def _for_culprit(driver: Driver, method: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    def broken(self: SamplingState, *of: Any) -> object:
        if CULPRIT in driver.core.active and driver.core.active[CULPRIT].sampling is self:
            raise error
        return method(self, *of)

    return broken


PASSES: list[Break] = [before_pass, within_pass, after_pass]
BREAKS: list[Break] = [*PASSES, when_choosing, when_masking, when_counting, when_reporting]


def crowd(warm: bool, **options: Any) -> tuple[Driver, Logits]:
    """Some requests under way in small steps, resumed from the prefix cache if `warm`, and a record of their logits."""
    driver = MODEL.driver(max_rows_per_step=24, **options)
    if warm:
        for name, prompt in PROMPTS.items():
            driver.add(name, prompt, max_tokens=1)
        driver.run()
        driver.core.admitted, driver.answers = [], {}
    logits: Logits = {}
    runner = driver.core.model.runner
    run = runner.run

    def recorded(plan: StepPlan) -> StepLogits:
        result = run(plan)
        for i, row in enumerate(result.rows):
            logits[row.sequence.sequence_id, row.loop, row.position] = result.logits[i].clone()
        return result

    runner.run = recorded  # type: ignore[method-assign]
    return driver, logits


def add_crowd(driver: Driver) -> None:
    driver.add("good 0", PROMPTS["good 0"], prompt_logprobs=2, max_tokens=12)
    driver.add("good 1", PROMPTS["good 1"], temperature=1.0, seed=5, presence_penalty=0.5, max_tokens=12)
    driver.add(
        "good 2", PROMPTS["good 2"], temperature=0.7, top_k=9, seed=6, loop_logprobs=True, max_tokens=12
    )


def good_ones(answers: dict[str, Answer]) -> dict[str, Answer]:
    return {name: answer for name, answer in answers.items() if name.startswith("good")}


@pytest.mark.parametrize("steps", [0, 1, 6])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("breaks", BREAKS, ids=lambda breaks: breaks.__name__)
def test_neighbours_get_the_same_bits_as_without_the_culprit(breaks, warm, steps, monkeypatch):
    alone, expected = crowd(warm)
    add_crowd(alone)
    alone.run()
    driver, logits = crowd(warm)
    driver.add(CULPRIT, CULPRITS_PROMPT, temperature=1.0, repetition_penalty=1.1, max_tokens=40, priority=-1)
    add_crowd(driver)
    for _ in range(steps):
        driver.step()
    breaks(
        driver,
        monkeypatch,
        Panic("index out of bounds") if steps == 1 else RuntimeError("/secret/path broke"),
    )
    answers = driver.run()
    culprit = answers[CULPRIT]
    assert (culprit.finish_reason, len(culprit.tokens) <= steps) == ("error", True)
    assert "report it with the request id" in culprit.error
    assert "secret" not in culprit.error
    assert good_ones(answers) == alone.answers
    for key, row in expected.items():
        assert torch.equal(logits[key], row), key
    assert driver.core.stats().isolated_errors_total == 1
    assert not driver.core.active


@pytest.mark.parametrize("breaks", PASSES, ids=lambda breaks: breaks.__name__)
def test_what_a_broken_pass_wrote_is_found_by_nobody(breaks, monkeypatch):
    expected = MODEL.driver().one(CULPRITS_PROMPT).tokens
    driver = MODEL.driver(max_rows_per_step=16)
    driver.add(CULPRIT, CULPRITS_PROMPT)
    with monkeypatch.context() as patch:
        driver.step()
        breaks(driver, patch, ValueError("once"))
        driver.run()
    assert driver.answers[CULPRIT].finish_reason == "error"
    driver.add("again", CULPRITS_PROMPT)
    assert driver.run()["again"].tokens == expected


def test_each_error_is_logged_once_with_its_trace_and_request(monkeypatch, caplog):
    driver, _ = crowd(False)
    add_crowd(driver)
    driver.add(CULPRIT, CULPRITS_PROMPT)
    within_pass(driver, monkeypatch, ZeroDivisionError("the cause"))
    with caplog.at_level(logging.WARNING):
        driver.run()
    (record,) = caplog.records
    assert CULPRIT in record.getMessage()
    assert "forward" in record.getMessage()
    assert "ZeroDivisionError: the cause" in caplog.text
    assert "in broken" in caplog.text


def test_an_errors_line_is_found_by_the_clients_id(monkeypatch, caplog):
    driver, _ = crowd(False)
    driver.add(CULPRIT, CULPRITS_PROMPT)
    active = driver.core.active[CULPRIT]
    active.request = msgspec.structs.replace(active.request, label="the-clients")
    within_pass(driver, monkeypatch, ZeroDivisionError("the cause"))
    with caplog.at_level(logging.WARNING):
        driver.run()
    line = json.loads(JsonFormatter(" (engine)").format(caplog.records[0]))
    assert (line["request_id"], line["process"]) == ("the-clients", "engine")
    assert line["exception"].endswith("ZeroDivisionError: the cause")


def test_an_error_that_does_not_come_again_costs_nobody_anything(monkeypatch, caplog):
    alone, _ = crowd(False)
    add_crowd(alone)
    driver, _ = crowd(False)
    add_crowd(driver)
    runner, fails = driver.core.model.runner, [True]
    run = runner.run

    def broken(plan: StepPlan) -> StepLogits:
        result = run(plan)
        if fails and len(plan.sequences) > 1:
            fails.clear()
            raise RuntimeError
        return result

    monkeypatch.setattr(runner, "run", broken)
    assert driver.run() == alone.run()
    assert driver.core.isolated_errors == 0
    assert "did not come again" in caplog.text


def test_a_batch_too_big_for_the_device_is_computed_in_parts(monkeypatch):
    alone, _ = crowd(False)
    add_crowd(alone)
    driver, _ = crowd(False)
    add_crowd(driver)
    runner = driver.core.model.runner
    run = runner.run

    def small(plan: StepPlan) -> StepLogits:
        if len(plan.sequences) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. CUDA error")
        return run(plan)

    monkeypatch.setattr(runner, "run", small)
    assert driver.run() == alone.run()


@pytest.mark.parametrize(
    "error",
    [
        EngineDeadError("rank 1 is gone"),
        InvariantError("a block is nowhere"),
        torch.AcceleratorError("an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        KeyboardInterrupt(),
        SystemExit(3),
    ],
    ids=repr,
)
@pytest.mark.parametrize("breaks", BREAKS, ids=lambda breaks: breaks.__name__)
def test_what_breaks_the_engine_is_not_blamed_on_a_request(error, breaks, monkeypatch):
    driver, _ = crowd(False)
    add_crowd(driver)
    driver.add(CULPRIT, CULPRITS_PROMPT)
    breaks(driver, monkeypatch, error)
    with pytest.raises(type(error)):
        driver.run()


def test_a_model_split_over_ranks_is_not_tried_again(monkeypatch):
    driver, _ = crowd(False)
    add_crowd(driver)
    followers = driver.core.model.runner.followers
    monkeypatch.setattr(type(followers), "is_empty", False)
    runs = []

    def broken(plan: StepPlan) -> StepLogits:
        runs.append(plan)
        raise RuntimeError("on this rank only")

    monkeypatch.setattr(driver.core.model.runner, "run", broken)
    with pytest.raises(RuntimeError, match="on this rank only"):
        driver.step()
    assert len(runs) == 1


def test_an_engine_that_fails_whatever_it_is_given_ends(monkeypatch):
    driver, _ = crowd(False)
    add_crowd(driver)

    def broken(*of: object) -> torch.Tensor:
        raise RuntimeError("broken for good")

    monkeypatch.setattr(driver.core.model.runner, "compute", broken)
    for number in range(MAX_FAILED_STEPS - 1):
        driver.add(f"next {number}", CULPRITS_PROMPT)
        driver.step()
    driver.add("last", CULPRITS_PROMPT)
    with pytest.raises(RuntimeError, match="broken for good"):
        driver.step()
    assert driver.passes == MAX_FAILED_STEPS - 1


@pytest.mark.parametrize("breaks", BREAKS, ids=lambda breaks: breaks.__name__)
def test_a_bad_request_sent_again_and_again_does_not_end_the_engine(breaks, monkeypatch):
    driver = MODEL.driver()
    breaks(driver, monkeypatch, RuntimeError("always"))
    for _ in range(4 * MAX_FAILED_STEPS):
        driver.add(CULPRIT, CULPRITS_PROMPT)
        assert driver.run()[CULPRIT].finish_reason == "error"
    driver.add("good", PROMPTS["good 1"])
    assert driver.run()["good"].tokens == MODEL.driver().one(PROMPTS["good 1"]).tokens


def test_a_working_engine_is_told_from_a_broken_one_even_when_full(monkeypatch):
    driver, _ = crowd(False)
    add_crowd(driver)
    driver.step()
    core = driver.core
    used = core.scheduler.blocks.used
    assert core_module.engine_works(core.scheduler, core.model.runner)
    assert core.scheduler.blocks.used == used
    monkeypatch.setattr(core.scheduler.blocks, "allocate", lambda count: None)
    monkeypatch.setattr(type(core.scheduler.blocks), "available", 0)
    assert core_module.engine_works(core.scheduler, core.model.runner)


@pytest.mark.parametrize("error", [MemoryError(), Panic("grammar")], ids=repr)
def test_a_request_that_can_not_begin_fails_alone(error, monkeypatch):
    driver, _ = crowd(False)
    add_crowd(driver)

    def broken(*of: object) -> SamplingState:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(SamplingState, "begin", broken)
        with pytest.raises(RequestFailedError, match="admission stage"):
            driver.add(CULPRIT, CULPRITS_PROMPT)
    with monkeypatch.context() as patch:
        patch.setattr(driver.core.scheduler, "add", broken)
        with pytest.raises(RequestFailedError):
            driver.add(CULPRIT, CULPRITS_PROMPT)
    assert driver.core.isolated_errors == 2
    driver.add(CULPRIT, CULPRITS_PROMPT)  # its id is free again
    assert {answer.finish_reason for answer in driver.run().values()} == {"length"}


@pytest.mark.parametrize("method", ["allow", "accept"])
@pytest.mark.parametrize("error", [RuntimeError("llguidance"), Panic("llguidance")], ids=repr)
def test_a_grammar_that_breaks_fails_its_request(method, error, monkeypatch):
    alone, _ = crowd(False)
    add_crowd(alone)
    driver, _ = crowd(False)
    driver.core.gate = GrammarGate(ImmediateCompiler(VOCABULARY))
    add_crowd(driver)
    driver.add(CULPRIT, CULPRITS_PROMPT, grammar=regex("[ab]{5}"))

    def broken(*of: object) -> bool:
        raise error

    monkeypatch.setattr(GrammarState, method, broken)
    answers = driver.run()
    assert answers[CULPRIT].finish_reason == "error"
    assert good_ones(answers) == alone.run()


@pytest.mark.parametrize("error", [RuntimeError("llguidance"), Panic("llguidance")], ids=repr)
def test_a_grammar_whose_compilation_breaks_fails_its_request_and_the_compiler_goes_on(error, monkeypatch):
    driver = MODEL.driver()
    driver.core.gate = GrammarGate(BackgroundCompiler(lambda: VOCABULARY))

    def broken(*of: object) -> GrammarState:
        raise error

    def compiled(name: str) -> Answer:
        driver.add(name, CULPRITS_PROMPT, grammar=regex("[ab]{5}"))
        while driver.core.compiling or driver.core.has_work:
            driver.step()
        return driver.answers[name]

    with monkeypatch.context() as patch:
        patch.setattr("engine.grammar_compiler.CompiledGrammars.state", broken)
        assert "grammar stage" in (compiled(CULPRIT).error or "")
    assert compiled("good").finish_reason == "stop"
    assert driver.core.isolated_errors == 1
    check_idle(driver.core.scheduler)


def test_two_culprits_at_two_stages_in_one_step(monkeypatch):
    alone, _ = crowd(False)
    add_crowd(alone)
    driver, _ = crowd(False, max_num_seqs=8)
    add_crowd(driver)
    driver.add(CULPRIT, CULPRITS_PROMPT)
    before_pass(driver, monkeypatch, RuntimeError("one"))
    driver.add("other", PROMPTS["good 1"])
    report = EngineCore._output

    def broken(self: EngineCore, sequence: Any, sample: Any) -> object:
        if sequence.sequence_id == "other":
            raise RuntimeError("two")
        return report(self, sequence, sample)

    monkeypatch.setattr(EngineCore, "_output", broken)
    answers = driver.run()
    assert "forward stage" in answers[CULPRIT].error
    assert "output stage" in answers["other"].error
    assert good_ones(answers) == alone.run()


@given(culprits=st.sets(st.integers(0, 40)), count=st.integers(0, 40))
def test_bisection_finds_the_culprits_and_no_one_else(culprits, count):
    items, passes = list(range(count)), []

    def compute(part: list[int]) -> list[int]:
        passes.append(part)
        if bad := culprits.intersection(part):
            raise ValueError(bad)
        return [-item for item in part]

    done, failed = bisect(items, compute)
    assert [item for item, _ in failed] == [item for item in items if item in culprits]
    assert all(error.args == ({item},) for item, error in failed)
    assert [item for part, _ in done for item in part] == [item for item in items if item not in culprits]
    assert all(result == [-item for item in part] for part, result in done)
    assert len(passes) <= 1 + 2 * len(failed) * max(1, count).bit_length()


def test_exceptions_of_other_kinds_are_fatal():
    assert is_fatal(GeneratorExit())
    assert is_fatal(type("OtherError", (BaseException,), {})())
    assert not is_fatal(Panic())
    assert not is_fatal(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
