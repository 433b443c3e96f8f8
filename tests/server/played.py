"""The real application over an engine that plays a script: the routes are tested, the model is not."""

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from engine.host import Inbox
from engine.messages import (
    PROTOCOL_VERSION,
    Abort,
    BlockState,
    CacheMap,
    DescribeCache,
    EngineReady,
    EngineStats,
    FromEngine,
    Request,
    RequestOutput,
    StepOutputs,
    ToEngine,
    TokenLogprob,
)
from server.app import create_app
from server.bootstrap import build_state
from server.engine_client import EngineClient
from server.settings import Settings
from server.state import AppState
from tests.make_checkpoint import byte_level_tokenizer

MAX_MODEL_LEN = 512
VOCAB_SIZE = 320
NUM_LOOPS = 3
EOS = 2

_TOKENIZER = byte_level_tokenizer(VOCAB_SIZE)
_TOKENIZER.encode_special_tokens = True

CACHE_MAP = CacheMap(
    blocks_per_cell=16,
    states=[
        BlockState(state="held", loop=0, blocks=20),
        BlockState(state="held", loop=1, blocks=16),
        BlockState(state="free", loop=None, blocks=28),
    ],
    cells=bytes([0, 1, 2, 2]),
)

Script = Callable[[Request], Iterable[RequestOutput]]


class PlayedHost:
    """Satisfies `engine.host.EngineHost`: answers each request with all its outputs at once."""

    def __init__(self, script: Script, *, ready: bool = True, max_model_len: int = MAX_MODEL_LEN) -> None:
        self.inbox = Inbox()
        self.sent: list[ToEngine] = []
        self._script = script
        self._ready = ready
        self._max_model_len = max_model_len

    async def start(self) -> None:
        if self._ready:
            self.inbox.put(
                EngineReady(
                    protocol_version=PROTOCOL_VERSION,
                    max_model_len=self._max_model_len,
                    vocab_size=VOCAB_SIZE,
                    num_parameters=1,
                    num_loops=NUM_LOOPS,
                    num_blocks=64,
                    block_size=16,
                    execution="parallel",
                    kv_bytes_per_token=1,
                    kv_bytes_per_token_sequential=2,
                    kv_bytes_per_sequence=1,
                )
            )

    def send(self, message: ToEngine) -> None:
        self.sent.append(message)
        if isinstance(message, DescribeCache):
            self.inbox.put(CACHE_MAP)
        if isinstance(message, Request):
            for output in self._script(message):
                self.inbox.put(StepOutputs([output], EngineStats()))

    async def receive(self) -> FromEngine:
        return await self.inbox.get()

    def heartbeat_age(self) -> float:
        return 0.0

    async def stop(self) -> None:
        self.inbox.close("stopped")

    @property
    def requests(self) -> list[Request]:
        return [message for message in self.sent if isinstance(message, Request)]

    @property
    def aborted(self) -> list[str]:
        return [one for message in self.sent if isinstance(message, Abort) for one in message.request_ids]


