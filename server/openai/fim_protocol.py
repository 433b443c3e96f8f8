"""Bodies of the two fill-in-the-middle APIs, and what they are as completion requests.

Both are translated onto `CompletionRequest`, so that a sampling field means the same wherever it is sent.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from engine.config import GenerationDefaults
from server.openai.protocol import MAX_LIST, CompletionRequest, Loops, Stops

MAX_FILENAME_CHARS = 1024
MAX_RESPONSE_FIELDS = 64
MAX_FIELD_CHARS = 256

# llama.cpp's, for what neither the client nor the model's generation_config.json says.
INFILL_TEMPERATURE, INFILL_TOP_K, INFILL_TOP_P, INFILL_MIN_P = 0.8, 40, 0.95, 0.05

MaxTokens = Annotated[int, Field(ge=1, le=2**31)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=-1, le=2**31)]
MinP = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Milliseconds = Annotated[float, Field(ge=0, le=86_400_000)]


class FimRequest(BaseModel):
    """Body of ``POST /v1/fim/completions``: Mistral's fields, and the sampling fields that Continue adds."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    prompt: str
    suffix: str | None = None
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    min_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    random_seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops = []
    stream: bool | None = None
    loops: Loops = None

    def as_completion(self, room: int) -> CompletionRequest:
        """The same request for a completion; without a limit it may fill `room` tokens."""
        return CompletionRequest.model_construct(  # checked above, or the model's own defaults
            model=self.model,
            max_tokens=self.max_completion_tokens or self.max_tokens or max(1, room),
            min_tokens=self.min_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=self.random_seed,
            stop=self.stop,
            stream=self.stream,
            loops=self.loops,
        )


class InfillSnippet(BaseModel):
    """One entry of `input_extra`; llama.vim also sends when it was picked, which is ignored."""

    model_config = ConfigDict(strict=True)

    text: str
    filename: Annotated[str, Field(max_length=MAX_FILENAME_CHARS)] = "tmp"


class InfillRequest(BaseModel):
    """Body of ``POST /infill``: llama.cpp's fields."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    input_prefix: str
    input_suffix: str
    prompt: str | None = None
    input_extra: Annotated[list[InfillSnippet], Field(max_length=MAX_LIST, fail_fast=True)] | None = None
    n_predict: Annotated[int, Field(ge=-2, le=2**31)] | None = None
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: TopP | None = None
    min_p: MinP | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops = []
    ignore_eos: bool | None = None
    stream: bool | None = None
    loops: Loops = None
    t_max_predict_ms: Milliseconds | None = None
    response_fields: (
        Annotated[
            list[Annotated[str, Field(max_length=MAX_FIELD_CHARS)]],
            Field(max_length=MAX_RESPONSE_FIELDS, fail_fast=True),
        ]
        | None
    ) = None
    # Sent on every keystroke and without a meaning here: the cache is always used, samplers have a fixed order.
    cache_prompt: Any = None
    samplers: Any = None
    n_indent: Any = None
    t_max_prompt_ms: Any = None

    def as_completion(self, defaults: GenerationDefaults, room: int) -> CompletionRequest:
        """The same request for a completion; without a limit it may fill `room` tokens."""
        limited = self.n_predict is not None and self.n_predict >= 0
        return CompletionRequest.model_construct(  # checked above, or the model's own defaults
            model=self.model,
            max_tokens=self.n_predict if limited else max(1, room),
            temperature=_first(self.temperature, defaults.temperature, INFILL_TEMPERATURE),
            top_k=_first(self.top_k, defaults.top_k, INFILL_TOP_K),
            top_p=_first(self.top_p, defaults.top_p, INFILL_TOP_P),
            min_p=_first(self.min_p, defaults.min_p, INFILL_MIN_P),
            repetition_penalty=self.repeat_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=None if self.seed is None or self.seed < 0 else self.seed,
            stop=self.stop,
            ignore_eos=self.ignore_eos,
            stream=self.stream,
            loops=self.loops,
        )


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
