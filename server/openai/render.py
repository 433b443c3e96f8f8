"""``POST /v1/completions/render`` and ``POST /v1/chat/completions/render``: a request's prompts as token ids.

vLLM's, which routers ask before they choose a server by prefix: `vllm-router --policy cache_aware` follows token ids,
and without these it knows nothing of prefixes.
"""

from typing import Any

from fastapi import APIRouter, Request

from server.openai.body import read_body, request_body
from server.openai.chat_prompt import chat_prompt
from server.openai.completions import requested_prompts
from server.openai.models import check_model
from server.openai.prompts import Prompt
from server.openai.protocol import ChatCompletionRequest, CompletionRequest
from server.state import AppState, State

router = APIRouter()


@router.post("/v1/completions/render", openapi_extra=request_body(CompletionRequest))
async def render_completion(request: Request, state: State) -> list[dict[str, Any]]:
    """The token ids of each prompt of a completion request; nothing is generated."""
    fields = await read_body(request, CompletionRequest)
    check_model(state, fields.model)
    prompts = await requested_prompts(fields, state, state.model_config.vocab_size)
    return [_rendered(state, prompt) for prompt in prompts]


@router.post("/v1/chat/completions/render", openapi_extra=request_body(ChatCompletionRequest))
async def render_chat(request: Request, state: State) -> dict[str, Any]:
    """The token ids of a chat request, through the chat template; nothing is generated."""
    fields = await read_body(request, ChatCompletionRequest)
    check_model(state, fields.model)
    return _rendered(state, await chat_prompt(state, fields.messages, fields))


def _rendered(state: AppState, prompt: Prompt) -> dict[str, Any]:
    return {"model": state.model_name, "token_ids": prompt.token_ids}
