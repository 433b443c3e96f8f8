"""``POST /v1/messages`` and ``POST /v1/messages/count_tokens``: Anthropic's Messages API."""

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.responses import JSONResponse

from engine.errors import ContextLengthError
from server.anthropic.errors import overflow
from server.anthropic.events import MessageWriter
from server.anthropic.protocol import CountTokensRequest, MessagesRequest
from server.anthropic.translate import chat_fields
from server.openai.body import read_body, request_body, validate
from server.openai.chat_prompt import chat_prompt
from server.openai.chat_run import ChatRun
from server.openai.disconnect import unless_disconnected
from server.openai.models import check_model
from server.openai.protocol import ChatCompletionRequest
from server.openai.typed_events import respond_typed, run_through
from server.state import AppState, State

router = APIRouter()


@router.post("/v1/messages", openapi_extra=request_body(MessagesRequest))
async def create_message(request: Request, state: State) -> Response:
    """Answer a conversation with a message or its events."""
    fields = await read_body(request, MessagesRequest)
    chat = validate(chat_fields(fields, state.limits), ChatCompletionRequest, state.limits)
    run, fills_context = await _prepare(state, chat)
    writer = MessageWriter(run.answer, run.usage, fills_context=fills_context)
    if fields.stream:
        return await respond_typed(request, run, writer)
    await unless_disconnected(request.receive, run_through(run, writer))
    return JSONResponse(writer.message())


@router.post("/v1/messages/count_tokens", openapi_extra=request_body(CountTokensRequest))
async def count_tokens(request: Request, state: State) -> dict[str, int]:
    """How many tokens the prompt of a message would have."""
    fields = await read_body(request, CountTokensRequest)
    check_model(state, fields.model)
    chat = validate(chat_fields(fields, state.limits), ChatCompletionRequest, state.limits)
    prompt = await chat_prompt(state, chat.messages, chat)
    return {"input_tokens": len(prompt.token_ids)}


async def _prepare(state: AppState, chat: ChatCompletionRequest) -> tuple[ChatRun, bool]:
    """The run, and whether `max_tokens` was more than the context has room for.

    Only the prompt must fit: Claude Code asks for 32,000 tokens at least, whatever the model's context is.

    Raises:
        ApiError: 400, the prompt is too long.
    """
    try:
        return await ChatRun.prepare(state, chat, "msg_"), False
    except ContextLengthError as error:
        if error.prompt_tokens >= error.max_model_len:
            raise overflow(error) from None
    fitting = chat.model_copy(update={"max_completion_tokens": None})
    return await ChatRun.prepare(state, fitting, "msg_"), True