@dataclass
class Played:
    """Asks one fresh server per call; `host` is the last one's engine."""

    checkpoint: Path
    script: Script
    ready: bool = True
    served_name: str = "tiny"
    max_model_len: int = MAX_MODEL_LEN
    settings: dict[str, Any] = field(default_factory=dict)
    host: PlayedHost = field(init=False)
    change: Callable[[AppState], AppState] = lambda state: state

    def __post_init__(self) -> None:
        self.host = PlayedHost(self.script, ready=self.ready, max_model_len=self.max_model_len)

    def state(self) -> AppState:
        self.host = PlayedHost(self.script, ready=self.ready, max_model_len=self.max_model_len)
        state = build_state(
            Settings(model=str(self.checkpoint), served_model_name=self.served_name, **self.settings)
        )
        client = EngineClient(
            lambda: self.host,
            state.metrics,
            limits=state.settings.admission_limits,
            heartbeat_timeout=9,
            queue_timeout=state.settings.queue_timeout,
            request_timeout=state.settings.request_timeout,
        )
        return self.change(dataclasses.replace(state, client=client))

    def ask(self, path: str, body: object = None, *, method: str = "POST", **options: Any) -> httpx.Response:
        """One request; `content` in `options` sends bytes as they are, with a JSON content type unless given."""
        if "content" in options:
            options["headers"] = {"content-type": "application/json", **options.get("headers", {})}
        elif method == "POST":
            options["json"] = body

        async def main(app: FastAPI, state: AppState) -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as client:
                return await client.request(method, path, **options)

        return self.run(main)

    def run(self, work: Callable[[FastAPI, AppState], Any]) -> Any:
        """Run a coroutine function over a started application."""

        async def main() -> Any:
            state = self.state()
            app = create_app(state)
            await state.client.start()
            if self.ready:
                await state.client.wait_ready()
            try:
                return await work(app, state)
            finally:
                await state.client.stop()
                await state.grammars.close()

        return asyncio.run(main())

    def stream(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The events of a streamed answer, without the last `[DONE]`, which must be there."""
        response = self.ask(path, {**body, "stream": True})
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        return events(response.content)


def events(content: bytes) -> list[dict[str, Any]]:
    """Parse LF-framed events that end with `[DONE]`."""
    assert b"\r" not in content
    *parts, done, rest = content.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(part.removeprefix(b"data: ")) for part in parts]


def tokens(text: str) -> list[int]:
    """Ids of a text in the test checkpoint's tokenizer: one per byte, none of them special."""
    return list(_TOKENIZER.encode(text, add_special_tokens=False).ids)


def says(text: str, *, stop: bool = True) -> Script:
    """An engine that always answers this, within `max_tokens`, and then ends the sequence if `stop`."""
    script = [*tokens(text), EOS] if stop else tokens(text)

    def play(request: Request) -> Iterable[RequestOutput]:
        params = request.params
        prompt_logprobs = _prompt_logprobs(request)
        if params.max_tokens == 0:
            yield RequestOutput(
                request_id=request.request_id, prompt_logprobs=prompt_logprobs, finish_reason="length"
            )
        for count, token in enumerate(script[: params.max_tokens], 1):
            stopped = token in params.stop_token_ids
            last = stopped or count == min(len(script), params.max_tokens)
            yield RequestOutput(
                request_id=request.request_id,
                token_ids=[token],
                logprobs=None if params.logprobs is None else [logprob_of(token, params.logprobs)],
                prompt_logprobs=prompt_logprobs if count == 1 else None,
                finish_reason="stop" if stopped else "length" if last else None,
                stop_token_id=token if stopped else None,
                cached_tokens=3,
                loop_logprobs=[loop_logprobs_of(request)] if params.loop_logprobs else None,
                loop_tokens=[loop_tokens_of(request, token)] if params.loop_logprobs else None,
                num_loops=request.num_loops or NUM_LOOPS,
            )
            if last:
                return

    return play


def hangs(text: str = "") -> Script:
    """An engine that says this and then never anything again."""

    def play(request: Request) -> Iterable[RequestOutput]:
        for token in tokens(text):
            yield RequestOutput(request_id=request.request_id, token_ids=[token])

    return play


def logprob_of(token: int, count: int) -> TokenLogprob:
    """A made-up but fixed value: each token is the second most likely one."""
    others = [(token + 1, -0.5), (token, -1.5), (token + 2, float("-inf"))]
    return TokenLogprob(token, -1.5, others[:count])


def loop_logprobs_of(request: Request) -> list[float]:
    """Made up: the last loop says what `logprob_of` says, the others what JSON has no number for."""
    return [float("nan"), float("-inf"), -1.5][-(request.num_loops or NUM_LOOPS) :]


def loop_tokens_of(request: Request, token: int) -> list[int]:
    """Made up: the last loop found the token itself, each before it one that is one less."""
    loops = request.num_loops or NUM_LOOPS
    return list(range(token - loops + 1, token + 1))


def _prompt_logprobs(request: Request) -> list[TokenLogprob | None] | None:
    count = request.params.prompt_logprobs
    if count is None:
        return None
    return [None, *(logprob_of(token, count) for token in request.prompt_token_ids[1:])]
