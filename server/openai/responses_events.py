"""Chat events as the events and the object of OpenAI's Responses API."""

from typing import Any

from engine.messages import TokenLogprob
from engine.tokenizer import Tokenizer
from server.openai.answers import Usage
from server.openai.chat_events import ChatEvent, ChatFinish, ContentDelta, ReasoningDelta, ToolCallDelta
from server.openai.errors import ApiError
from server.openai.logprobs import chat_logprobs
from server.openai.responses_items import AnyItem, CallItem, CustomCallItem, MessageItem, ReasoningItem
from server.openai.responses_object import Echo
from server.openai.typed_events import Event


class ResponseWriter:
    """Gathers one answer's output items and tells of them in events; satisfies `typed_events.Writer`.

    Attributes:
        response: the finished object, None until the answer's end.
    """

    def __init__(self, echo: Echo, usage: Usage, tokenizer: Tokenizer) -> None:
        self.response: dict[str, Any] | None = None
        self._echo = echo
        self._usage = usage
        self._tokenizer = tokenizer
        self._output: list[dict[str, Any]] = []
        self._open: AnyItem | None = None
        self._early: list[dict[str, Any]] = []  # logprobs of tokens whose text may yet be a message's
        self._sent = 0

    def begin(self) -> list[Event]:
        response = self._echo.response("in_progress", [])
        kinds = ("response.created", "response.in_progress")
        return self._numbered([{"type": kind, "response": response} for kind in kinds])

    def feed(self, event: ChatEvent) -> list[Event]:
        match event:
            case ContentDelta():
                events = self._text(event.text, self._logprobs(event.logprobs))
            case ReasoningDelta():
                events = self._reasoning(event.text)
            case ToolCallDelta():
                events = self._call(event)
            case ChatFinish():
                events = self._finish(event)
        return self._numbered(events)

    def fail(self, error: ApiError) -> list[Event]:
        code = "server_error" if error.status >= 500 else error.code or "invalid_prompt"
        told = {"code": code, "message": error.body().error.message}
        begun = [] if self._sent else self.begin()
        events = self._close("incomplete")
        self.response = self._echo.response("failed", self._output, usage=self._usage, error=told)
        return [*begun, *self._numbered([*events, {"type": "response.failed", "response": self.response}])]

    def _text(self, text: str, logprobs: list[dict[str, Any]]) -> list[Event]:
        item, events = self._open, []
        if not isinstance(item, MessageItem):
            self._early += logprobs
            if not text:
                return []  # the tokens may be a call's or a thought's, which have no place for logprobs
            item = MessageItem(self._next_index())
            logprobs, events = self._early, self._begin_item(item)
        return [*events, *item.grow(text, logprobs)]

    def _reasoning(self, text: str) -> list[Event]:
        item, events = self._open, []
        if not isinstance(item, ReasoningItem):
            item = ReasoningItem(self._next_index())
            events = self._begin_item(item)
        return [*events, *item.grow(text)]

    def _call(self, delta: ToolCallDelta) -> list[Event]:
        item, events = self._open, []
        if not isinstance(item, CallItem | CustomCallItem) or item.call != delta.call:
            tool = self._echo.tools.client_name(delta.name)
            kind = CustomCallItem if tool.custom else CallItem
            item = kind(self._next_index(), delta.call, delta.id or "", tool)
            events = self._begin_item(item)
        return [*events, *item.grow(delta.arguments)]

    def _finish(self, finish: ChatFinish) -> list[Event]:
        cut = finish.finish_reason == "length"
        events: list[Event] = []
        if self._open is None:
            empty = MessageItem(0)  # an empty answer is still one
            empty.logprobs += self._early
            events = self._begin_item(empty)
        status = "incomplete" if cut else "completed"
        events += self._close(status)
        reason = "max_output_tokens" if cut else None
        self.response = self._echo.response(status, self._output, usage=self._usage, incomplete=reason)
        return [*events, {"type": f"response.{status}", "response": self.response}]

    def _begin_item(self, item: AnyItem) -> list[Event]:
        closed = self._close("completed")
        self._open, self._early = item, []
        added = {
            "type": "response.output_item.added",
            "output_index": item.index,
            "item": item.item("in_progress"),
        }
        return [*closed, added, *item.opening()]

    def _close(self, status: str) -> list[Event]:
        """Finish the open item, if there is one."""
        item, self._open = self._open, None
        if item is None:
            return []
        done = item.item(status)
        self._output.append(done)
        return [
            *item.closing(),
            {"type": "response.output_item.done", "output_index": item.index, "item": done},
        ]

    def _next_index(self) -> int:
        return len(self._output) + (self._open is not None)

    def _numbered(self, events: list[Event]) -> list[Event]:
        for event in events:
            event["sequence_number"] = self._sent
            self._sent += 1
        return events

    def _logprobs(self, entries: list[TokenLogprob]) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = chat_logprobs(self._tokenizer, entries)["content"]
        return content
