"""openai-python, of any major version."""

from typing import Any

import openai
from checking import (
    API,
    ASK_LANGUAGE,
    ASK_WEATHER,
    KEY,
    LONG_RUN,
    MESSAGES,
    MODEL,
    OTHER_TOOL,
    PROMPT,
    SCHEMA,
    TIMEOUT_S,
    TOO_LONG,
    TOOL,
    UNKNOWN_MODEL,
    URL,
    WRONG_KEY,
    check_cancelled,
    check_language,
    check_weather,
    equal,
    feature,
    main,
    raises,
    require,
)

GREEDY: dict[str, Any] = {"model": MODEL, "max_tokens": 24, "temperature": 0}
JSON_SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {"name": "language", "schema": SCHEMA, "strict": True},
}


def connect(url: str = API, key: str = KEY) -> Any:
    """A client that doesn't retry: a retry would hide a failure. Not typed, as old and new versions differ."""
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=TIMEOUT_S)


client = connect()


@feature("models list")
def models() -> None:
    require(MODEL in [card.id for card in client.models.list()], "the model is not in the list")
    card = client.models.retrieve(MODEL)
    equal(card.id, MODEL, "id")
    require(card.model_dump()["max_model_len"] > 0, "no max_model_len")


@feature("completion")
def completion() -> None:
    answer = client.completions.create(prompt=PROMPT, **GREEDY)
    equal(answer.object, "text_completion", "object")
    require(answer.choices[0].text, "no text")
    require(answer.choices[0].finish_reason in ("stop", "length"), answer.choices[0])
    usage = answer.usage
    equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens, "total_tokens")
    batch = client.completions.create(prompt=[PROMPT, "x = "], **GREEDY)
    equal([choice.index for choice in batch.choices], [0, 1], "indices")
    equal(batch.choices[0].text, answer.choices[0].text, "text in a batch")


@feature("chat")
def chat() -> None:
    answer = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    equal(answer.object, "chat.completion", "object")
    message = answer.choices[0].message
    equal(message.role, "assistant", "role")
    require(message.content, "no content")
    again = [
        *MESSAGES,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": "Again."},
    ]
    longer = client.chat.completions.create(messages=again, **GREEDY)
    require(longer.usage.prompt_tokens > answer.usage.prompt_tokens, "the conversation did not grow")
    parts = [{"role": "user", "content": [{"type": "text", "text": MESSAGES[1]["content"]}]}]
    require(client.chat.completions.create(messages=parts, **GREEDY).choices, "no answer to text parts")


@feature("stream")
def stream_completion() -> None:
    whole = client.completions.create(prompt=PROMPT, **GREEDY).choices[0]
    chunks = list(client.completions.create(prompt=PROMPT, stream=True, **GREEDY))
    equal("".join(chunk.choices[0].text for chunk in chunks), whole.text, "text")
    equal(chunks[-1].choices[0].finish_reason, whole.finish_reason, "finish_reason")
    equal(len({chunk.id for chunk in chunks}), 1, "ids")


@feature("stream")
def stream_chat() -> None:
    whole = client.chat.completions.create(messages=MESSAGES, **GREEDY).choices[0]
    chunks = list(client.chat.completions.create(messages=MESSAGES, stream=True, **GREEDY))
    equal(chunks[0].choices[0].delta.role, "assistant", "role of the first chunk")
    equal("".join(chunk.choices[0].delta.content or "" for chunk in chunks), whole.message.content, "text")
    equal(chunks[-1].choices[0].finish_reason, whole.finish_reason, "finish_reason")


@feature("usage in stream")
def usage_in_stream() -> None:
    for create, what in (
        (client.completions.create, {"prompt": PROMPT}),
        (client.chat.completions.create, {"messages": MESSAGES}),
    ):
        options = {**GREEDY, **what, "stream": True, "stream_options": {"include_usage": True}}
        *chunks, last = list(create(**options))
        equal(last.choices, [], "choices of the last chunk")
        require(0 < last.usage.completion_tokens <= 24, last.usage)
        require(all(chunk.usage is None for chunk in chunks), "usage before the last chunk")


@feature("logprobs")
def logprobs_completion() -> None:
    answer = client.completions.create(prompt=PROMPT, logprobs=2, **GREEDY)
    logprobs = answer.choices[0].logprobs
    equal("".join(logprobs.tokens), answer.choices[0].text, "tokens")
    for token, value, top in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        equal(value, max(top.values()), f"logprob of the greedy token {token!r}")
        require(len(top) >= 2, top)
    equal(
        logprobs.text_offset[0],
        0 if answer.choices[0].text.startswith(logprobs.tokens[0]) else None,
        "offset",
    )


