"""Request bodies: OpenAI's fields with OpenAI's meanings, and the extra sampling fields that peers accept.

Strict types (no "16" for 16, no true for 1) and bounded sizes, so that validation never stalls the event loop. Lists
stop at their first bad item. None means the default, as if the field were left out.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
)

from server.openai.chat_messages import (
    ToolCall,
    check_message_content,
    check_template_options,
    check_tool_calls,
)
from server.openai.checks import (
    check_absent,
    check_choices,
    check_logit_bias,
    check_messages,
    check_stop,
)
from server.openai.constraint_fields import ResponseFormat, StructuredOutputs
from server.openai.tools import Tool, ToolChoice, check_tool_choice, check_tools

MAX_LIST = 1024
MAX_DETOKENIZED = 1 << 18
MAX_NAME_CHARS = 256


_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_IDS: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
PROMPT_SCHEMA: dict[str, Any] = {
    "anyOf": [
        *(_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}),
        *(_IDS, {"type": "array", "items": _IDS, "minItems": 1}),
    ]
}

Stops = Annotated[list[str], PlainValidator(check_stop, json_schema_input_type=str | list[str] | None)]
Choices = Annotated[int | None, AfterValidator(check_choices)]
LogitBias = Annotated[
    dict[int, float], PlainValidator(check_logit_bias, json_schema_input_type=dict[str, float] | None)
]
TokenIds = Annotated[list[int], Field(max_length=MAX_LIST, fail_fast=True)]
Loops = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]})]
"""How many loops to run. Checked by hand (`server.openai.loops`), as the highest is the model's."""
Content = Annotated[
    str,
    BeforeValidator(check_message_content, json_schema_input_type=str | list[dict[str, str]] | None),
    Field(validate_default=True),
]
ToolCalls = Annotated[
    list[ToolCall], PlainValidator(check_tool_calls, json_schema_input_type=list[dict[str, Any]] | None)
]
Tools = Annotated[list[Tool], PlainValidator(check_tools, json_schema_input_type=list[dict[str, Any]] | None)]
Choosing = Annotated[
    ToolChoice | None,
    PlainValidator(check_tool_choice, json_schema_input_type=str | dict[str, Any] | None),
]
TemplateOptions = Annotated[
    dict[str, Any], PlainValidator(check_template_options, json_schema_input_type=dict[str, Any] | None)
]
Absent = Annotated[None, PlainValidator(check_absent, json_schema_input_type=None)]


class StreamOptions(BaseModel):
    """What a stream carries beside text."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None  # accepted: nothing here needs padding against eavesdroppers


class GenerationFields(BaseModel):
    """What both completion endpoints take."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    n: Choices = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: LogitBias = {}
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops = []
    stop_token_ids: TokenIds | None = None
    min_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    priority: Annotated[int, Field(ge=-1000, le=1000)] | None = None
    cache_salt: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    loops: Loops = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None


class CompletionRequest(GenerationFields):
    """Body of ``POST /v1/completions``. `prompt` is checked by hand: see `server.openai.prompts`."""

    prompt: Annotated[Any, WithJsonSchema(PROMPT_SCHEMA)] = None
    suffix: str | None = None
    max_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    loop_logprobs: bool | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None


class ChatMessage(BaseModel):
    """One message; only text content is served.

    `tool_calls` stands before `content`, whose check looks at it.
    """

    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: ToolCalls = []
    content: Content = None  # type: ignore[assignment]
    name: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    tool_call_id: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    function_call: Absent = None


Messages = Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True), BeforeValidator(check_messages)]


class ChatTemplateFields(BaseModel):
    """What goes through the chat template beside messages."""

    model_config = ConfigDict(strict=True)

    tools: Tools = []
    tool_choice: Choosing = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: TemplateOptions = {}
    reasoning_effort: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None


class ChatCompletionRequest(GenerationFields, ChatTemplateFields):
    """Body of ``POST /v1/chat/completions``."""

    messages: Messages
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    parallel_tool_calls: bool | None = None


class TokenizeRequest(ChatTemplateFields):
    """Body of ``POST /tokenize``: a text or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(BaseModel):
    """Body of ``POST /detokenize``."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    tokens: Annotated[list[int], Field(max_length=MAX_DETOKENIZED, fail_fast=True)]
