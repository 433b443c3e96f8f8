"""The settings that bound what clients may cost: their connections, their bodies, and what one request may ask for."""

from typing import Annotated

from pydantic import ByteSize, Field
from pydantic_settings import BaseSettings

from engine.sampling_params import MAX_LOGIT_BIAS
from server.openai.limits import DEFAULT_LIMITS, LIMIT_NAMES, RequestLimits

SizeInBytes = Annotated[ByteSize, Field(gt=0)]
MAX_NESTING = 256  # grammars are made of schemas by recursion
MAX_CONSTRAINT_BYTES = 1 << 19  # what grammars are made of may grow to twice that (`engine.sampling_params`)


class LimitSettings(BaseSettings):
    """The part of `server.settings.Settings` that says no."""

    header_timeout: float = Field(
        10.0, gt=0, le=3600, description="Seconds that a request's headers may take from their first byte."
    )
    body_timeout: float = Field(30.0, gt=0, le=3600, description="Seconds that a request's body may take.")
    write_timeout: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds that a client may take nothing of its answer before it is cut off.",
    )
    max_connections: int = Field(
        1024,
        ge=1,
        le=1 << 20,
        description="Most connections; more get 503, but a few still reach /health and /ready.",
    )
    max_headers: int = Field(100, ge=1, le=10_000, description="Most headers of a request.")
    max_header_size: SizeInBytes = Field(
        ByteSize(16 << 10), le=1 << 20, description="Largest headers of a request together, with its address."
    )
    max_body_size: SizeInBytes = Field(ByteSize(4 << 20), description="Largest request body.")
    max_body_memory: SizeInBytes = Field(
        ByteSize(256 << 20),
        description="Most memory for the bodies of all requests that are being read or answered; more get 503.",
    )
    max_choices: int = Field(
        DEFAULT_LIMITS.max_choices, ge=1, le=65536, description="Most choices per prompt (n)."
    )
    max_prompts: int = Field(
        DEFAULT_LIMITS.max_prompts, ge=1, le=65536, description="Most prompts of a completion request."
    )
    max_request_sequences: int = Field(
        DEFAULT_LIMITS.max_request_sequences,
        ge=1,
        le=65536,
        description="Most sequences of one request: prompts times choices.",
    )
    max_stops: int = Field(
        DEFAULT_LIMITS.max_stops, ge=0, le=1024, description="Most stop strings of a request."
    )
    max_stop_chars: int = Field(
        DEFAULT_LIMITS.max_stop_chars, ge=1, le=65536, description="Longest stop string, in characters."
    )
    max_logit_bias: int = Field(
        DEFAULT_LIMITS.max_logit_bias, ge=0, le=MAX_LOGIT_BIAS, description="Most entries of logit_bias."
    )
    max_nesting: int = Field(
        DEFAULT_LIMITS.max_nesting,
        ge=8,
        le=MAX_NESTING,
        description="Deepest nesting of a request's JSON, schemas included.",
    )
    max_schema_size: SizeInBytes = Field(
        ByteSize(DEFAULT_LIMITS.max_schema_size),
        le=MAX_CONSTRAINT_BYTES,
        description="Largest schema, regex or grammar that an answer must follow.",
    )
    max_tools: int = Field(
        DEFAULT_LIMITS.max_tools, ge=0, le=65536, description="Most functions of a request's tools."
    )
    max_messages: int = Field(
        DEFAULT_LIMITS.max_messages, ge=1, le=1 << 20, description="Most messages of a conversation."
    )

    @property
    def request_limits(self) -> RequestLimits:
        """What the checks of request fields go by."""
        return RequestLimits(**{name: int(getattr(self, name)) for name in LIMIT_NAMES})
