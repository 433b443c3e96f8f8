"""An exception, or a panic of a Rust library, in one request's work: it gets a typed 500, and a neighbour its answer.

Row H90 of the hostile catalogue, at every stage of the API process and of the engine behind it.
"""

import asyncio
import dataclasses
import inspect
import json
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from engine.core import EngineCore
from engine.grammar_state import GrammarState
from engine.isolation import failure_text
from engine.options import EngineOptions
from engine.runner import StepLogits
from engine.sampler import SamplingState
from engine.thread_host import ThreadHost
from engine.tokenizer import StreamDecoder, Tokenizer
from scheduler.step_plan import StepPlan
from server.chat_template import ChatTemplate
from server.detokenize import TextAssembler
from server.engine_client import EngineClient
from server.grammar_trial import GrammarTrial
from server.openai.answers import Answer, Usage
from server.openai.chat_reader import ChoiceReader
from server.state import AppState
from tests.server.played import Played, events, hangs, says

Panic: type[BaseException] = type("PanicException", (BaseException,), {})
ERRORS = [RuntimeError("/secret/path"), Panic("secret: index out of bounds")]

is_culprit: ContextVar[bool] = ContextVar("is_culprit", default=False)

STAGES = [
    (Tokenizer, "encode"),
    (ChatTemplate, "render"),
    (GrammarTrial, "problem_of"),
    (StreamDecoder, "push"),
    (TextAssembler, "_take"),
    (ChoiceReader, "read"),
    (Usage, "count"),
]
"""What is done for one request, in order."""

BODY = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 20,
    "seed": 3,
    "structured_outputs": {"regex": "[a-z ]*"},
    "stop": ["zzz"],
}


def break_for_culprit(
    patch: pytest.MonkeyPatch, owner: type, name: str, error: BaseException, spared: int = 0
) -> None:
    """Let a method raise when a culprit's request gets to it, after so many calls."""
    method, left = getattr(owner, name), [spared]

    def meet() -> None:
        if is_culprit.get():
            left[0] -= 1
            if left[0] < 0:
                raise error

    def broken(self: object, *of: Any, **options: Any) -> object:
        meet()
        return method(self, *of, **options)

    async def broken_async(self: object, *of: Any, **options: Any) -> object:
        meet()
        return await method(self, *of, **options)

    patch.setattr(owner, name, broken_async if inspect.iscoroutinefunction(method) else broken)


