"""``POST /infill``: llama.cpp's fill-in-the-middle API, for llama.vim and llama.vscode.

`prompt` is the part of the gap's line that is typed already; like llama.cpp, this server puts it at the end of the
prefix. What does not fit into the context is left out, extra files first: an editor's ring of snippets knows no limit,
and an error on every keystroke helps nobody.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from engine.messages import EngineReady
from server.openai.answers import Chunks, admit, respond_streamed, respond_whole
from server.openai.body import read_body, request_body
from server.openai.completion_run import CompletionRun
from server.openai.fim import Gap, Snippet, fitted_fim_prompt
from server.openai.fim_protocol import InfillRequest
from server.state import AppState, State

router = APIRouter()

ROOM_FOR_ANSWER = 256
"""Tokens kept free for an answer without a limit of its own, or a quarter of a smaller context."""


@router.post("/infill", openapi_extra=request_body(InfillRequest))
async def infill(request: Request, state: State) -> Response:
    """Fill the gap between `input_prefix` + `prompt` and `input_suffix`, having read `input_extra`."""
    body = await read_body(request, InfillRequest)
    defaults = state.generation_defaults
    engine = admit(state, body.as_completion(defaults, 1))
    gap = Gap(
        body.input_prefix + (body.prompt or ""),
        body.input_suffix,
        [Snippet(snippet.filename, snippet.text) for snippet in body.input_extra or ()],
    )
    prompt, truncated = await fitted_fim_prompt(
        state.tokenizer, gap, room=_room(body, engine), add_special_tokens=True, param="input_suffix"
    )
    fields = body.as_completion(defaults, engine.max_model_len - len(prompt.token_ids))
    run = await CompletionRun.begin(state, engine, fields, "infill", [prompt])
    answer = _Infill(state, body, run, truncated)
    if body.stream:
        return await respond_streamed(request, answer.chunks(), run.taken_up, end=b"")
    return await respond_whole(request, answer.whole())


def _room(body: InfillRequest, engine: EngineReady) -> int:
    """Tokens that the prompt may have."""
    length = engine.max_model_len
    unlimited = body.n_predict is None or body.n_predict < 0
    wanted = min(ROOM_FOR_ANSWER, length // 4) if unlimited else (body.n_predict or 0)
    return max(0, length - wanted)


@dataclass(slots=True)
class _Progress:
    """The answer so far. Times are of the monotonic clock, in seconds."""

    started: float
    first: float | None = None
    last: float = 0.0
    text: str = ""
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    @property
    def stop_type(self) -> str:
        if self.finish_reason != "stop":
            return "limit"
        return "word" if isinstance(self.stop_reason, str) else "eos"


class _Infill:
    """One answer in llama.cpp's words."""

    def __init__(self, state: AppState, body: InfillRequest, run: CompletionRun, truncated: bool) -> None:
        self._state = state
        self._body = body
        self._run = run
        self._truncated = truncated
        self._progress = _Progress(time.monotonic())

    async def whole(self) -> dict[str, Any]:
        """The answer as one object, or those of its fields that were asked for."""
        async with aclosing(self._pieces()) as pieces:
            async for _ in pieces:
                pass
        answer = self._last(self._progress.text)
        wanted = self._body.response_fields
        return answer if not wanted else _picked(answer, wanted)

    async def chunks(self) -> Chunks:
        """The answer as a stream of objects, the last of them with the counts."""
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                if piece:
                    yield {"index": 0, "content": piece, "tokens": [], "stop": False, **self._counts()}
        yield self._last("")

    async def _pieces(self) -> AsyncGenerator[str, None]:
        progress, limit = self._progress, self._body.t_max_predict_ms
        async with aclosing(self._run.deltas()) as deltas:
            async for delta in deltas:
                progress.last = time.monotonic()
                if progress.first is None:
                    progress.first = progress.last
                progress.text += delta.text
                progress.finish_reason, progress.stop_reason = delta.finish_reason, delta.stop_reason
                yield delta.text
                # llama.cpp's rule: late, but never within the first line.
                if limit and "\n" in progress.text and (progress.last - progress.first) * 1000 > limit:
                    return

    def _counts(self) -> dict[str, Any]:
        usage = self._run.usage
        return {"tokens_predicted": usage.completion_tokens, "tokens_evaluated": usage.prompt_tokens}

    def _last(self, content: str) -> dict[str, Any]:
        progress, usage = self._progress, self._run.usage
        word = progress.stop_type == "word"
        return {
            "index": 0,
            "content": content,
            "tokens": [],
            "id_slot": -1,
            "stop": True,
            "model": self._state.model_name,
            **self._counts(),
            "tokens_cached": sum(usage.cached.values()),
            "generation_settings": self._settings(),
            "has_new_line": "\n" in progress.text,
            "truncated": self._truncated,
            "stop_type": progress.stop_type,
            "stopping_word": progress.stop_reason if word else "",
            "timings": self._timings(),
        }

    def _settings(self) -> dict[str, Any]:
        params = self._run.choices[0].request.params
        return {
            "n_predict": params.max_tokens,
            "seed": params.seed,
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "stop": self._run.choices[0].stops,
        }

    def _timings(self) -> dict[str, float]:
        """Of the whole request as seen here: the prompt's time includes waiting."""
        progress, usage = self._progress, self._run.usage
        cached = sum(usage.cached.values())
        first = progress.last if progress.first is None else progress.first
        out: dict[str, float] = {"cache_n": cached}
        for name, count, seconds in (
            ("prompt", usage.prompt_tokens - cached, first - progress.started),
            ("predicted", usage.completion_tokens, progress.last - first),
        ):
            out[f"{name}_n"] = count
            out[f"{name}_ms"] = seconds * 1000
            out[f"{name}_per_token_ms"] = seconds * 1000 / count if count else 0.0
            out[f"{name}_per_second"] = count / seconds if seconds > 0 else 0.0
        return out


def _picked(answer: dict[str, Any], fields: list[str]) -> dict[str, Any]:
    """The named fields, one level deep by ``timings/prompt_ms``, under the names they were asked by."""
    out = {}
    for name in fields:
        outer, _, inner = name.partition("/")
        value = answer.get(outer)
        if inner:
            value = value.get(inner) if isinstance(value, dict) else None
        if value is not None:
            out[name] = value
    return out
