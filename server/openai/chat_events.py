"""What happens in a chat answer, free of any wire format.

`server.openai.chat_run` makes these events; each API that answers chats (chat completions, responses, messages) writes
them in its own words. `index` is the choice, 0 to n - 1.
"""

from dataclasses import dataclass, field

from engine.messages import TokenLogprob


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of the answer's text.

    Attributes:
        text: may be empty when only logprobs have come.
        logprobs: of the tokens since the last event, when asked for.
    """

    index: int
    text: str
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what the model thinks before it answers."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A tool call begins, or its arguments go on.

    Attributes:
        call: number of the call within the choice, from 0.
        id: on a call's first delta only, like `name`.
        arguments: piece of the JSON text of the arguments; all pieces together are one JSON object.
    """

    index: int
    call: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatFinish:
    """A choice has ended; the last event of its index.

    Attributes:
        finish_reason: "stop", "length" or "tool_calls".
        stop_reason: the stop string or token id that ended it, if one did.
    """

    index: int
    finish_reason: str
    stop_reason: str | int | None


ChatEvent = ContentDelta | ReasoningDelta | ToolCallDelta | ChatFinish
