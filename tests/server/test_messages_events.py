"""The writer of Messages: its events and its object say the same."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from pydantic_core import from_json

from server.anthropic.events import MessageWriter
from server.openai.answers import Answer, Usage
from server.openai.chat_events import ChatEvent, ChatFinish, ContentDelta, ReasoningDelta, ToolCallDelta
from server.openai.errors import ApiError
from tests.server.chat_event_lists import chat_event_lists
from tests.server.typed import Event


def write(events: Iterable[ChatEvent], *, fills_context: bool = False) -> tuple[list[Event], dict[str, Any]]:
    """The events and the whole message."""
    writer = MessageWriter(Answer.begin("msg_", "tiny"), Usage(7, 3, {0: 2}), fills_context=fills_context)
    out = writer.begin()
    for event in events:
        out += writer.feed(event)
    message: dict[str, Any] = json.loads(json.dumps(writer.message()))
    return [json.loads(json.dumps(event)) for event in out], message


def assemble(events: list[Event]) -> dict[str, Any]:
    """What Anthropic's clients make of a stream, each block being open only between its start and its stop."""
    message: dict[str, Any] = events[0]["message"]
    arguments = ""
    is_open = False
    for event in events[1:]:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
                is_open, arguments = True, ""
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(message["content"]) - 1
                block = message["content"][-1]
                match event["delta"]:
                    case {"type": "text_delta", "text": text}:
                        block["text"] += text
                    case {"type": "thinking_delta", "thinking": text}:
                        block["thinking"] += text
                    case {"type": "input_json_delta", "partial_json": text}:
                        arguments += text
                        block["input"] = from_json(arguments, allow_partial="trailing-strings")
            case "content_block_stop":
                assert is_open
                assert event["index"] == len(message["content"]) - 1
                is_open = False
            case "message_delta":
                assert not is_open
                message |= event["delta"]
                message["usage"] |= event["usage"]
    return message


DIRECT = {"type": "direct"}


@given(chat_event_lists())
@settings(max_examples=60, deadline=None)
def test_a_stream_makes_up_the_message(chat_events: list[ChatEvent]) -> None:
    events, message = write(chat_events)
    assert [event["type"] for event in events[:2]] == ["message_start", "ping"]
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    assert assemble(events) == message


def test_blocks_of_each_kind() -> None:
    events, message = write(
        [
            ReasoningDelta(0, "think"),
            ContentDelta(0, "I "),
            ContentDelta(0, "look."),
            ToolCallDelta(0, 0, "call_1", "look", '{"a"'),
            ToolCallDelta(0, 0, None, None, ": 1}"),
            ToolCallDelta(0, 1, "call_2", "go", ""),
            ChatFinish(0, "tool_calls", None),
        ]
    )
    assert message["content"] == [
        {"type": "thinking", "thinking": "think", "signature": ""},
        {"type": "text", "text": "I look.", "citations": None},
        {"type": "tool_use", "id": "call_1", "name": "look", "input": {"a": 1}, "caller": DIRECT},
        {"type": "tool_use", "id": "call_2", "name": "go", "input": {}, "caller": DIRECT},
    ]
    assert (message["stop_reason"], message["stop_sequence"]) == ("tool_use", None)
    assert events[2] == {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "thinking", "thinking": "", "signature": ""},
    }


@pytest.mark.parametrize(
    ("finish", "fills_context", "reason", "sequence"),
    [
        (ChatFinish(0, "stop", None), False, "end_turn", None),
        (ChatFinish(0, "stop", 2), False, "end_turn", None),
        (ChatFinish(0, "stop", "END"), False, "stop_sequence", "END"),
        (ChatFinish(0, "length", None), False, "max_tokens", None),
        (ChatFinish(0, "length", None), True, "model_context_window_exceeded", None),
        (ChatFinish(0, "tool_calls", None), False, "tool_use", None),
    ],
)
def test_stop_reasons(finish: ChatFinish, fills_context: bool, reason: str, sequence: str | None) -> None:
    _, message = write([finish], fills_context=fills_context)
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)
    assert message["content"] == []


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ('{"a": "b', {"a": "b"}),
        ('{"a": {"b": [1', {"a": {"b": [1]}}),
        ("[1]", {}),
        ("no", {}),
        ("[" * 9999, {}),
    ],
)
def test_arguments_cut_short_are_what_there_is(arguments: str, value: dict[str, Any]) -> None:
    _, message = write([ToolCallDelta(0, 0, "c", "f", arguments), ChatFinish(0, "length", None)])
    assert message["content"][0]["input"] == value


def test_cached_tokens_are_not_input_tokens() -> None:
    assert write([])[1]["usage"] == {
        "input_tokens": 5,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 2,
        "output_tokens": 3,
        "cache_creation": None,
        "inference_geo": None,
        "output_tokens_details": None,
        "server_tool_use": None,
        "service_tier": None,
    }


def test_a_failure_is_an_error_event() -> None:
    writer = MessageWriter(Answer.begin("msg_", "tiny"), Usage(7), fills_context=False)
    assert writer.fail(ApiError(500, "gone", code="engine_dead")) == [
        {"type": "error", "error": {"type": "api_error", "message": "gone"}}
    ]
    assert writer.fail(ApiError(503, "later"))[0]["error"]["type"] == "overloaded_error"
