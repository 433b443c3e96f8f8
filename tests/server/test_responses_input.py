"""Input items and tools of Responses, as the chat path gets them."""

import json
from typing import Any

import pytest

from engine.errors import InvalidRequestError
from server.openai.limits import DEFAULT_LIMITS
from server.openai.responses_input import read_input
from server.openai.responses_tools import read_tools


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def call(name: str = "f", call_id: str = "c1", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": "{}", **more}


def output(content: Any = "done", call_id: str = "c1") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": content}


def test_a_string_is_the_users() -> None:
    assert read_input("hi", None, DEFAULT_LIMITS) == [user("hi")]
    assert read_input("hi", "be short", DEFAULT_LIMITS) == [
        {"role": "system", "content": "be short"},
        user("hi"),
    ]


def test_leading_system_messages_become_one() -> None:
    items = [{"role": "developer", "content": "d"}, {"role": "system", "content": "s"}, user("u")]
    items.append({"role": "developer", "content": "later"})
    assert read_input(items, "i", DEFAULT_LIMITS) == [
        {"role": "system", "content": "i\n\nd\n\ns"},
        user("u"),
        {"role": "developer", "content": "later"},
    ]


def test_one_turn_of_the_assistant_is_one_message() -> None:
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {
            "type": "reasoning",
            "id": "rs",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "hm"}],
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        call(call_id="c1"),
        call(call_id="c2"),
        output(call_id="c1"),
        output([{"type": "input_text", "text": "x"}, {"type": "input_text", "text": "y"}], call_id="c2"),
        {"type": "reasoning", "summary": [], "encrypted_content": "??"},
        call(call_id="c3"),
    ]
    _, turn, first, second, last = read_input(items, None, DEFAULT_LIMITS)
    assert (turn["role"], turn["content"], turn["reasoning_content"]) == ("assistant", "b", "hm")
    assert [one["id"] for one in turn["tool_calls"]] == ["c1", "c2"]
    assert first == {"role": "tool", "tool_call_id": "c1", "content": "done"}
    assert second["content"] == "xy"
    assert last["role"] == "assistant"
    assert last["content"] == ""
    assert last["tool_calls"] == [
        {"id": "c3", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]


def test_text_after_a_call_is_a_turn_of_its_own() -> None:
    messages = read_input([user("a"), call(), {"role": "assistant", "content": "b"}], None, DEFAULT_LIMITS)
    assert [message["content"] for message in messages] == ["a", "", "b"]


def test_calls_in_the_input_have_the_names_that_the_model_knows() -> None:
    custom = {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "é\n"}
    items = [user("a"), call("f", namespace="mcp__a__"), call("g", namespace="functions"), custom]
    first, second, third = (
        one["function"] for one in read_input(items, None, DEFAULT_LIMITS)[1]["tool_calls"]
    )
    assert (first["name"], second["name"]) == ("mcp__a__f", "g")
    assert json.loads(third["arguments"]) == {"input": "é\n"}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (None, "input"),
        (7, "input"),
        ({}, "input"),
        ([], "input"),
        ([[]], "input.0"),
        ([{}] * 20_000, "input"),
        ([{"role": "user"}], "input.0.content"),
        ([{"content": "a"}], "input.0.role"),
        ([{"role": ["user"], "content": "a"}], "input.0.role"),
        ([{"role": "tool", "content": "a"}], "input.0.role"),
        ([{"type": "message", "role": "user", "content": [[]]}], "input.0.content.0"),
        ([{"role": "user", "content": [{"type": "input_image"}]}], "input.0.content.0.type"),
        ([{"role": "user", "content": [{"type": ["input_text"]}]}], "input.0.content.0.type"),
        ([{"role": "user", "content": [{"type": "input_text", "text": 1}]}], "input.0.content.0.text"),
        ([{"type": "item_reference", "id": "x"}], "input.0"),
        ([{"type": "computer_call"}], "input.0.type"),
        ([{"type": {"a": 1}}], "input.0.type"),
        ([{"type": "function_call", "call_id": "c", "name": "f"}], "input.0.arguments"),
        ([{"type": "function_call", "name": "f", "arguments": "{}"}], "input.0.call_id"),
        ([call(namespace=3)], "input.0.namespace"),
        ([{"type": "function_call_output", "output": "a"}], "input.0.call_id"),
        ([{"type": "function_call_output", "call_id": "c"}], "input.0.output"),
    ],
)
def test_what_is_refused(given: object, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_input(given, None, DEFAULT_LIMITS)
    assert caught.value.param == param
    assert len(str(caught.value)) < 300


FUNCTION = {
    "type": "function",
    "name": "f",
    "description": "d",
    "parameters": {"type": "object"},
    "strict": True,
}


def test_functions_are_nested() -> None:
    tools = read_tools([FUNCTION], "auto", DEFAULT_LIMITS)
    assert tools.functions == [
        {
            "type": "function",
            "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
        }
    ]
    assert tools.choice == "auto"
    assert tools.given == [FUNCTION]


def test_what_agents_send_along_is_left_out() -> None:
    extra = [{"type": "web_search"}, {"type": "image_generation"}, {"type": "tool_search"}]
    tools = read_tools([*extra, FUNCTION], None, DEFAULT_LIMITS)
    assert tools.given == [FUNCTION]
    assert [one["function"]["name"] for one in tools.functions] == ["f"]
    assert read_tools(extra, "auto", DEFAULT_LIMITS).choice is None


def test_namespaces_are_flattened() -> None:
    inner = [{"type": "function", "name": "g"}, {"type": "custom", "name": "h"}]
    spaces = [{"type": "namespace", "name": name, "tools": inner} for name in ("mcp__a__", "b", "functions")]
    tools = read_tools(spaces, None, DEFAULT_LIMITS)
    assert [one["function"]["name"] for one in tools.functions] == [
        *("mcp__a__g", "mcp__a__h", "b__g", "b__h", "g", "h")
    ]
    name = tools.client_name("mcp__a__h")
    assert (name.namespace, name.name, name.custom) == ("mcp__a__", "h", True)
    assert tools.client_name("unknown").name == "unknown"


def test_a_custom_tool_shows_its_grammar() -> None:
    tool = {
        "type": "custom",
        "name": "patch",
        "description": "d",
        "format": {"type": "grammar", "definition": "G"},
    }
    (function,) = (one["function"] for one in read_tools([tool], None, DEFAULT_LIMITS).functions)
    assert function["description"].startswith("d\n\n")
    assert "G" in function["description"]
    assert function["parameters"]["required"] == ["input"]


@pytest.mark.parametrize(
    ("choice", "chat"),
    [
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
            "required",
        ),
    ],
)
def test_choices(choice: Any, chat: Any) -> None:
    tools = read_tools([FUNCTION, {"type": "function", "name": "g"}], choice, DEFAULT_LIMITS)
    assert tools.choice == chat
    allowed = ["f"] if isinstance(choice, dict) and "tools" in choice else ["f", "g"]
    assert [one["function"]["name"] for one in tools.functions] == allowed


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ("f", None, "tools"),
        ([1], None, "tools.0"),
        ([{}] * 2000, None, "tools"),
        ([{"type": "file_search"}], None, "tools.0.type"),
        ([{"type": "mcp"}], None, "tools.0.type"),
        ([{"type": ["function"]}], None, "tools.0.type"),
        ([{"type": "function"}], None, "tools.0.name"),
        ([{"type": "function", "name": "f", "description": 1}], None, "tools.0.description"),
        ([FUNCTION, FUNCTION], None, "tools.1"),
        ([{"type": "namespace", "name": "a"}], None, "tools.0.tools"),
        ([{"type": "namespace", "name": "a", "tools": [{"type": "mcp"}]}], None, "tools.0.tools.0.type"),
        ([FUNCTION], "maybe", "tool_choice"),
        ([FUNCTION], 7, "tool_choice"),
        ([FUNCTION], {"type": "function", "name": "g"}, "tool_choice"),
        ([FUNCTION], {"type": "mcp"}, "tool_choice.type"),
        ([FUNCTION], {"type": "allowed_tools", "mode": "all"}, "tool_choice.mode"),
        ([FUNCTION], {"type": "allowed_tools", "mode": "auto", "tools": 1}, "tool_choice.tools"),
    ],
)
def test_tools_that_are_refused(tools: object, choice: object, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_tools(tools, choice, DEFAULT_LIMITS)
    assert caught.value.param == param
