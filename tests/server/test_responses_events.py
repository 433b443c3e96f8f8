"""The writer of Responses: its events are OpenAI's, and say the same as its object."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from engine.config import GenerationDefaults
from engine.messages import TokenLogprob
from server.openai.answers import Answer, Usage
from server.openai.chat_events import ChatEvent, ChatFinish, ContentDelta, ReasoningDelta, ToolCallDelta
from server.openai.errors import ApiError
from server.openai.limits import DEFAULT_LIMITS
from server.openai.protocol import ChatCompletionRequest
from server.openai.responses_events import ResponseWriter
from server.openai.responses_object import Echo
from server.openai.responses_protocol import ResponsesRequest
from server.openai.responses_tools import read_tools
from tests.server.chat_event_lists import chat_event_lists
from tests.server.typed import Event

ANY_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOLS = [
    {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True},
    {
        "type": "custom",
        "name": "patch",
        "description": "d",
        "format": {"type": "grammar", "syntax": "lark", "definition": "G"},
    },
    {
        "type": "namespace",
        "name": "mcp__a__",
        "description": "",
        "tools": [{"type": "function", "name": "f"}],
    },
]


def make_writer(tools: object = None) -> ResponseWriter:
    fields = ResponsesRequest.model_validate({"input": "hi", "tools": tools})
    chat = ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "hi"}]})
    answer = Answer.begin("resp_", "tiny")
    echo = Echo(answer, fields, chat, read_tools(tools, None, DEFAULT_LIMITS), GenerationDefaults())
    return ResponseWriter(echo, Usage(7, 3, {0: 2}), None)  # type: ignore[arg-type]


def write(writer: ResponseWriter, events: Iterable[ChatEvent]) -> list[Event]:
    out = writer.begin()
    for event in events:
        out += writer.feed(event)
    # As on the wire: later changes of the writer's state must not reach what was sent.
    return [json.loads(json.dumps(event)) for event in out]


def check_order(events: list[Event]) -> None:
    """Numbers count up; items and parts are opened, grown and closed one after the other."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    open_item: str | None = None
    for event in events[2:-1]:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert open_item is None
            open_item = event["item"]["id"]
            assert event["item"]["status"] == "in_progress"
        elif kind == "response.output_item.done":
            assert event["item"]["id"] == open_item
            open_item = None
        else:
            assert event["item_id"] == open_item, "Codex: 'OutputTextDelta without active item'"
    assert open_item is None


def assemble(events: list[Event]) -> list[dict[str, Any]]:
    """Texts and arguments of the items from their deltas alone."""
    items: dict[int, dict[str, Any]] = {}
    for event in events:
        match event["type"]:
            case "response.output_item.added":
                items[event["output_index"]] = {"type": event["item"]["type"], "deltas": ""}
            case kind if kind.endswith(".delta"):
                items[event["output_index"]]["deltas"] += event["delta"]
    return [items[index] for index in range(len(items))]


def content(item: dict[str, Any]) -> str:
    if item["type"] == "function_call":
        return str(item["arguments"])
    return str(item["content"][0]["text"])


@given(chat_event_lists())
@settings(max_examples=60, deadline=None)
def test_deltas_make_up_the_object(chat_events: list[ChatEvent]) -> None:
    writer = make_writer()
    events = write(writer, chat_events)
    check_order(events)
    for event in events:
        ANY_EVENT.validate_python(event)
    final = events[-1]["response"]
    assert final == json.loads(json.dumps(writer.response))
    Response.model_validate(final, strict=True)
    assembled = assemble(events)
    assert [(one["type"], one["deltas"]) for one in assembled] == [
        (one["type"], content(one)) for one in final["output"]
    ]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == final["output"]


def test_logprobs_without_text_begin_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of a call come with logprobs, too; they must neither cut it in two nor stand before it as a message."""
    tokens = [TokenLogprob(i, -0.5, []) for i in range(5)]
    monkeypatch.setattr(
        ResponseWriter, "_logprobs", lambda self, entries: [{"token": str(one.token_id)} for one in entries]
    )
    writer = make_writer(TOOLS)
    chat_events: list[ChatEvent] = [
        ContentDelta(0, "", tokens[:1]),
        ToolCallDelta(0, 0, "call_0", "look", ""),
        ContentDelta(0, "", tokens[1:2]),
        ToolCallDelta(0, 0, None, None, "{"),
        ContentDelta(0, "", tokens[2:3]),
        ToolCallDelta(0, 0, None, None, "}"),
    ]
    after: list[ChatEvent] = [ContentDelta(0, "a", tokens[3:4]), ContentDelta(0, "", tokens[4:])]
    check_order(write(writer, [*chat_events, *after, ChatFinish(0, "tool_calls", None)]))
    assert writer.response is not None
    call, message = writer.response["output"]
    assert (call["name"], call["call_id"], call["arguments"]) == ("look", "call_0", "{}")
    assert message["content"][0]["text"] == "a"
    assert [one["token"] for one in message["content"][0]["logprobs"]][-2:] == ["3", "4"]


def test_logprobs_before_the_first_text_belong_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text may be held back for a stop string or for the rest of a character."""
    monkeypatch.setattr(
        ResponseWriter, "_logprobs", lambda self, entries: [{"token": str(one.token_id)} for one in entries]
    )
    first, second = TokenLogprob(7, -0.5, []), TokenLogprob(8, -0.5, [])
    for events in (
        [ContentDelta(0, "", [first]), ContentDelta(0, "ab", [second])],
        [ContentDelta(0, "", [first])],
    ):
        writer = make_writer()
        check_order(write(writer, [*events, ChatFinish(0, "stop", None)]))
        assert writer.response is not None
        part = writer.response["output"][0]["content"][0]
        assert [one["token"] for one in part["logprobs"]] == ["7", "8"][: len(events)]


