"""loopserve serve over an engine that plays a script, for clients that need an answer that makes sense.

    python -m tools.compatibility.scripted models/demo --port 0

Everything but the engine is the real server: HTTP, templates, tokens, parsers, streams. The answer depends on what the
prompt holds; see `SCENES`.
"""

import argparse
import asyncio
import dataclasses
from collections.abc import Iterable
from pathlib import Path

from engine.host import Inbox
from engine.messages import (
    PROTOCOL_VERSION,
    EngineReady,
    EngineStats,
    FromEngine,
    Request,
    RequestOutput,
    StepOutputs,
    ToEngine,
)
from engine.tokenizer import Tokenizer
from server.api_keys import ApiKeys
from server.app import create_app
from server.bootstrap import build_state
from server.engine_client import EngineClient
from server.key_reload import KeyReload
from server.listener import bind
from server.metrics import ServerMetrics
from server.runner import address_of, run_server
from server.settings import load_settings

MAX_MODEL_LEN = 1 << 15
VOCAB_SIZE = 4096
END_TOKEN = "<|im_end|>"

# aider's edit format: the path, the lines to find, the lines to put there.
EDIT = """adding.py
```python
<<<<<<< SEARCH
    return a - b
=======
    return a + b
>>>>>>> REPLACE
```
"""
TOOL_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"location": "San Francisco"}}\n</tool_call>'
SCENES = (("SEARCH/REPLACE", EDIT), ('"get_weather"', TOOL_CALL))
"""(what the prompt holds, what the engine answers); the first that fits."""
OTHERWISE = "Hello there, friend."


class ScriptedHost:
    """Satisfies `engine.host.EngineHost`: answers each request with all its outputs at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        end = tokenizer.special_token_id(END_TOKEN)
        if end is None:
            raise ValueError(f"the tokenizer has no {END_TOKEN}")
        self._inbox = Inbox()
        self._tokenizer = tokenizer
        self._end = end

    async def start(self) -> None:
        """Ready at once."""
        self._inbox.put(
            EngineReady(
                protocol_version=PROTOCOL_VERSION,
                max_model_len=MAX_MODEL_LEN,
                vocab_size=VOCAB_SIZE,
                num_parameters=1,
                num_loops=2,
                num_blocks=64,
                block_size=16,
                execution="parallel",
                kv_bytes_per_token=1,
                kv_bytes_per_token_sequential=2,
                kv_bytes_per_sequence=1,
            )
        )

    def send(self, message: ToEngine) -> None:
        """Answer a request; nothing else matters to a script."""
        if isinstance(message, Request):
            for output in self._outputs(message):
                self._inbox.put(StepOutputs([output], EngineStats()))

    async def receive(self) -> FromEngine:
        return await self._inbox.get()

    def heartbeat_age(self) -> float:
        return 0.0

    async def stop(self) -> None:
        self._inbox.close("stopped")

    def _outputs(self, request: Request) -> Iterable[RequestOutput]:
        prompt = self._tokenizer.decode(request.prompt_token_ids)
        text = next((answer for holds, answer in SCENES if holds in prompt), OTHERWISE)
        tokens = [*self._tokenizer.encode(text, add_special_tokens=False), self._end][
            : request.params.max_tokens
        ]
        for place, token in enumerate(tokens, 1):
            ended = token == self._end
            yield RequestOutput(
                request_id=request.request_id,
                token_ids=[token],
                finish_reason="stop" if ended else "length" if place == len(tokens) else None,
                stop_token_id=token if ended else None,
            )


def main() -> None:
    """Serve until a signal, like `loopserve serve`; keys come from LOOPSERVE_API_KEYS."""
    parser = argparse.ArgumentParser(description="The real server over a scripted engine.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--log-level", default="warning")
    args = parser.parse_args()
    settings = load_settings({"model": str(args.model), "port": args.port, "log_level": args.log_level})
    with bind(settings.host, settings.port) as listening:
        state = build_state(settings)
        client = EngineClient(
            lambda: ScriptedHost(state.tokenizer),
            ServerMetrics("0"),
            limits=settings.admission_limits,
            heartbeat_timeout=settings.heartbeat_timeout,
        )
        state = dataclasses.replace(state, client=client)
        keys = ApiKeys(settings.all_api_keys())
        app = create_app(state, keys if len(keys) else None)
        reload = KeyReload(settings, keys, state.key_limits)
        address = address_of(listening)
        print(f"scripted server on {address}", flush=True)
        raise SystemExit(
            asyncio.run(run_server(app, state, listening, settings, f"Ready on {address}.", reload))
        )


if __name__ == "__main__":
    main()
