"""Tools through `/v1/responses` and `/v1/messages`: what the model reads, and what clients get of its calls."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from openai.types.responses import Response

from tests.server.played import Played, says
from tests.server.test_messages_events import assemble
from tests.server.test_responses_events import check_order
from tests.server.typed import typed_stream

RESPONSES, MESSAGES, COUNT = "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}
CALL = '<tool_call>\n{"name": "NAME", "arguments": {"path": "a.py"}}\n</tool_call>'
HI = {"role": "user", "content": "hi"}
Make = Callable[..., Played]


def calls(played: Make, *names: str) -> Played:
    """A model that says a word and then calls these tools."""
    text = "I look.\n" + "\n".join(CALL.replace("NAME", name) for name in names)
    return played(says(text), settings={"tool_call_parser": "hermes"}, max_model_len=4096)


def prompt_of(server: Played) -> str:
    ids = server.host.requests[-1].prompt_token_ids
    return server.state().tokenizer.decode(ids, False)


def responses_body(*tools: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"input": "hi", "tools": list(tools), **more}


def messages_body(**more: Any) -> dict[str, Any]:
    tools = [{"name": "read", "description": "reads", "input_schema": SCHEMA}]
    return {"model": "tiny", "max_tokens": 200, "messages": [HI], "tools": tools, **more}


FUNCTION = {"type": "function", "name": "read", "description": "reads", "parameters": SCHEMA}


def test_responses_calls(played: Make) -> None:
    answer = calls(played, "read", "read").ask(RESPONSES, responses_body(FUNCTION)).json()
    Response.model_validate(answer, strict=True)
    message, first, second = answer["output"]
    assert message["content"][0]["text"].strip() == "I look."
    assert (first["type"], first["name"], json.loads(first["arguments"])) == (
        "function_call",
        "read",
        {"path": "a.py"},
    )
    assert first["call_id"] != second["call_id"]
    assert answer["status"] == "completed"


def test_responses_calls_streamed(played: Make) -> None:
    events = typed_stream(calls(played, "read"), RESPONSES, responses_body(FUNCTION))
    check_order(events)
    pieces = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert json.loads("".join(pieces)) == {"path": "a.py"}
    assert events[-1]["response"]["output"][1]["arguments"] == "".join(pieces)


def test_tools_of_a_namespace_as_codex_sends_mcp_servers(played: Make) -> None:
    space = {"type": "namespace", "name": "mcp__files__", "description": "", "tools": [FUNCTION]}
    server = calls(played, "mcp__files__read")
    answer = server.ask(RESPONSES, responses_body(space, {"type": "web_search"})).json()
    call = answer["output"][1]
    assert (call["namespace"], call["name"]) == ("mcp__files__", "read")
    assert answer["tools"] == [space], "says what the model was given"
    assert "mcp__files__read" in prompt_of(server)


def test_a_conversation_with_calls_goes_back_in(played: Make) -> None:
    server = calls(played, "read")
    output = server.ask(RESPONSES, responses_body(FUNCTION)).json()["output"]
    result = {"type": "function_call_output", "call_id": output[1]["call_id"], "output": "print(1)"}
    items = [HI, *output, result]
    assert server.ask(RESPONSES, responses_body(FUNCTION, input=items)).status_code == 200
    assert "print(1)" in prompt_of(server)


def test_messages_calls(played: Make) -> None:
    answer = calls(played, "read").ask(MESSAGES, messages_body()).json()
    text, use = answer["content"]
    assert text["text"].strip() == "I look."
    assert (use["type"], use["name"], use["input"]) == ("tool_use", "read", {"path": "a.py"})
    assert answer["stop_reason"] == "tool_use"
    streamed = assemble(typed_stream(calls(played, "read"), MESSAGES, messages_body()))
    assert [{**block, "id": 0} for block in streamed["content"]] == [
        {**block, "id": 0} for block in answer["content"]
    ]
    assert streamed["usage"] == answer["usage"]


def test_messages_results_go_back_in(played: Make) -> None:
    server = calls(played, "read")
    content = server.ask(MESSAGES, messages_body()).json()["content"]
    result = {"type": "tool_result", "tool_use_id": content[1]["id"], "content": "print(1)"}
    turns = [HI, {"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
    assert server.ask(MESSAGES, messages_body(messages=turns)).status_code == 200
    prompt = prompt_of(server)
    assert "print(1)" in prompt
    counted = server.ask(COUNT, {"model": "tiny", "messages": turns, "tools": messages_body()["tools"]})
    assert counted.json()["input_tokens"] > len(HI["content"])


def test_counting_counts_tools(played: Make) -> None:
    server = calls(played, "read")
    body = messages_body()
    del body["max_tokens"]
    with_tools = server.ask(COUNT, body).json()["input_tokens"]
    without = server.ask(COUNT, {**body, "tools": []}).json()["input_tokens"]
    assert with_tools > without
    server.ask(MESSAGES, messages_body())
    assert len(server.host.requests[-1].prompt_token_ids) == with_tools


@pytest.mark.parametrize("form", ["json_object", "json_schema"])
def test_a_format_of_text_binds_the_engine(played: Make, form: str) -> None:
    server = played()
    text = {"format": {"type": form, **({"name": "n", "schema": SCHEMA} if form == "json_schema" else {})}}
    response = server.ask(RESPONSES, {"input": "hi", "text": text})
    assert response.status_code == 200, response.text
    assert server.host.requests[0].params.grammar
    assert response.json()["text"]["format"] == text["format"]


def test_prefill_continues_the_answer(played: Make) -> None:
    server = played()
    turns = [HI, {"role": "assistant", "content": "The answer"}]
    assert server.ask(MESSAGES, {"model": "tiny", "max_tokens": 9, "messages": turns}).status_code == 200
    assert prompt_of(server).endswith("assistant\nThe answer")