@feature("logprobs")
def logprobs_chat() -> None:
    answer = client.chat.completions.create(messages=MESSAGES, logprobs=True, top_logprobs=2, **GREEDY)
    content = answer.choices[0].logprobs.content
    text = b"".join(bytes(entry.bytes) for entry in content).decode()
    equal(text, answer.choices[0].message.content, "bytes")
    require(all(len(entry.top_logprobs) == 2 for entry in content), "not two alternatives")


@feature("echo logprobs")
def echo_logprobs() -> None:
    ids = client.with_options(base_url=URL).post("/tokenize", body={"prompt": PROMPT}, cast_to=object)[
        "tokens"
    ]
    answer = client.completions.create(
        model=MODEL, prompt=ids, max_tokens=1, echo=True, logprobs=1, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    equal(len(logprobs.tokens), len(ids) + 1, "number of tokens")
    equal(logprobs.token_logprobs[0], None, "first logprob")
    for token, value, top in list(
        zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True)
    )[1:]:
        equal(top[token], value, f"logprob of {token!r} among the most likely")


@feature("n")
def choices() -> None:
    options = {**GREEDY, "temperature": 1.0, "seed": 7, "n": 3}
    answer = client.completions.create(prompt=PROMPT, **options)
    equal([choice.index for choice in answer.choices], [0, 1, 2], "indices")
    require(len({choice.text for choice in answer.choices}) > 1, "all choices are the same")
    again = client.completions.create(prompt=PROMPT, **options)
    equal([one.text for one in again.choices], [one.text for one in answer.choices], "seeded texts")
    chunks = list(client.chat.completions.create(messages=MESSAGES, stream=True, **options))
    equal({chunk.choices[0].index for chunk in chunks}, {0, 1, 2}, "indices of a stream")


