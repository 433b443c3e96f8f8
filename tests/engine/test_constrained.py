"""Constrained answers of the whole engine: valid in any crowd, and the crowd doesn't notice."""

import re
import time

import pytest
import torch

from engine.core import EngineCore
from engine.errors import InvalidRequestError
from engine.grammar import make_vocabulary
from engine.grammar_gate import GrammarGate
from engine.runner import StepLogits
from engine.sampler import SamplingState, adjust
from engine.sampling_params import MAX_GRAMMAR_CHARS, SamplingParams
from engine.tokenizer import Tokenizer
from scheduler.invariants import check_idle
from tests.engine.grammars import (
    BOUNDED,
    HeldCompiler,
    ImmediateCompiler,
    is_bounded,
    json_grammar,
    regex,
)
from tests.engine.harness import Answer, Driver, checkpoint

MODEL = checkpoint(seed=2, plt_num_loops=3)
ENDS = (2, 4)
PROMPT = [(11 * i) % 290 + 10 for i in range(45)]
TOKENIZER = Tokenizer.load(MODEL.path)
VOCABULARY = make_vocabulary(TOKENIZER, 320, ENDS)
JSON = json_grammar(BOUNDED)


def driver(compiler: ImmediateCompiler | None = None, **options: object) -> Driver:
    """A core that compiles grammars on the spot."""
    made = MODEL.driver(**options)
    made.core.gate = GrammarGate(compiler or ImmediateCompiler(VOCABULARY))
    return made


def text_of(answer: Answer) -> str:
    tokens = answer.tokens[:-1] if answer.stop_token_id is not None else answer.tokens
    return b"".join(map(TOKENIZER.token_bytes, tokens)).decode()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("stops", [ENDS, ()])
def test_every_answer_is_valid_and_neighbours_stay_as_they_were(temperature, stops):
    alone = {
        f"free {seed}": MODEL.driver().one(PROMPT[seed:], seed=seed, temperature=1.0, max_tokens=30)
        for seed in range(3)
    }
    crowd = driver(max_num_seqs=8, kv_cache_memory=32 << 20)
    for seed in range(3):
        crowd.add(f"free {seed}", PROMPT[seed:], seed=seed, temperature=1.0, max_tokens=30)
        for kind, grammar in (("json", JSON), ("regex", regex("[ab]{2,9}(c|de)"))):
            crowd.add(
                f"{kind} {seed}",
                PROMPT[: 9 + seed],
                grammar=grammar,
                seed=seed,
                temperature=temperature,
                max_tokens=300,
                stop_token_ids=stops,
                logit_bias=dict.fromkeys(range(10, 200), -100.0),
                repetition_penalty=1.7,
                presence_penalty=1.0,
            )
    answers = crowd.run()
    for name, answer in answers.items():
        if name.startswith("free"):
            assert answer.tokens == alone[name].tokens
            continue
        assert answer.finish_reason == "stop", answer
        text = text_of(answer)
        assert is_bounded(text) if name.startswith("json") else re.fullmatch("[ab]{2,9}(c|de)", text)


def test_a_complete_answer_ends_without_an_end_token():
    answer = driver().one(PROMPT, grammar=regex("abc"), max_tokens=50)
    assert (text_of(answer), answer.finish_reason, answer.stop_token_id) == ("abc", "stop", None)
    assert len(answer.tokens) == 3


def test_an_end_token_that_the_model_chose_is_reported_as_one():
    favoured = dict.fromkeys(ENDS, 100.0)
    answer = driver().one(PROMPT, grammar=regex("a*"), stop_token_ids=ENDS, logit_bias=favoured)
    assert answer.tokens == [answer.stop_token_id]
    assert answer.stop_token_id in ENDS


