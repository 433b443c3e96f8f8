"""Body of ``POST /v1/responses``.

Items, tools and formats have many shapes each and are read by hand (`responses_input`, `responses_tools`). The sampling
fields below `PASSED` mean what they mean for chat completions, which check them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from server.openai.checks import check_metadata
from server.openai.protocol import MAX_NAME_CHARS
from server.openai.unsupported import MAX_LABEL_CHARS

Label = Annotated[str, Field(max_length=MAX_LABEL_CHARS)]
Name = Annotated[str, Field(max_length=MAX_NAME_CHARS)]
Metadata = Annotated[
    dict[str, str], PlainValidator(check_metadata, json_schema_input_type=dict[str, str] | None)
]

PASSED = (
    *("model", "stream", "temperature", "top_p", "top_logprobs", "presence_penalty", "frequency_penalty"),
    *(
        "top_k",
        "min_p",
        "repetition_penalty",
        "seed",
        "stop",
        "ignore_eos",
        "priority",
        "cache_salt",
        "loops",
    ),
)
"""Fields that go to the chat request under their own name: OpenAI's, then this server's."""


class TextOptions(BaseModel):
    """What the text of the answer looks like."""

    model_config = ConfigDict(strict=True)

    format: Annotated[dict[str, Any], Field(max_length=8)] | None = None
    verbosity: Name | None = None


class ReasoningOptions(BaseModel):
    """How much the model should think; whether it does is up to its template."""

    model_config = ConfigDict(strict=True)

    effort: Name | None = None
    summary: Name | None = None


class StreamOptions(BaseModel):
    """Accepted; events are never padded."""

    model_config = ConfigDict(strict=True)

    include_obfuscation: bool | None = None


class ResponsesRequest(BaseModel):
    """The fields of OpenAI's API, and this server's sampling fields."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    input: Any
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    text: TextOptions | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    reasoning: ReasoningOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: Annotated[list[Name], Field(max_length=16, fail_fast=True)] | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: Label | None = None
    conversation: Any = None
    prompt: Any = None
    metadata: Metadata = {}
    user: Label | None = None
    service_tier: Name | None = None
    prompt_cache_key: Label | None = None
    safety_identifier: Label | None = None
    client_metadata: Any = None
    """Codex describes itself in it; nothing is made of it."""

    temperature: Any = None
    top_p: Any = None
    top_logprobs: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    top_k: Any = None
    min_p: Any = None
    repetition_penalty: Any = None
    seed: Any = None
    stop: Any = None
    ignore_eos: Any = None
    priority: Any = None
    cache_salt: Any = None
    loops: Any = None
