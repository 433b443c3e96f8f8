"""langchain-openai."""

from typing import Any, Literal

import openai
from checking import (
    API,
    ASK_WEATHER,
    KEY,
    LONG_RUN,
    MODEL,
    PROMPT,
    SCHEMA,
    TIMEOUT_S,
    TOO_LONG,
    TOOL,
    UNKNOWN_MODEL,
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
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict, Field

CHAT = [SystemMessage("You are a helpful assistant."), HumanMessage("Add two numbers.")]


class Language(BaseModel):
    """A programming language. Closed, as the model behind the server would go on adding properties."""

    model_config = ConfigDict(extra="forbid")

    language: Literal["python", "rust", "go"]
    level: int = Field(ge=1, le=5)
    typed: bool


def model(**options: Any) -> ChatOpenAI:
    given = {"model": MODEL, "api_key": KEY, "temperature": 0, "max_tokens": 24, **options}
    return ChatOpenAI(base_url=API, max_retries=0, timeout=TIMEOUT_S, **given)


@feature("completion")
def completion() -> None:
    llm = OpenAI(model=MODEL, base_url=API, api_key=KEY, max_tokens=8, temperature=0, max_retries=0)
    text = llm.invoke(PROMPT)
    require(text, "no text")
    equal("".join(llm.stream(PROMPT)), text, "streamed text")


@feature("chat")
def chat() -> None:
    answer = model().invoke(CHAT)
    require(answer.content, "no content")
    require(answer.usage_metadata["output_tokens"] > 0, answer)


@feature("stream")
def stream() -> None:
    text = "".join(chunk.content for chunk in model().stream(CHAT))
    equal(text, model().invoke(CHAT).content, "text")


@feature("usage in stream")
def usage_in_stream() -> None:
    chunks = list(model(stream_usage=True).stream(CHAT))
    usages = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    equal(len(usages), 1, "chunks with usage")
    require(usages[0]["output_tokens"] > 0, usages)


@feature("logprobs")
def logprobs() -> None:
    content = model(logprobs=True, top_logprobs=2).invoke(CHAT).response_metadata["logprobs"]["content"]
    require(all(len(entry["top_logprobs"]) == 2 for entry in content), content)


@feature("n")
def choices() -> None:
    (generations,) = model(n=3, temperature=1.0).generate([CHAT]).generations
    equal(len(generations), 3, "choices")


@feature("stop")
def stop() -> None:
    free = model().invoke(CHAT).content
    cut = model().invoke(CHAT, stop=[free[5:8]]).content
    equal(cut, free[: free.index(free[5:8])], "text")


@feature("tools")
def tools() -> None:
    bound = model(max_tokens=200).bind_tools([TOOL], tool_choice="get_weather")
    answer = bound.invoke(ASK_WEATHER)
    (call,) = answer.tool_calls
    equal(call["name"], "get_weather", "name")
    check_weather(call["args"])
    conversation = [
        HumanMessage(ASK_WEATHER[0]["content"]),
        answer,
        ToolMessage("sunny", tool_call_id=call["id"]),
    ]
    model().bind_tools([TOOL]).invoke(conversation)
    any_tool = model(max_tokens=200).bind_tools([TOOL], tool_choice="any", parallel_tool_calls=False)
    (forced,) = any_tool.invoke(ASK_WEATHER).tool_calls
    check_weather(forced["args"])


@feature("tools streamed")
def tools_streamed() -> None:
    bound = model(max_tokens=200).bind_tools([TOOL], tool_choice="get_weather")
    first, *rest = bound.stream(ASK_WEATHER)
    for chunk in rest:
        first = first + chunk
    (call,) = first.tool_calls
    check_weather(call["args"])


@feature("json_schema")
def json_schema() -> None:
    for method in ("json_schema", "function_calling"):
        structured = model(max_tokens=200).with_structured_output(Language, method=method)
        require(isinstance(structured.invoke("Describe a language."), Language), f"{method} gave no Language")
    schema = {"title": "language", "description": "A programming language.", **SCHEMA}
    check_language(model(max_tokens=200).with_structured_output(schema, strict=True).invoke("Describe one."))


@feature("auth error")
def auth_error() -> None:
    raises(openai.AuthenticationError, lambda: model(api_key=WRONG_KEY).invoke(CHAT))


@feature("context overflow")
def context_overflow() -> None:
    raises(ContextOverflowError, lambda: model().invoke(TOO_LONG))
    raises(ContextOverflowError, lambda: list(model().stream(TOO_LONG)))


@feature("unknown model")
def unknown_model() -> None:
    raises(openai.NotFoundError, lambda: model(model=UNKNOWN_MODEL).invoke(CHAT))


@feature("responses")
def responses() -> None:
    llm = model(use_responses_api=True)
    require(llm.invoke(CHAT).text, "no text")
    require("".join(chunk.text for chunk in llm.stream(CHAT)), "no streamed text")


@feature("cancel")
def cancel() -> None:
    def start() -> Any:
        stream = model(max_tokens=LONG_RUN, extra_body={"ignore_eos": True}).stream(CHAT)
        next(stream)
        return stream.close

    check_cancelled(start)


if __name__ == "__main__":
    main("langchain-openai")