async def ask_both(
    app: FastAPI, path: str, culprits: dict[str, Any], good: dict[str, Any]
) -> tuple[httpx.Response, httpx.Response]:
    """Two requests at once, of which only one can be told to be the culprit's."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://tiny", timeout=60) as client:

        async def ask(body: dict[str, Any], culprit: bool) -> httpx.Response:
            is_culprit.set(culprit)
            return await client.post(path, json=body)

        bad, fine = await asyncio.gather(
            asyncio.create_task(ask(culprits, culprit=True)), asyncio.create_task(ask(good, culprit=False))
        )
        assert (await client.get("/health")).status_code == 200
        return bad, fine


def assert_500(response: httpx.Response) -> None:
    assert response.status_code == 500
    assert response.json() == {
        "error": {
            "message": "Internal server error.",
            "type": "server_error",
            "param": None,
            "code": "internal_error",
        }
    }
    assert response.headers["x-request-id"]


def assert_error_event(response: httpx.Response) -> None:
    assert response.status_code == 200
    *_, last = events(response.content)
    assert last["error"]["code"] == "internal_error"
    assert "secret" not in response.text


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("owner", "name"), STAGES, ids=lambda stage: getattr(stage, "__name__", stage))
def test_a_stage_that_breaks_before_the_first_byte_is_a_500(
    owner: type, name: str, error: BaseException, stream: bool, n: int, played, monkeypatch
) -> None:
    monkeypatch.setattr(GrammarTrial, "problem_of", _no_problem)
    break_for_culprit(monkeypatch, owner, name, error)
    server: Played = played()
    culprits, good = {**BODY, "stream": stream, "n": n}, BODY

    async def main(app: FastAPI, state: AppState) -> None:
        bad, fine = await ask_both(app, "/v1/chat/completions", culprits, good)
        if bad.status_code == 200:  # a stream has begun with the role
            assert stream
            assert_error_event(bad)
        else:
            assert_500(bad)
        assert fine.json()["choices"][0]["message"]["content"] == "hello"
        assert state.client.in_flight == 0

    server.run(main)


async def _no_problem(self: GrammarTrial, grammar: str) -> None:
    """The trial worker, which takes long to start, is not what is tested."""


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("owner", "name"),
    [(StreamDecoder, "push"), (TextAssembler, "_take"), (ChoiceReader, "read"), (Answer, "chunk")],
    ids=lambda stage: getattr(stage, "__name__", stage),
)
def test_a_stage_that_breaks_in_mid_stream_is_an_event(
    owner: type, name: str, error: BaseException, n: int, played, monkeypatch
) -> None:
    monkeypatch.setattr(GrammarTrial, "problem_of", _no_problem)
    break_for_culprit(monkeypatch, owner, name, error, spared=4)
    text = "hello " * 20
    server: Played = played(
        lambda request: (hangs if request.params.max_tokens > 20 else says)(text)(request)
    )
    culprits, good = {**BODY, "stream": True, "n": n, "max_tokens": 90}, {**BODY, "stream": True}

    async def main(app: FastAPI, state: AppState) -> None:
        bad, fine = await ask_both(app, "/v1/chat/completions", culprits, good)
        assert_error_event(bad)
        texts = [event["choices"][0]["delta"].get("content") or "" for event in events(fine.content)]
        assert "".join(texts) == text[:20]
        assert state.client.in_flight == 0
        assert len(server.host.aborted) == n  # what was asked of the engine has been taken back

    server.run(main)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("stream", [False, True])
def test_the_other_front_ends_say_it_in_their_shapes(
    error: BaseException, stream: bool, played, monkeypatch
) -> None:
    break_for_culprit(monkeypatch, StreamDecoder, "push", error)
    message = {"model": "tiny", "messages": BODY["messages"], "max_tokens": 20, "stream": stream}

    async def main(app: FastAPI, state: AppState) -> None:
        bad, fine = await ask_both(app, "/v1/messages", message, {**message, "stream": False})
        assert '"type":"error"' in bad.text.replace(" ", "")
        assert '"api_error"' in bad.text
        assert bad.status_code == 500 or stream
        assert fine.json()["content"][0]["text"] == "hello"
        text = {"model": "tiny", "prompt": "a", "stream": stream}
        bad, fine = await ask_both(app, "/v1/completions", text, {**text, "stream": False})
        assert_500(bad)
        assert fine.json()["choices"][0]["text"] == "hello"
        asked = {"model": "tiny", "input": "a", "stream": stream}
        bad, fine = await ask_both(app, "/v1/responses", asked, {**asked, "stream": False})
        assert "server_error" in bad.text
        assert "secret" not in bad.text
        assert fine.json()["output"][0]["content"][0]["text"] == "hello"

    played().run(main)


# The engine's stages, with the real engine behind the API. The culprit's request is known by its cache salt and seed.

CULPRITS_SALT, CULPRITS_SEED = "culprit", 666


def in_forward(core: EngineCore, patch: pytest.MonkeyPatch, error: BaseException, *, prefill: bool) -> None:
    run = core.model.runner.run

    def broken(plan: StepPlan) -> StepLogits:
        for segment in plan.segments:
            sequence = segment.sequence
            if sequence.cache_salt == CULPRITS_SALT and prefill == (
                segment.start < sequence.num_prompt_tokens
            ):
                raise error
        return run(plan)

    patch.setattr(core.model.runner, "run", broken)


def in_prefill(core: EngineCore, patch: pytest.MonkeyPatch, error: BaseException) -> None:
    in_forward(core, patch, error, prefill=True)


def in_decode(core: EngineCore, patch: pytest.MonkeyPatch, error: BaseException) -> None:
    in_forward(core, patch, error, prefill=False)


def in_sampler(core: EngineCore, patch: pytest.MonkeyPatch, error: BaseException) -> None:
    adjusts = SamplingState.adjusts.fget
    assert adjusts is not None

    def broken(self: SamplingState) -> bool:
        if self.params.seed == CULPRITS_SEED:
            raise error
        return adjusts(self)

    patch.setattr(SamplingState, "adjusts", property(broken))


def in_grammar(core: EngineCore, patch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Only the culprit has one."""

    def broken(self: GrammarState, token: int) -> None:
        raise error

    patch.setattr(GrammarState, "accept", broken)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("breaks", [in_prefill, in_decode, in_sampler, in_grammar], ids=lambda b: b.__name__)
