"""What one streamed event costs the API process: from an engine output to bytes at the server's door.

    python -m benchmarks.sse

The real application answers over an engine that has nothing to compute and says its next token when the last one's
event was sent, so the time between events is the API process's alone: queues, detokenising, metrics, the event's JSON,
sending. "JSON only" is one chunk from its parts to bytes, "sending only" what the event stream adds to ready bytes.
Torch-free.
"""

import asyncio
import dataclasses
import gc
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from starlette.types import Message, Scope

from benchmarks.spread import Spread
from engine.messages import (
    PROTOCOL_VERSION,
    Abort,
    EngineReady,
    EngineStats,
    FromEngine,
    Request,
    RequestOutput,
    StepOutputs,
    ToEngine,
)
from server.app import create_app
from server.bootstrap import build_state
from server.engine_client import EngineClient
from server.metrics import ServerMetrics
from server.openai.answers import Answer
from server.openai.sse import EventStream, event
from server.settings import DEMO_MODEL, load_settings

EVENTS = 2000
ROUNDS = 7
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "def f(", "temperature": 0},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Write f."}], "temperature": 0},
}

cli = typer.Typer(add_completion=False)


class LockstepHost:
    """Satisfies `engine.host.EngineHost`: one token per step, a step whenever the last token's event was sent."""

    def __init__(self, token: int, vocab_size: int) -> None:
        self.sent_events = asyncio.Semaphore(0)
        self._token = token
        self._vocab_size = vocab_size
        self._work: asyncio.Queue[Request] = asyncio.Queue()
        self._running: Request | None = None
        self._left = 0
        self._ready = False

    async def start(self) -> None:
        """Nothing to load."""

    def send(self, message: ToEngine) -> None:
        """Take a request; aborts come after the last token only."""
        if isinstance(message, Request):
            self._work.put_nowait(message)
        else:
            assert isinstance(message, Abort)

    async def receive(self) -> FromEngine:
        """The engine's next word."""
        if not self._ready:
            self._ready = True
            return _ready(self._vocab_size)
        if self._running is None:
            self._running = await self._work.get()
            self._left = self._running.params.max_tokens
            self.sent_events = asyncio.Semaphore(0)
        else:
            await self.sent_events.acquire()
        self._left -= 1
        last = self._left == 0
        output = RequestOutput(
            request_id=self._running.request_id,
            token_ids=[self._token],
            finish_reason="length" if last else None,
        )
        if last:
            self._running = None
        return StepOutputs([output], EngineStats(running=1))

    def heartbeat_age(self) -> float:
        """Always alive."""
        return 0.0

    async def stop(self) -> None:
        """Nothing to stop."""


def _ready(vocab_size: int) -> EngineReady:
    return EngineReady(
        protocol_version=PROTOCOL_VERSION,
        max_model_len=1 << 20,
        vocab_size=vocab_size,
        num_parameters=1,
        num_loops=2,
        num_blocks=64,
        block_size=16,
        execution="parallel",
        kv_bytes_per_token=1,
        kv_bytes_per_token_sequential=2,
        kv_bytes_per_sequence=1,
    )


async def measure_application(model: Path, path: str, events: int, rounds: int) -> Spread:
    """Microseconds from one event to the next, over one stream through the whole application."""
    state = build_state(load_settings({"model": str(model)}))
    host = LockstepHost(state.tokenizer.encode(" x", False)[0], state.model_config.vocab_size)
    client = EngineClient(lambda: host, ServerMetrics("0"), max_in_flight=4, heartbeat_timeout=9)
    state = dataclasses.replace(state, client=client, metrics=ServerMetrics("0"))
    app = create_app(state)
    await client.start()
    try:
        await client.wait_ready()
        body = orjson.dumps({**BODIES[path], "max_tokens": events, "stream": True, "ignore_eos": True})
        await _ask(app, host, path, body)  # the first answer fills caches
        return Spread.of([await _ask(app, host, path, body) / events * 1e6 for _ in range(rounds)])
    finally:
        await client.stop()


async def _ask(app: Any, host: LockstepHost, path: str, body: bytes) -> float:
    """Seconds from the first sent event to the end of the answer."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    times: list[float] = []

    async def receive() -> Message:
        if pending:
            return pending.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200, message
        else:
            times.append(time.perf_counter())
            if b'"role"' not in message["body"]:  # that one comes with the first token's
                host.sent_events.release()

    gc.collect()
    await app(_scope(path), receive, send)
    return times[-1] - times[0]


def _scope(path: str) -> Scope:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }


async def measure_sending(events: int, rounds: int) -> Spread:
    """Microseconds that the event stream takes to send one event that is ready."""
    part = event({"choices": [{"index": 0, "text": " x"}]})

    async def parts() -> AsyncGenerator[bytes, None]:
        for _ in range(events):
            yield part

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        pass

    times = []
    for _ in range(rounds):
        stream = await EventStream.open(parts())
        started = time.perf_counter()
        await stream({"type": "http"}, receive, send)
        times.append((time.perf_counter() - started) / events * 1e6)
    return Spread.of(times)


def measure_json(events: int, rounds: int) -> Spread:
    """Microseconds from a chunk's parts to the bytes of its event."""
    answer = Answer.begin("chatcmpl", "demo")
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(events):
            choice = {"index": 0, "delta": {"content": " x"}, "logprobs": None, "finish_reason": None}
            answer.chunk("chat.completion.chunk", [choice])
        times.append((time.perf_counter() - started) / events * 1e6)
    return Spread.of(times)


@cli.command()
def main(
    model: Annotated[
        Path, typer.Argument(help="Directory of a checkpoint; its weights are not read.")
    ] = DEMO_MODEL,
    events: Annotated[int, typer.Option(min=10, help="Events of an answer.")] = EVENTS,
    rounds: Annotated[int, typer.Option(min=1, help="Answers timed.")] = ROUNDS,
) -> None:
    """Print microseconds per event: median and extremes over the rounds."""
    measures: dict[str, Callable[[], Spread]] = {
        path: lambda path=path: asyncio.run(measure_application(model, path, events, rounds))  # type: ignore[misc]
        for path in BODIES
    }
    measures["JSON only"] = lambda: measure_json(events * 10, rounds)
    measures["sending only"] = lambda: asyncio.run(measure_sending(events * 10, rounds))
    print("| what | µs per event: median (min–max) |\n|---|---|")
    for name, measure in measures.items():
        print(f"| {name} | {measure()} |", flush=True)


if __name__ == "__main__":
    cli()
