"""``POST /tokenize``, ``POST /detokenize`` and ``GET /tokenizer_info``."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from engine.sampling_params import check_token_ids
from server.openai.body import read_body, request_body
from server.openai.chat_prompt import chat_prompt
from server.openai.errors import ApiError
from server.openai.models import check_model
from server.openai.prompts import encode
from server.openai.protocol import DetokenizeRequest, TokenizeRequest
from server.state import AppState, State

router = APIRouter()


@router.post("/tokenize", openapi_extra=request_body(TokenizeRequest))
async def tokenize(request: Request, state: State) -> dict[str, Any]:
    """Token ids of a text, or of messages through the chat template."""
    fields = await read_body(request, TokenizeRequest)
    check_model(state, fields.model)
    if (fields.prompt is None) == (fields.messages is None):
        raise ApiError(400, "Give either prompt or messages.", param="prompt")
    if fields.messages is not None:
        ids = (await chat_prompt(state, fields.messages, fields)).token_ids
    else:
        assert fields.prompt is not None
        ids = await encode(
            state.tokenizer, fields.prompt, add_special_tokens=fields.add_special_tokens is not False
        )
    out = {"tokens": ids, "count": len(ids), "max_model_len": _max_model_len(state)}
    return (
        {**out, "token_strs": [state.tokenizer.token_text(i) for i in ids]}
        if fields.return_token_strs
        else out
    )


@router.post("/detokenize", openapi_extra=request_body(DetokenizeRequest))
async def detokenize(request: Request, state: State) -> dict[str, Any]:
    """Text of token ids."""
    fields = await read_body(request, DetokenizeRequest)
    check_model(state, fields.model)
    if fields.tokens:
        check_token_ids("tokens", fields.tokens, state.model_config.vocab_size)
    return {"prompt": await asyncio.to_thread(state.tokenizer.decode, fields.tokens, False)}


@router.get("/tokenizer_info")
async def tokenizer_info(state: State) -> dict[str, Any]:
    """What a client needs to prepare texts as the server does: lm-eval's remote tokenizer reads this.

    Special tokens are texts, null where the model has none. `eos_token` is the tokenizer's own; only if it has none,
    the first of the model's.
    """
    tokenizer = state.tokenizer
    model_ends = state.model_config.eos_token_ids
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else next(iter(model_ends), None)
    ids = {"bos_token": tokenizer.bos_token_id, "eos_token": eos, "pad_token": tokenizer.pad_token_id}
    return {
        **{name: None if token is None else tokenizer.token_text(token) for name, token in ids.items()},
        "chat_template": None if state.chat_template is None else state.chat_template.source,
        "vocab_size": tokenizer.vocab_size,
        "model_max_length": _max_model_len(state),
        "fill_in_the_middle": tokenizer.fim is not None,
    }


def _max_model_len(state: AppState) -> int:
    info = state.client.info
    return state.model_config.max_position_embeddings if info is None else info.max_model_len
