"""Messages requests, as the chat path gets them."""

import json
from typing import Any

import pytest

from engine.errors import InvalidRequestError
from server.anthropic.protocol import CountTokensRequest, MessagesRequest
from server.anthropic.translate import chat_fields
from server.openai.limits import DEFAULT_LIMITS

HI = {"role": "user", "content": "hi"}
TOOL = {
    "name": "look",
    "description": "d",
    "input_schema": {"type": "object"},
    "cache_control": {"type": "ephemeral"},
}
FUNCTION = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object"}, "description": "d"},
}


def translated(**body: Any) -> dict[str, Any]:
    return chat_fields(
        MessagesRequest.model_validate({"model": "m", "max_tokens": 9, "messages": [HI], **body}),
        DEFAULT_LIMITS,
    )


def messages(*given: dict[str, Any], **body: Any) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = translated(messages=list(given), **body)["messages"]
    return out


def blocks(role: str, *given: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(given)}


def block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}


def test_sampling_fields() -> None:
    chat = translated(temperature=0.5, top_p=0.9, top_k=5, stop_sequences=["a"], stream=True, seed=3)
    assert chat == {
        "model": "m",
        "messages": [HI],
        "max_completion_tokens": 9,
        "stream": True,
        "stop": ["a"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "seed": 3,
    }
    assert "top_p" not in translated(top_p=0)


def test_counting_needs_no_limit() -> None:
    fields = CountTokensRequest.model_validate({"model": "m", "messages": [HI], "tools": [TOOL]})
    assert chat_fields(fields, DEFAULT_LIMITS) == {
        "model": "m",
        "messages": [HI],
        "tools": [FUNCTION],
        "tool_choice": "auto",
    }


def test_system_as_claude_code_sends_it() -> None:
    billing = block("x-anthropic-billing-header: cc_version=2.1; cch=0aaa9;")
    (system, _) = messages(HI, system=[billing, block("You are"), block("Rules")])
    assert system == {"role": "system", "content": "You are\n\nRules"}
    assert messages(HI, system="x-anthropic-billing-header: cch=1;\nYou")[0]["content"] == "You"
    assert messages(HI, system="") == [HI]


def test_a_turn_with_tools() -> None:
    out = messages(
        HI,
        blocks(
            "assistant",
            {"type": "thinking", "thinking": "hm", "signature": "x"},
            {"type": "redacted_thinking", "data": "x"},
            block("I look."),
            {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": "é"}},
            {"type": "tool_use", "id": "t2", "name": "look", "input": {}},
        ),
        blocks(
            "user",
            {"type": "tool_result", "tool_use_id": "t1", "content": [block("x"), block("y")]},
            {"type": "tool_result", "tool_use_id": "t2", "content": "bad", "is_error": True},
            block("go on"),
        ),
    )
    _, turn, first, second, rest = out
    assert (turn["content"], turn["reasoning_content"]) == ("I look.", "hm")
    assert [one["id"] for one in turn["tool_calls"]] == ["t1", "t2"]
    assert json.loads(turn["tool_calls"][0]["function"]["arguments"]) == {"a": "é"}
    assert first == {"role": "tool", "tool_call_id": "t1", "content": "x\n\ny"}
    assert second["content"] == "Error: bad"
    assert rest == {"role": "user", "content": "go on"}


def test_a_last_message_of_the_assistant_is_the_answers_beginning() -> None:
    chat = translated(messages=[HI, blocks("assistant", block("The answer is"))])
    assert chat["messages"][-1] == {"role": "assistant", "content": "The answer is"}
    assert chat["continue_final_message"] is True


@pytest.mark.parametrize(
    ("thinking", "options"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, {"enable_thinking": True}),
        ({"type": "adaptive"}, {"enable_thinking": True}),
        ({"type": "disabled"}, {"enable_thinking": False}),
        ({"type": ["x"]}, None),
        (None, None),
    ],
)
def test_thinking_is_the_templates_switch(thinking: Any, options: Any) -> None:
    assert translated(thinking=thinking).get("chat_template_kwargs") == options


def test_results_alone_make_no_user_message() -> None:
    use = blocks("assistant", {"type": "tool_use", "id": "t", "name": "f", "input": {}})
    out = messages(HI, use, blocks("user", {"type": "tool_result", "tool_use_id": "t"}))
    assert [message["role"] for message in out] == ["user", "assistant", "tool"]
    assert out[-1]["content"] == ""


def test_neighbours_of_one_role_are_one_turn() -> None:
    assert messages(HI, blocks("user", block("there"))) == [{"role": "user", "content": "hi\n\nthere"}]


@pytest.mark.parametrize(
    ("choice", "chat", "parallel"),
    [
        (None, "auto", None),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto", False),
        ({"type": "any"}, "required", None),
        ({"type": "none"}, "none", None),
        ({"type": "tool", "name": "look"}, {"type": "function", "function": {"name": "look"}}, None),
    ],
)
def test_tool_choice(choice: Any, chat: Any, parallel: bool | None) -> None:
    fields = translated(tools=[TOOL], tool_choice=choice)
    assert fields["tools"] == [FUNCTION]
    assert fields["tool_choice"] == chat
    assert fields.get("parallel_tool_calls") == parallel


@pytest.mark.parametrize("where", ["output_config", "output_format"])
def test_an_output_format_binds(where: str) -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    fields = translated(**{where: {"format": form, "effort": "high"} if where == "output_config" else form})
    assert fields["response_format"]["json_schema"]["schema"] == {"type": "object"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [HI] * 20_000}, "messages"),
        ({"messages": ["hi"]}, "messages.0"),
        ({"messages": [{"content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
        ({"messages": [blocks("user", {"type": "image", "source": {}})]}, "messages.0.content.0.type"),
        ({"messages": [blocks("user", {"type": ["text"]})]}, "messages.0.content.0.type"),
        ({"messages": [blocks("user", {"type": "text", "text": 7})]}, "messages.0.content.0.text"),
        ({"messages": [blocks("user", {"type": "tool_result"})]}, "messages.0.content.0.tool_use_id"),
        (
            {
                "messages": [
                    blocks(
                        "user", {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image"}]}
                    )
                ]
            },
            "messages.0.content.0.content.0.type",
        ),
        (
            {
                "messages": [
                    HI,
                    blocks("assistant", {"type": "tool_use", "id": "t", "name": "f", "input": {}}),
                ]
            },
            "messages",
        ),
        (
            {"messages": [blocks("assistant", {"type": "tool_use", "input": []}), HI]},
            "messages.0.content.0.input",
        ),
        (
            {"messages": [blocks("assistant", {"type": "tool_use", "input": {}}), HI]},
            "messages.0.content.0.name",
        ),
        ({"messages": [blocks("assistant", {"type": "thinking"}), HI]}, "messages.0.content.0.thinking"),
        ({"system": 7}, "system"),
        ({"system": [{"type": "image"}]}, "system.0.type"),
        ({"tools": "f"}, "tools"),
        ({"tools": [TOOL] * 2000}, "tools"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0.type"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "maybe"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": ["any"]}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
    ],
)
def test_what_is_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        translated(**body)
    assert caught.value.param == param
    assert len(str(caught.value)) < 300