def test_end_tokens_that_do_not_stop_are_left_out_while_anything_else_is_allowed():
    favoured = dict.fromkeys(ENDS, 100.0)
    answer = driver().one(PROMPT, grammar=regex("a{0,5}"), logit_bias=favoured, max_tokens=20)
    assert (text_of(answer), answer.finish_reason) == ("aaaaa", "stop")


def test_min_tokens_holds_as_long_as_the_grammar_lets_it():
    common = {"stop_token_ids": ENDS, "logit_bias": {2: 100.0}, "max_tokens": 20}
    assert text_of(driver().one(PROMPT, grammar=regex("a*"), min_tokens=7, **common)) == "a" * 7
    short = driver().one(PROMPT, grammar=regex("a{1,3}"), min_tokens=7, **common)
    assert (text_of(short), short.finish_reason) == ("aaa", "stop")


def test_a_custom_stop_token_still_stops():
    (a,) = TOKENIZER.encode("a", add_special_tokens=False)
    answer = driver().one(PROMPT, grammar=regex("a{5}"), stop_token_ids=(a,))
    assert (answer.finish_reason, answer.stop_token_id, answer.tokens) == ("stop", a, [a])


def test_an_empty_answer_is_an_answer():
    answer = driver().one(PROMPT, grammar=regex(""), stop_token_ids=ENDS)
    assert (text_of(answer), answer.finish_reason) == ("", "stop")


def test_max_tokens_cuts():
    answer = driver().one(PROMPT, grammar=regex("a{9}"), max_tokens=4)
    assert (text_of(answer), answer.finish_reason) == ("aaaa", "length")
    exact = driver().one(PROMPT, grammar=regex("a{4}"), max_tokens=4)
    assert (text_of(exact), exact.finish_reason) == ("aaaa", "stop")


def test_prompt_only_requests_need_no_grammar():
    answer = driver().one(PROMPT, grammar="nonsense", max_tokens=0, prompt_logprobs=0)
    assert answer.finish_reason == "length"
    assert len(answer.prompt_logprobs) == len(PROMPT)


def test_logprobs_are_of_the_raw_distribution():
    free = MODEL.driver().one(PROMPT, max_tokens=1, logprobs=20)
    bound = driver().one(PROMPT, grammar=regex("[ab]"), max_tokens=1, logprobs=20)
    assert bound.logprobs[0].top == free.logprobs[0].top
    assert bound.logprobs[0].logprob <= free.logprobs[0].logprob


def test_each_choice_has_its_own_copy():
    made = driver()
    for seed in range(4):
        made.add(str(seed), PROMPT, grammar=JSON, seed=seed, temperature=1.0, max_tokens=300)
    answers = made.run()
    assert all(is_bounded(text_of(answer)) for answer in answers.values())
    assert len({text_of(answer) for answer in answers.values()}) > 1


def test_preemption_neither_rewinds_nor_feeds_twice():
    def answers(**options):
        made = driver(max_num_seqs=4, **options)
        for seed in range(4):
            made.add(
                str(seed),
                PROMPT[seed:],
                grammar=regex("[a-f]{80}"),
                seed=seed,
                temperature=1.0,
                max_tokens=99,
            )
        return made.run(), made.core.scheduler.totals.preemptions

    roomy, none = answers(kv_cache_memory=32 << 20)
    tight, some = answers(kv_cache_memory=300_000)
    assert none == 0
    assert some > 0
    assert {name: answer.tokens for name, answer in tight.items()} == {
        name: answer.tokens for name, answer in roomy.items()
    }


def test_a_bad_grammar_ends_its_request_alone():
    made = driver()
    made.add("bad", PROMPT, grammar="nonsense")
    made.add("good", PROMPT, grammar=regex("ab"))
    answers = made.run()
    assert answers["bad"].finish_reason == "error"
    assert "grammar" in answers["bad"].error
    assert text_of(answers["good"]) == "ab"