@feature("stop")
def stop() -> None:
    free = client.completions.create(prompt=PROMPT, **GREEDY).choices[0].text
    word = free[len(free) // 2 :][:3]
    stops = [word, *(f"never {number}" for number in range(15))]
    cut = client.completions.create(prompt=PROMPT, stop=stops, **GREEDY).choices[0]
    equal(cut.text, free[: free.index(word)], "text")
    equal(cut.finish_reason, "stop", "finish_reason")
    chunks = client.completions.create(prompt=PROMPT, stop=word, stream=True, **GREEDY)
    equal("".join(chunk.choices[0].text for chunk in chunks), cut.text, "streamed text")


FORCED: dict[str, Any] = {"model": MODEL, "max_tokens": 200, "seed": 1, "tools": [TOOL, OTHER_TOOL]}
"""A forced call ends by itself, as its grammar does; what is free gets few tokens."""
FREE: dict[str, Any] = {**FORCED, "max_tokens": 24}


@feature("tools")
def tools_required() -> None:
    # How many calls are enough is the model's choice, unless one is. Old versions have no argument for it.
    answer = client.chat.completions.create(
        messages=ASK_WEATHER, tool_choice="required", extra_body={"parallel_tool_calls": False}, **FORCED
    )
    choice = answer.choices[0]
    require(choice.message.tool_calls, f"no tool call: {choice}")
    require(choice.message.tool_calls[0].function.name in ("get_weather", "set_alarm"), choice)
    equal(choice.finish_reason, "tool_calls", "finish_reason")


@feature("tools")
def tools_named() -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    answer = client.chat.completions.create(messages=ASK_WEATHER, tool_choice=named, **FORCED)
    (call,) = answer.choices[0].message.tool_calls
    equal(call.type, "function", "type")
    equal(call.function.name, "get_weather", "name")
    check_weather(call.function.arguments)
    conversation = [
        *ASK_WEATHER,
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    final = client.chat.completions.create(messages=conversation, tool_choice="none", **FREE)
    require(not final.choices[0].message.tool_calls, "a tool call though none was allowed")
    require(final.choices[0].message.content is not None, "no content")


@feature("tools")
def tools_auto() -> None:
    answer = client.chat.completions.create(messages=ASK_WEATHER, **FREE)
    require(answer.choices[0].finish_reason in ("stop", "length", "tool_calls"), answer.choices[0])


@feature("tools streamed")
def tools_streamed() -> None:
    chunks = list(
        client.chat.completions.create(
            messages=ASK_WEATHER,
            tool_choice={"type": "function", "function": {"name": "get_weather"}},
            stream=True,
            **FORCED,
        )
    )
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    require(len(deltas) > 1, f"arguments did not come in parts: {deltas}")
    equal({delta.index for delta in deltas}, {0}, "indices")
    equal(deltas[0].function.name, "get_weather", "name")
    require(deltas[0].id, "no id")
    require(not any(delta.function.name for delta in deltas[1:]), "the name came twice")
    check_weather("".join(delta.function.arguments or "" for delta in deltas))
    equal(chunks[-1].choices[0].finish_reason, "tool_calls", "finish_reason")


@feature("json_schema")
def json_schema() -> None:
    options = {"model": MODEL, "max_tokens": 100, "seed": 1, "response_format": JSON_SCHEMA}
    answer = client.chat.completions.create(messages=ASK_LANGUAGE, **options)
    check_language(answer.choices[0].message.content)
    equal(answer.choices[0].finish_reason, "stop", "finish_reason")
    chunks = list(client.chat.completions.create(messages=ASK_LANGUAGE, stream=True, **options))
    check_language("".join(chunk.choices[0].delta.content or "" for chunk in chunks))


@feature("json_schema")
def a_broken_schema() -> None:
    broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    raises(
        openai.BadRequestError,
        lambda: client.chat.completions.create(messages=ASK_LANGUAGE, response_format=broken, **GREEDY),
    )


@feature("auth error")
def auth_error() -> None:
    stranger = connect(key=WRONG_KEY)
    for call in (
        lambda: stranger.completions.create(prompt=PROMPT, **GREEDY),
        lambda: stranger.chat.completions.create(messages=MESSAGES, stream=True, **GREEDY),
        lambda: stranger.models.list(),
    ):
        equal(raises(openai.AuthenticationError, call).code, "invalid_api_key", "code")


@feature("context overflow")
def context_overflow() -> None:
    for call in (
        lambda: client.completions.create(prompt=TOO_LONG, **GREEDY),
        lambda: client.chat.completions.create(messages=[{"role": "user", "content": TOO_LONG}], **GREEDY),
        lambda: client.completions.create(prompt=TOO_LONG, stream=True, **GREEDY),
    ):
        error = raises(openai.BadRequestError, call)
        equal(error.code, "context_length_exceeded", "code")
        equal(error.type, "invalid_request_error", "type")
        require("maximum context length is" in str(error), error)


@feature("unknown model")
def unknown_model() -> None:
    other = {**GREEDY, "model": UNKNOWN_MODEL}
    for call in (
        lambda: client.completions.create(prompt=PROMPT, **other),
        lambda: client.chat.completions.create(messages=MESSAGES, **other),
        lambda: client.models.retrieve(UNKNOWN_MODEL),
    ):
        equal(raises(openai.NotFoundError, call).code, "model_not_found", "code")


@feature("FIM")
def fill_in_the_middle() -> None:
    answer = client.completions.create(prompt=PROMPT, suffix="\n\nprint(add(1, 2))\n", **GREEDY)
    equal(answer.choices[0].index, 0, "index")
    require(answer.usage.prompt_tokens > 0, answer.usage)


@feature("tokenize")
def tokenize() -> None:
    bare = client.with_options(base_url=URL)
    ids = bare.post("/tokenize", body={"prompt": PROMPT}, cast_to=object)["tokens"]
    require(ids, "no tokens")
    equal(bare.post("/detokenize", body={"tokens": ids}, cast_to=object)["prompt"], PROMPT, "text")


@feature("responses")
def responses() -> None:
    options = {"model": MODEL, "input": "Say hello.", "max_output_tokens": 24, "store": False}
    answer = client.responses.create(**options)
    equal(answer.object, "response", "object")
    require(answer.output, "no output")
    require(answer.usage.output_tokens > 0, answer.usage)
    events = list(client.responses.create(stream=True, **options))
    equal(events[0].type, "response.created", "first event")
    require(events[-1].type in ("response.completed", "response.incomplete"), events[-1].type)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    equal(events[-1].response.output_text, text, "text")


@feature("responses")
def responses_tools() -> None:
    tool = {"type": "function", "strict": True, **TOOL["function"]}
    answer = client.responses.create(
        model=MODEL,
        input=ASK_WEATHER,
        tools=[tool],
        tool_choice={"type": "function", "name": "get_weather"},
        max_output_tokens=200,
    )
    (call,) = [item for item in answer.output if item.type == "function_call"]
    check_weather(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    final = client.responses.create(
        model=MODEL,
        input=[*ASK_WEATHER, call, result],
        tools=[tool],
        tool_choice="none",
        max_output_tokens=24,
    )
    require(final.output, "no output after a tool's result")


@feature("responses")
def responses_json_schema() -> None:
    form = {"type": "json_schema", "name": "language", "schema": SCHEMA, "strict": True}
    answer = client.responses.create(
        model=MODEL, input=ASK_LANGUAGE, text={"format": form}, max_output_tokens=100
    )
    check_language(answer.output_text)


@feature("cancel")
def cancel() -> None:
    endless = {"model": MODEL, "max_tokens": LONG_RUN, "stream": True, "extra_body": {"ignore_eos": True}}

    def start(create: Any, what: dict[str, Any]) -> Any:
        stream = create(**endless, **what)
        next(iter(stream))
        return stream.close

    check_cancelled(lambda: start(client.completions.create, {"prompt": PROMPT}))
    check_cancelled(lambda: start(client.chat.completions.create, {"messages": MESSAGES}))


if __name__ == "__main__":
    main("openai")
