"""anthropic-sdk-python over /v1/messages."""

from typing import Any

import anthropic
from checking import (
    KEY,
    LONG_RUN,
    MODEL,
    PARAMETERS,
    TIMEOUT_S,
    TOO_LONG,
    UNKNOWN_MODEL,
    URL,
    WRONG_KEY,
    check_cancelled,
    check_weather,
    equal,
    feature,
    main,
    raises,
    require,
)

MESSAGES: Any = [{"role": "user", "content": "Write a function that adds two numbers."}]
GREEDY: dict[str, Any] = {
    "model": MODEL,
    "messages": MESSAGES,
    "max_tokens": 24,
    "extra_body": {"temperature": 0},  # the client's newest version has no argument for it
}
TOOL: Any = {"name": "get_weather", "description": "Weather of a city.", "input_schema": PARAMETERS}
ASK_WEATHER: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is the weather in Paris, in celsius?"}],
    "max_tokens": 200,
    "tools": [TOOL],
    "tool_choice": {"type": "tool", "name": "get_weather"},
}


def connect(key: str = KEY) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=URL, api_key=key, max_retries=0, timeout=TIMEOUT_S)


def prompt_tokens(answer: Any) -> int:
    """All of the prompt: `input_tokens` are only those that no cache had."""
    return answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)


client = connect()


@feature("messages")
def messages() -> None:
    answer = client.messages.create(**GREEDY)
    equal((answer.type, answer.role), ("message", "assistant"), "type and role")
    require(answer.content[0].text, "no text")
    require(answer.stop_reason in ("end_turn", "max_tokens"), answer.stop_reason)
    require(answer.usage.output_tokens > 0, answer.usage)
    parts = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    conversation = [
        *MESSAGES,
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": "Again."},
    ]
    longer = client.messages.create(**{**GREEDY, "system": parts, "messages": conversation})
    require(prompt_tokens(longer) > prompt_tokens(answer), "the conversation did not grow")


@feature("stream")
def stream() -> None:
    whole = client.messages.create(**GREEDY)
    with client.messages.stream(**GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    equal(text, whole.content[0].text, "text")
    equal(final.stop_reason, whole.stop_reason, "stop_reason")
    kinds = [event.type for event in client.messages.create(stream=True, **GREEDY)]
    equal((kinds[0], kinds[-2:]), ("message_start", ["message_delta", "message_stop"]), "events")


@feature("usage in stream")
def usage_in_stream() -> None:
    events = list(client.messages.create(stream=True, **GREEDY))
    require(prompt_tokens(events[0].message) > 0, events[0])
    (delta,) = [event for event in events if event.type == "message_delta"]
    require(0 < delta.usage.output_tokens <= 24, delta)


@feature("stop")
def stop() -> None:
    free = client.messages.create(**GREEDY).content[0].text
    word = free[5:8]
    cut = client.messages.create(stop_sequences=[word], **GREEDY)
    equal(cut.content[0].text, free[: free.index(word)], "text")
    equal((cut.stop_reason, cut.stop_sequence), ("stop_sequence", word), "stop_reason")


@feature("tools")
def tools() -> None:
    answer = client.messages.create(**ASK_WEATHER)
    (use,) = [block for block in answer.content if block.type == "tool_use"]
    equal(use.name, "get_weather", "name")
    check_weather(use.input)
    equal(answer.stop_reason, "tool_use", "stop_reason")
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
    conversation = [
        *ASK_WEATHER["messages"],
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [result]},
    ]
    final = client.messages.create(
        **{**ASK_WEATHER, "messages": conversation, "tool_choice": {"type": "none"}, "max_tokens": 24}
    )
    require(all(block.type == "text" for block in final.content), final.content)


@feature("tools streamed")
def tools_streamed() -> None:
    with client.messages.stream(**ASK_WEATHER) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    require(len(parts) > 1, "the input did not come in parts")
    (use,) = [block for block in final.content if block.type == "tool_use"]
    check_weather(use.input)


@feature("tokenize")
def count_tokens() -> None:
    count = client.messages.count_tokens(model=MODEL, messages=MESSAGES).input_tokens
    equal(count, prompt_tokens(client.messages.create(**GREEDY)), "tokens counted")


@feature("models list")
def models() -> None:
    require(MODEL in [card.id for card in client.models.list().data], "the model is not in the list")


@feature("auth error")
def auth_error() -> None:
    raises(anthropic.AuthenticationError, lambda: connect(WRONG_KEY).messages.create(**GREEDY))


@feature("context overflow")
def context_overflow() -> None:
    long = {**GREEDY, "messages": [{"role": "user", "content": TOO_LONG}]}
    error = raises(anthropic.BadRequestError, lambda: client.messages.create(**long))
    body: Any = error.body
    equal(body["type"], "error", "type of the body")
    equal(body["error"]["type"], "invalid_request_error", "type of the error")
    require("prompt is too long" in str(error) or "maximum context length is" in str(error), error)


@feature("unknown model")
def unknown_model() -> None:
    error = raises(
        anthropic.NotFoundError, lambda: client.messages.create(**{**GREEDY, "model": UNKNOWN_MODEL})
    )
    body: Any = error.body
    equal(body["error"]["type"], "not_found_error", "type")


@feature("cancel")
def cancel() -> None:
    def start() -> Any:
        endless = {**GREEDY, "max_tokens": LONG_RUN, "extra_body": {"ignore_eos": True}}
        stream = client.messages.create(stream=True, **endless)
        next(iter(stream))
        return stream.close

    check_cancelled(start)


if __name__ == "__main__":
    main("anthropic")
