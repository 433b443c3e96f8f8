"""The Hermes format, which Qwen's general models use too: a JSON object per call.

<tool_call>
{"name": "f", "arguments": {"a": 1}}
</tool_call>
"""

import json
import re
from typing import Any

from server.openai.tool_parsers.json_scanner import Event, JsonScanner
from server.openai.tool_parsers.json_text import parse_object, to_json
from server.openai.tool_parsers.parser import NAME, Reading, ToolCallParser

OPEN, CLOSE = "<tool_call>", "</tool_call>"

_HEADER = re.compile(
    r'\{\s*"name"\s*:\s*"([^\s<>"\\\x00-\x1f]{1,256})"\s*,\s*"(?:arguments|parameters)"\s*:\s*\{'
)


def write(name: str, arguments: dict[str, Any]) -> str:
    """A call as the model should write it."""
    return f'{OPEN}\n{{"name": "{name}", "arguments": {to_json(arguments)}}}\n{CLOSE}'


class HermesParser(ToolCallParser):
    """Arguments are passed on as they come when the name stands before them, else when the object is complete.

    If JSON breaks within arguments that have been passed on, the call stays without an end and the rest is content.
    """

    def __init__(self) -> None:
        super().__init__(OPEN)

    def _call(self, opener: str) -> Reading[None]:
        at = yield from self._solid()
        if self._text[at : at + 1] != "{":
            self._content(opener)
            return
        space, scanner, raw, body = self._take(at), JsonScanner(), "", ""
        while True:
            event, at, piece = scanner.step(self._text)
            raw, body = raw + self._take(at), body + piece
            if event is Event.OPENED and scanner.depth == 2 and (header := _HEADER.fullmatch(body)):
                self._start(header[1])
                self._arguments("{")
                yield from self._streamed(scanner)
                return
            if event is Event.CLOSED and scanner.depth == 0:
                if not self._whole(body):
                    self._content(opener + space + raw)
                    return
                yield from self._closer(CLOSE)
                return
            if event is Event.BROKEN or (event is Event.MORE and self._ended):
                self._content(opener + space + raw)
                return
            if event is Event.MORE:
                yield

    def _streamed(self, scanner: JsonScanner) -> Reading[None]:
        """Arguments whose first bracket has been passed on, and the end of the object around them."""
        within, tail = True, ""
        while True:
            event, at, piece = scanner.step(self._text)
            taken = self._take(at)
            if within:
                self._arguments(piece)
            else:
                tail += taken
            if within and event is Event.CLOSED and scanner.depth == 1:
                within = False
                self._end()
            done = event is Event.CLOSED and scanner.depth == 0
            broken = event is Event.BROKEN or (event is Event.MORE and self._ended)
            if broken and within:
                return
            if broken and tail.strip():
                self._text = tail + self._text
                self._content(self._take(len(tail)))
                return
            if done or broken:  # a missing last bracket does no harm
                yield from self._closer(CLOSE)
                return
            if event is Event.MORE:
                yield

    def _whole(self, body: str) -> bool:
        """Give a complete object as a call; False if it is none."""
        try:
            value = json.loads(body)
        except ValueError:  # a number with more digits than Python converts
            return False
        name = value.get("name")
        arguments = value.get("arguments", value.get("parameters"))
        if isinstance(arguments, str):
            arguments = parse_object(arguments)
        elif arguments is None:
            arguments = {}
        if not isinstance(name, str) or not NAME.fullmatch(name) or not isinstance(arguments, dict):
            return False
        try:
            text = to_json(arguments)
        except ValueError:
            return False
        self._start(name)
        self._arguments(text)
        self._end()
        return True