def test_a_grammar_that_gives_up_midway_ends_its_request_alone(monkeypatch):
    made = driver()
    made.add("bad", PROMPT, grammar=regex("a{9}"), max_tokens=20)
    made.add("good", PROMPT, grammar=regex("b{9}"), max_tokens=20)
    for _ in range(4):
        made.step()
    made.core.active["bad"].sampling.grammar.accept(319)  # what no mask would have let through
    outputs = []
    while made.core.has_work:
        outputs += made.core.step()
    check_idle(made.core.scheduler)
    (error,) = [output for output in outputs if output.request_id == "bad"]
    assert (error.finish_reason, error.invalid, error.token_ids) == ("error", True, [])
    assert "grammar" in error.error
    assert [output.finish_reason for output in outputs if output.request_id == "good"][-1] == "stop"


def test_numbers_that_are_none_are_still_our_fault(monkeypatch):
    made = driver()
    made.add("a", PROMPT, grammar=regex("a{9}"))
    run = made.core.model.runner.run

    def broken(plan):
        result = run(plan)
        return StepLogits(result.rows, torch.full_like(result.logits, torch.nan))

    monkeypatch.setattr(made.core.model.runner, "run", broken)
    (output,) = next(outputs for outputs in iter(made.core.step, None) if outputs)
    assert (output.finish_reason, output.invalid) == ("error", False)


def test_a_request_waits_for_its_grammar_while_others_step():
    compiler = HeldCompiler(VOCABULARY)
    made = driver(compiler)
    made.add("held", PROMPT, grammar=regex("ab"))
    assert not made.core.has_work
    assert made.core.compiling
    assert made.core.step() == []
    with pytest.raises(InvalidRequestError, match="in use"):
        made.add("held", PROMPT)
    assert made.core.stats().waiting == 1
    made.add("free", PROMPT, max_tokens=3)
    while made.core.has_work:
        made.step()
    assert made.answers["free"].finish_reason == "length"
    assert made.answers["held"].tokens == []
    compiler.release()
    assert made.core.has_work
    assert text_of(made.run()["held"]) == "ab"
    assert not made.core.compiling


def test_abort_while_waiting_leaves_nothing():
    compiler = HeldCompiler(VOCABULARY)
    made = driver(compiler)
    made.add("held", PROMPT, grammar=regex("ab"))
    made.core.abort("held")
    assert not made.core.compiling
    compiler.release()
    assert not made.core.has_work
    assert made.core.step() == []
    check_idle(made.core.scheduler)


def test_the_engine_compiles_in_the_background_by_itself():
    made = MODEL.driver()
    made.add("a", PROMPT, grammar=regex("ab"))
    deadline = time.monotonic() + 30
    while made.core.has_work or made.core.compiling:
        assert time.monotonic() < deadline
        made.step() if made.core.has_work else time.sleep(0.001)
    assert text_of(made.answers["a"]) == "ab"


def test_an_engine_without_a_compiler_refuses():
    core = EngineCore(MODEL.core().model)
    with pytest.raises(InvalidRequestError, match="without grammars"):
        Driver(core).add("a", PROMPT, grammar=regex("ab"))
    with pytest.raises(InvalidRequestError, match="longer than"):
        driver().add("a", PROMPT, grammar="x" * (MAX_GRAMMAR_CHARS + 1))


def test_masked_rows_leave_the_others_bit_for_bit():
    logits = torch.randn(3, 320)
    params = SamplingParams(max_tokens=5, seed=0)
    grammar = ImmediateCompiler(VOCABULARY).compile(regex("[ab]x")).result()
    states = [SamplingState(params), SamplingState(params, grammar=grammar), SamplingState(params)]
    assert all(state.may_draw() for state in states)
    masked = adjust(logits, states)
    assert torch.equal(masked[[0, 2]], logits[[0, 2]])
    left = torch.isfinite(masked[1])
    assert {TOKENIZER.token_bytes(i) for i in left.nonzero().flatten().tolist()} == {b"a", b"b"}
    assert torch.equal(masked[1][left], logits[1][left])
