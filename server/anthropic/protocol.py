"""Bodies of ``POST /v1/messages`` and ``POST /v1/messages/count_tokens``.

Messages, tools and formats are read by hand (`translate`); sampling fields are checked by the chat request they become.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from server.openai.protocol import Stops
from server.openai.unsupported import MAX_LABEL_CHARS

Label = Annotated[str, Field(max_length=MAX_LABEL_CHARS)]


class OutputConfig(BaseModel):
    """What the answer looks like; effort is accepted, whether a model thinks is up to its template."""

    model_config = ConfigDict(strict=True)

    effort: Label | None = None
    format: Annotated[dict[str, Any], Field(max_length=8)] | None = None


class PromptFields(BaseModel):
    """What makes the prompt."""

    model_config = ConfigDict(strict=True)

    model: str
    messages: Any
    system: Any = None
    tools: Any = None
    tool_choice: Annotated[dict[str, Any], Field(max_length=8)] | None = None
    thinking: Annotated[dict[str, Any], Field(max_length=8)] | None = None
    output_config: OutputConfig | None = None
    output_format: Annotated[dict[str, Any], Field(max_length=8)] | None = None
    context_management: Any = None
    """Claude Code asks for old thinking to be dropped, which templates do anyway; nothing is made of it."""
    mcp_servers: Any = None
    container: Any = None


class CountTokensRequest(PromptFields):
    """Body of ``POST /v1/messages/count_tokens``."""


class MessagesRequest(PromptFields):
    """Body of ``POST /v1/messages``; `seed`, `min_p` and `loops` are this server's."""

    max_tokens: Annotated[int, Field(ge=1, le=2**31)]
    stream: bool | None = None
    stop_sequences: Stops = []
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31)] | None = None
    metadata: Annotated[dict[str, Any], Field(max_length=16)] | None = None
    service_tier: Label | None = None
    seed: Any = None
    min_p: Any = None
    loops: Any = None