def test_a_stage_of_the_engine_that_breaks_fails_its_request(
    breaks: Callable[..., None], error: BaseException, stream: bool, checkpoint, played, monkeypatch
) -> None:
    monkeypatch.setattr(GrammarTrial, "problem_of", _no_problem)
    options = EngineOptions(
        model_dir=str(checkpoint), max_num_seqs=4, block_size=4, kv_cache_memory=8 << 20, calibration_time=0
    )

    def load() -> EngineCore:
        core = EngineCore.load(options, show_progress=False)
        breaks(core, monkeypatch, error)
        return core

    def with_engine(state: AppState) -> AppState:
        limits = state.settings.admission_limits
        client = EngineClient(lambda: ThreadHost(load), state.metrics, limits=limits, heartbeat_timeout=60)
        return dataclasses.replace(state, client=client)

    prompt = {"model": "tiny", "prompt": "a prompt of some tokens", "max_tokens": 12, "logprobs": 1}
    good = {**prompt, "seed": 1, "ignore_eos": True}
    culprits = {**prompt, "seed": CULPRITS_SEED, "cache_salt": CULPRITS_SALT, "stream": stream}
    culprits |= {"structured_outputs": {"regex": "[a-z]{30}"}}

    async def main(app: FastAPI, state: AppState) -> None:
        alone, _ = await ask_both(app, "/v1/completions", good, good)
        bad, fine = await ask_both(app, "/v1/completions", culprits, good)
        assert fine.json()["choices"] == alone.json()["choices"]
        if bad.status_code == 200:
            assert stream
            told = events(bad.content)[-1]["error"]
        else:
            assert bad.status_code == 500
            told = bad.json()["error"]
        stage = "forward" if breaks in (in_prefill, in_decode) else "sampling"
        assert told == {
            "message": failure_text(stage),
            "type": "server_error",
            "param": None,
            "code": "engine_error",
        }
        assert (state.client.restarts_total, state.client.in_flight) == (0, 0)
        assert state.client.stats.isolated_errors_total == 1
        assert "loopserve_engine_isolated_errors_total 1.0" in (await _metrics(app))

    played(change=with_engine).run(main)


async def _metrics(app: FastAPI) -> str:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as client:
        return (await client.get("/metrics")).text


def test_an_exit_is_not_kept_from_the_process(played, monkeypatch) -> None:
    break_for_culprit(monkeypatch, Usage, "count", asyncio.CancelledError())
    server: Played = played()

    async def main(app: FastAPI, state: AppState) -> None:
        with pytest.raises(asyncio.CancelledError):
            await ask_both(
                app, "/v1/chat/completions", {**BODY, "structured_outputs": None}, {**BODY, "stop": None}
            )

    server.run(main)


def test_a_500_is_json_in_a_few_bytes() -> None:
    assert len(json.dumps({"error": failure_text("forward")})) < 4096
