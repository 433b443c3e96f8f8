"""``POST /v1/responses``: OpenAI's Responses API, without storage: each request brings its whole conversation."""

from typing import Any, NoReturn

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.responses import JSONResponse

from engine.errors import InvalidRequestError
from server.openai.body import read_body, request_body, validate
from server.openai.chat_run import ChatRun
from server.openai.disconnect import unless_disconnected
from server.openai.errors import ApiError
from server.openai.limits import RequestLimits
from server.openai.protocol import ChatCompletionRequest
from server.openai.responses_events import ResponseWriter
from server.openai.responses_input import read_input
from server.openai.responses_object import Echo, text_format
from server.openai.responses_protocol import PASSED, ResponsesRequest
from server.openai.responses_tools import Tools, read_tools
from server.openai.shapes import shown, wrong
from server.openai.typed_events import respond_typed, run_through
from server.state import State

router = APIRouter()

LOGPROBS = "message.output_text.logprobs"
_OWN_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""What a chat request's fields are called here, for `param` in errors."""


@router.post("/v1/responses", openapi_extra=request_body(ResponsesRequest))
async def create_response(request: Request, state: State) -> Response:
    """Answer a conversation with a Response object or its events."""
    fields = await read_body(request, ResponsesRequest)
    try:
        _refuse_storage(fields)
        tools = read_tools(fields.tools, fields.tool_choice, state.limits)
        chat = validate(_chat_fields(fields, tools, state.limits), ChatCompletionRequest, state.limits)
        run = await ChatRun.prepare(state, chat, "resp_")
    except (ApiError, InvalidRequestError) as error:
        _raise_in_own_words(error)
    echo = Echo(run.answer, fields, chat, tools, state.generation_defaults)
    writer = ResponseWriter(echo, run.usage, state.tokenizer)
    if fields.stream:
        return await respond_typed(request, run, writer)
    await unless_disconnected(request.receive, run_through(run, writer))
    return JSONResponse(writer.response)


def _refuse_storage(fields: ResponsesRequest) -> None:
    """What would need the server to remember earlier responses, or to work on without the client."""
    asked = {
        "previous_response_id": fields.previous_response_id,
        "conversation": fields.conversation,
        "prompt": fields.prompt,
        "background": fields.background,
    }
    for name, value in asked.items():
        if value:
            raise InvalidRequestError(
                f"{name} is not supported: this server stores nothing. Send the whole conversation in input.",
                param=name,
                code="unsupported_parameter",
            )


def _chat_fields(fields: ResponsesRequest, tools: Tools, limits: RequestLimits) -> dict[str, Any]:
    """The chat request that this is, not yet validated."""
    chat: dict[str, Any] = {name: getattr(fields, name) for name in PASSED}
    chat |= {
        "messages": read_input(fields.input, fields.instructions, limits),
        "max_completion_tokens": fields.max_output_tokens,
        "response_format": _response_format(text_format(fields)),
        "reasoning_effort": fields.reasoning and fields.reasoning.effort,
        "logprobs": True if LOGPROBS in (fields.include or ()) or fields.top_logprobs else None,
    }
    if tools.functions:
        chat |= {"tools": tools.functions, "parallel_tool_calls": fields.parallel_tool_calls}
    chat["tool_choice"] = tools.choice
    return {name: value for name, value in chat.items() if value is not None}


def _response_format(given: dict[str, Any]) -> dict[str, Any] | None:
    """Chat completions' nested form of a format."""
    match given.get("type"):
        case "text":
            return None
        case "json_object":
            return {"type": "json_object"}
        case "json_schema":
            return {"type": "json_schema", "json_schema": {k: v for k, v in given.items() if k != "type"}}
        case kind:
            wrong("text.format.type", f"{shown(kind)} is not one of 'text', 'json_object' and 'json_schema'")


def _raise_in_own_words(error: ApiError | InvalidRequestError) -> NoReturn:
    """The error with its `param` as this API names it."""
    first, dot, rest = (error.param or "").partition(".")
    if first in _OWN_NAMES:
        # An index of a message is not one of an item.
        error.param = _OWN_NAMES[first] if first == "messages" else f"{_OWN_NAMES[first]}{dot}{rest}"
    raise error
