"""LiteLLM as a client library: Aider and OpenHands speak through it."""

import asyncio
from typing import Any

import litellm
from checking import (
    API,
    ASK_LANGUAGE,
    ASK_WEATHER,
    KEY,
    LONG_RUN,
    MESSAGES,
    MODEL,
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

litellm.suppress_debug_info = True

PROVIDERS = ("openai", "hosted_vllm")
"""Both are in use for servers with OpenAI's API; they map errors and options in code of their own."""
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


def complete(provider: str = "openai", **options: Any) -> Any:
    given = {"max_tokens": 24, "temperature": 0, "messages": MESSAGES, "api_key": KEY, **options}
    model = f"{provider}/{given.pop('model', MODEL)}"
    return litellm.completion(model=model, api_base=API, timeout=TIMEOUT_S, num_retries=0, **given)


@feature("completion")
def completion() -> None:
    answer = litellm.text_completion(
        model=f"text-completion-openai/{MODEL}", prompt=PROMPT, max_tokens=8, api_base=API, api_key=KEY
    )
    require(answer.choices[0].text, "no text")


@feature("chat")
def chat() -> None:
    for provider in PROVIDERS:
        answer = complete(provider)
        require(answer.choices[0].message.content, "no content")
        require(answer.usage.completion_tokens > 0, answer.usage)


@feature("stream")
def stream() -> None:
    for provider in PROVIDERS:
        whole = complete(provider).choices[0].message.content
        chunks = list(complete(provider, stream=True))
        equal("".join(chunk.choices[0].delta.content or "" for chunk in chunks), whole, "text")
        require(chunks[-1].choices[0].finish_reason in ("stop", "length"), chunks[-1])


@feature("usage in stream")
def usage_in_stream() -> None:
    *_, last = complete(stream=True, stream_options={"include_usage": True})
    require(last.usage.completion_tokens > 0, last)


@feature("logprobs")
def logprobs() -> None:
    content = complete(logprobs=True, top_logprobs=2).choices[0].logprobs.content
    require(all(len(entry.top_logprobs) == 2 for entry in content), content)


@feature("n")
def choices() -> None:
    equal(len(complete(n=3, temperature=1).choices), 3, "choices")


@feature("stop")
def stop() -> None:
    free = complete().choices[0].message.content
    cut = complete(stop=[free[5:8]]).choices[0]
    equal(cut.message.content, free[: free.index(free[5:8])], "text")


@feature("tools")
def tools() -> None:
    for provider in PROVIDERS:
        options: Any = {"messages": ASK_WEATHER, "tools": [TOOL], "max_tokens": 200}
        choice = complete(provider, tool_choice=NAMED, **options).choices[0]
        (call,) = choice.message.tool_calls
        check_weather(call.function.arguments)
        equal(choice.finish_reason, "tool_calls", "finish_reason")
        result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        options["messages"] = [*ASK_WEATHER, choice.message, result]
        require(complete(provider, **{**options, "max_tokens": 24}).choices, "no answer to a tool's result")


@feature("tools streamed")
def tools_streamed() -> None:
    chunks = list(
        complete(messages=ASK_WEATHER, tools=[TOOL], tool_choice=NAMED, max_tokens=200, stream=True)
    )
    whole = litellm.stream_chunk_builder(chunks, messages=ASK_WEATHER)
    (call,) = whole.choices[0].message.tool_calls
    equal(call.function.name, "get_weather", "name")
    check_weather(call.function.arguments)
    equal(chunks[-1].choices[0].finish_reason, "tool_calls", "finish_reason")


@feature("json_schema")
def json_schema() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "language", "schema": SCHEMA, "strict": True}}
    for provider in PROVIDERS:
        answer = complete(provider, messages=ASK_LANGUAGE, response_format=form, max_tokens=100)
        check_language(answer.choices[0].message.content)


@feature("auth error")
def auth_error() -> None:
    for provider in PROVIDERS:
        raises(litellm.AuthenticationError, lambda p=provider: complete(p, api_key=WRONG_KEY))


@feature("context overflow")
def context_overflow() -> None:
    long = [{"role": "user", "content": TOO_LONG}]
    for provider in PROVIDERS:
        for streamed in (False, True):
            raises(
                litellm.ContextWindowExceededError,
                lambda p=provider, s=streamed: complete(p, messages=long, stream=s),
            )


@feature("unknown model")
def unknown_model() -> None:
    for provider in PROVIDERS:
        raises(litellm.NotFoundError, lambda p=provider: complete(p, model=UNKNOWN_MODEL))


@feature("responses")
def responses() -> None:
    answer = litellm.responses(
        model=f"openai/{MODEL}", input="Say hello.", max_output_tokens=24, api_base=API, api_key=KEY
    )
    require(answer.output, "no output")


@feature("messages")
def messages() -> None:
    asking = litellm.anthropic.messages.acreate(
        model=f"anthropic/{MODEL}", messages=[MESSAGES[1]], max_tokens=24, api_base=URL, api_key=KEY
    )
    answer: Any = asyncio.run(asking)
    equal(answer["role"], "assistant", "role")


@feature("cancel")
def cancel() -> None:
    def start() -> Any:
        stream = complete(stream=True, max_tokens=LONG_RUN, extra_body={"ignore_eos": True})
        next(iter(stream))
        return stream.completion_stream.close

    check_cancelled(start)


if __name__ == "__main__":
    main("litellm")
