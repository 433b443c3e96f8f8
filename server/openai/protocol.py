"""Request bodies: OpenAI's fields with OpenAI's meanings, and the extra sampling fields that peers accept.

Strict types (no "16" for 16, no true for 1) and bounded sizes, so that validation never stalls the event loop. Lists
stop at their first bad item. None means the default, as if the field were left out.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from server.openai.checks import check_absent, check_content, check_logit_bias, check_stop

MAX_CHOICES = 128
MAX_PROMPTS = 64
MAX_SEQUENCES = 256
"""Choices times prompts of one request."""
MAX_MESSAGES = 4096
MAX_LIST = 1024
MAX_DETOKENIZED = 1 << 18
MAX_NAME_CHARS = 256


_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_IDS: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
PROMPT_SCHEMA: dict[str, Any] = {
    "anyOf": [
        *(_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_PROMPTS}),
        *(_IDS, {"type": "array", "items": _IDS, "minItems": 1, "maxItems": MAX_PROMPTS}),
    ]
}

Stops = Annotated[list[str], PlainValidator(check_stop, json_schema_input_type=str | list[str] | None)]
LogitBias = Annotated[
    dict[int, float], PlainValidator(check_logit_bias, json_schema_input_type=dict[str, float] | None)
]
TokenIds = Annotated[list[int], Field(max_length=MAX_LIST, fail_fast=True)]
Content = Annotated[str, BeforeValidator(check_content, json_schema_input_type=str | list[dict[str, str]])]
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
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
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


class CompletionRequest(GenerationFields):
    """Body of ``POST /v1/completions``. `prompt` is checked by hand: see `server.openai.prompts`."""

    prompt: Annotated[Any, WithJsonSchema(PROMPT_SCHEMA)] = None
    suffix: str | None = None
    max_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None


class ChatMessage(BaseModel):
    """One message; only text content is served, and no tool calls."""

    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    tool_calls: Absent = None
    function_call: Absent = None


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class ChatCompletionRequest(GenerationFields):
    """Body of ``POST /v1/chat/completions``."""

    messages: Messages
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    add_generation_prompt: bool | None = None


class TokenizeRequest(BaseModel):
    """Body of ``POST /tokenize``: a text or messages."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(BaseModel):
    """Body of ``POST /detokenize``."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    tokens: Annotated[list[int], Field(max_length=MAX_DETOKENIZED, fail_fast=True)]
