"""``POST /v1/fim/completions``: Mistral's fill-in-the-middle API, which Continue's `openai` provider uses too.

Answers have the shape of chat completions. The last chunk carries finish reason and usage together: clients of this API
look at the first choice of every chunk.
"""

from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from server.openai.answers import Chunks, admit, respond_streamed, respond_whole
from server.openai.body import read_body, request_body
from server.openai.completion_run import CompletionRun
from server.openai.fim import Gap, fim_prompt, plain_prompt
from server.openai.fim_protocol import FimRequest
from server.state import State

router = APIRouter()

KIND = "chat.completion"
CHUNK_KIND = "chat.completion.chunk"


@router.post("/v1/fim/completions", openapi_extra=request_body(FimRequest))
async def create_fim_completion(request: Request, state: State) -> Response:
    """Fill the gap between `prompt` and `suffix`; without a suffix, complete the prompt."""
    body = await read_body(request, FimRequest)
    engine = admit(state, body.as_completion(1))
    if body.suffix:
        gap = Gap(body.prompt, body.suffix)
        prompt = await fim_prompt(state.tokenizer, gap, add_special_tokens=True, param="suffix")
    else:
        prompt = await plain_prompt(state.tokenizer, body.prompt)
    fields = body.as_completion(engine.max_model_len - len(prompt.token_ids))
    run = await CompletionRun.begin(state, engine, fields, "fim", [prompt])
    if fields.stream:
        return await respond_streamed(request, _chunks(run), run.taken_up)
    return await respond_whole(request, _whole(run))


async def _whole(run: CompletionRun) -> dict[str, Any]:
    text, finish_reason = "", None
    async with aclosing(run.deltas()) as deltas:
        async for delta in deltas:
            text += delta.text
            finish_reason = delta.finish_reason
    message = {"role": "assistant", "content": text, "tool_calls": None}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return run.answer.object(KIND, [choice], run.usage)


async def _chunks(run: CompletionRun) -> Chunks:
    delta_object: dict[str, str] = {"role": "assistant"}
    async with aclosing(run.deltas()) as deltas:
        async for delta in deltas:
            if delta.text or delta.finish_reason:
                choice = {
                    "index": 0,
                    "delta": {**delta_object, "content": delta.text},
                    "finish_reason": delta.finish_reason,
                }
                delta_object = {}
                yield run.answer.chunk(CHUNK_KIND, [choice], run.usage if delta.finish_reason else None)
