"""What the endpoints answer, for /openapi.json. Answers may have more fields; tests hold real ones to these."""

from typing import Any, Literal

from pydantic import BaseModel, RootModel


class Error(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Body of every answer of status 400 and above."""

    error: Error


class AnthropicError(BaseModel):
    """Anthropic's error object."""

    type: str
    message: str


class AnthropicErrorAnswer(BaseModel):
    """Body of every answer of status 400 and above under ``/v1/messages``."""

    type: Literal["error"]
    error: AnthropicError
    request_id: str


class PromptTokensDetails(BaseModel):
    """Where prompt tokens came from."""

    cached_tokens: int


class UsageAnswer(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class CompletionLogprobsAnswer(BaseModel):
    """One entry per token in each list."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoiceAnswer(BaseModel):
    """One completion."""

    index: int
    text: str
    logprobs: CompletionLogprobsAnswer | None
    finish_reason: Literal["stop", "length"]
    stop_reason: str | int | None
    loop_logprobs: list[list[float]] | None = None
    loop_tokens: list[list[str]] | None = None


class CompletionAnswer(BaseModel):
    """Answer of ``POST /v1/completions``."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoiceAnswer]
    usage: UsageAnswer


class MessageAnswer(BaseModel):
    """What the model says."""

    role: Literal["assistant"]
    content: str | None


class ChatChoiceAnswer(BaseModel):
    """One answer to a chat."""

    index: int
    message: MessageAnswer
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatAnswer(BaseModel):
    """Answer of ``POST /v1/chat/completions`` and ``POST /v1/fim/completions``."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoiceAnswer]
    usage: UsageAnswer


class InfillAnswer(BaseModel):
    """Answer of ``POST /infill``; only the fields asked for, if `response_fields` is given."""

    content: str | None = None
    stop: bool | None = None
    stop_type: Literal["eos", "limit", "word"] | None = None
    stopping_word: str | None = None
    model: str | None = None
    tokens_predicted: int | None = None
    tokens_evaluated: int | None = None
    tokens_cached: int | None = None
    truncated: bool | None = None
    generation_settings: dict[str, Any] | None = None
    timings: dict[str, float] | None = None


class ModelAnswer(BaseModel):
    """Answer of ``GET /v1/models/{id}``."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    num_loops: int


class ModelListAnswer(BaseModel):
    """Answer of ``GET /v1/models``."""

    object: Literal["list"]
    data: list[ModelAnswer]


class TokenizeAnswer(BaseModel):
    """Answer of ``POST /tokenize``."""

    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: list[str] = []


class RenderAnswer(BaseModel):
    """Answer of ``POST /v1/chat/completions/render``, and each element of that of ``/v1/completions/render``."""

    model: str
    token_ids: list[int]


class RenderListAnswer(RootModel[list[RenderAnswer]]):
    """Answer of ``POST /v1/completions/render``."""


class DetokenizeAnswer(BaseModel):
    """Answer of ``POST /detokenize``."""

    prompt: str


class TokenizerInfoAnswer(BaseModel):
    """Answer of ``GET /tokenizer_info``."""

    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    chat_template: str | None
    vocab_size: int
    model_max_length: int
    fill_in_the_middle: bool


class StatusAnswer(BaseModel):
    """Answer of the probes."""

    status: str


class VersionAnswer(BaseModel):
    """Answer of ``GET /version``."""

    version: str


class CalibratedCellAnswer(BaseModel):
    """Medians of one crowd; `pairs` is of how many measurements."""

    sequences: int
    context: int
    parallel_seconds: float
    sequential_seconds: float
    ratio: float
    pairs: int


class CalibrationAnswer(BaseModel):
    """Answer of ``/calibrate``; `measured` of the cells are of the last calibration, which took `seconds`."""

    running: bool
    measured: int
    seconds: float
    cells: list[CalibratedCellAnswer]


class BlockStateAnswer(BaseModel):
    """What a block can be, and how many are: held by running sequences, cached for reuse, or free."""

    state: Literal["held", "cached", "free"]
    group: Literal["shared", "window", "own"] | None
    loop: int | None
    blocks: int


class CacheAnswer(BaseModel):
    """Answer of ``GET /cache``; `cells` are indices of `states`, each for `blocks_per_cell` blocks in a row."""

    block_size: int
    num_blocks: int
    blocks_per_cell: int
    states: list[BlockStateAnswer]
    cells: list[int]


ANSWERS: dict[str, type[BaseModel]] = {
    "/v1/completions": CompletionAnswer,
    "/v1/chat/completions": ChatAnswer,
    "/v1/fim/completions": ChatAnswer,
    "/infill": InfillAnswer,
    "/v1/models": ModelListAnswer,
    "/v1/models/{model_id}": ModelAnswer,
    "/v1/completions/render": RenderListAnswer,
    "/v1/chat/completions/render": RenderAnswer,
    "/tokenize": TokenizeAnswer,
    "/detokenize": DetokenizeAnswer,
    "/tokenizer_info": TokenizerInfoAnswer,
    "/health": StatusAnswer,
    "/ready": StatusAnswer,
    "/version": VersionAnswer,
    "/calibrate": CalibrationAnswer,
    "/cache": CacheAnswer,
}
"""By path in the document; an endpoint without an entry is described as answering some JSON object."""