def test_the_order_that_codex_needs() -> None:
    kinds = [
        event["type"] for event in write(make_writer(), [ContentDelta(0, "a"), ChatFinish(0, "stop", None)])
    ]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_calls_after_reasoning_and_text() -> None:
    events = write(
        make_writer(TOOLS),
        [
            ReasoningDelta(0, "think"),
            ContentDelta(0, "I look."),
            ToolCallDelta(0, 0, "call_1", "look", '{"a"'),
            ToolCallDelta(0, 0, None, None, ":1}"),
            ToolCallDelta(0, 1, "call_2", "look", "{}"),
            ChatFinish(0, "tool_calls", None),
        ],
    )
    check_order(events)
    reasoning, message, first, second = events[-1]["response"]["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "think"}]
    assert reasoning["summary"] == []
    assert message["content"][0]["text"] == "I look."
    assert (first["name"], first["call_id"], first["arguments"]) == ("look", "call_1", '{"a":1}')
    assert (second["call_id"], second["arguments"]) == ("call_2", "{}")
    assert events[-1]["type"] == "response.completed"


def test_a_call_of_a_namespace_comes_back_as_its_two_names() -> None:
    events = write(
        make_writer(TOOLS),
        [ToolCallDelta(0, 0, "call_1", "mcp__a__f", "{}"), ChatFinish(0, "tool_calls", None)],
    )
    (call,) = events[-1]["response"]["output"]
    assert (call["namespace"], call["name"]) == ("mcp__a__", "f")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": "*** Begin\\n"}', "*** Begin\n"),
        ('{"input": 3}', '{"input": 3}'),
        ('{"input": "cut sh', '{"input": "cut sh'),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_a_custom_call_has_its_text(arguments: str, text: str) -> None:
    calls = [
        ToolCallDelta(0, 0, "call_1", "patch", arguments[:5]),
        ToolCallDelta(0, 0, None, None, arguments[5:]),
    ]
    events = write(make_writer(TOOLS), [*calls, ChatFinish(0, "tool_calls", None)])
    for event in events:
        ANY_EVENT.validate_python(event)
    (call,) = events[-1]["response"]["output"]
    assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "patch", text)
    assert assemble(events)[0]["deltas"] == text


def test_an_answer_cut_short_is_incomplete() -> None:
    events = write(make_writer(), [ContentDelta(0, "a"), ChatFinish(0, "length", None)])
    assert events[-1]["type"] == "response.incomplete"
    response = events[-1]["response"]
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"
    assert response["completed_at"] is None


def test_an_empty_answer_is_an_empty_message() -> None:
    (item,) = write(make_writer(), [ChatFinish(0, "stop", None)])[-1]["response"]["output"]
    assert item["content"][0]["text"] == ""


def test_usage_has_this_apis_names() -> None:
    usage = write(make_writer(), [ChatFinish(0, "stop", None)])[-1]["response"]["usage"]
    assert usage == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 10,
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ApiError(500, "broken", code="engine_dead"), "server_error"),
        (ApiError(400, "no", code="context_length_exceeded"), "context_length_exceeded"),
        (ApiError(400, "no"), "invalid_prompt"),
    ],
)
def test_a_failure_ends_the_open_item(error: ApiError, code: str) -> None:
    writer = make_writer()
    events = [*write(writer, [ContentDelta(0, "a")]), *writer.fail(error)]
    check_order(events)
    assert events[-1]["type"] == "response.failed"
    response = events[-1]["response"]
    assert (response["status"], response["error"]["code"]) == ("failed", code)
    assert response["output"][0]["status"] == "incomplete"


def test_a_failure_before_anything_is_begun() -> None:
    events = make_writer().fail(ApiError(500, "broken"))
    check_order(events)
    assert [event["type"] for event in events[2:]] == ["response.failed"]
