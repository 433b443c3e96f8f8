"""The format of the IQuest family:

<iquest_tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value></iquest_tool_call>
"""

from typing import Any

from server.openai.tool_parsers.parser import NAME, SPACES, Reading
from server.openai.tool_parsers.xml_values import MAX_TAG_CHARS, Schemas, XmlParser, value_text

OPEN, CLOSE = "<iquest_tool_call>", "</iquest_tool_call>"
KEY, KEY_END = "<arg_key>", "</arg_key>"
VALUE, VALUE_END = "<arg_value>", "</arg_value>"


def write(name: str, arguments: dict[str, Any]) -> str:
    """A call as the model should write it."""
    members = [
        f"{KEY}{key}{KEY_END}{VALUE}{value_text(value)}{VALUE_END}" for key, value in arguments.items()
    ]
    return f"{OPEN}{name}{''.join(members)}{CLOSE}"


class IquestParser(XmlParser):
    """White space between tags is allowed."""

    def __init__(self, schemas: Schemas) -> None:
        super().__init__(schemas, OPEN, line_breaks=False)

    def _call(self, opener: str) -> Reading[None]:
        while (at := self._text.find("<")) < 0 and len(self._text) <= MAX_TAG_CHARS and not self._ended:
            yield
        name = self._text[: max(at, 0)].strip(SPACES)
        if at > MAX_TAG_CHARS or not NAME.fullmatch(name):
            self._content(opener)
            return
        taken = self._take(at)
        tag = yield from self._tag()
        if tag not in (KEY, CLOSE):
            self._content(opener + taken)
            return
        self._start(name)
        self._arguments("{")
        if (yield from self._parameters(name)):
            self._arguments("}")
            self._end()

    def _parameters(self, function: str) -> Reading[bool]:
        """The arguments and the call's end; False if something else comes, which is left."""
        first = True
        while True:
            tag = yield from self._tag()
            if tag == CLOSE:
                self._take_tag()
                return True
            if tag != KEY:
                return False
            self._take_tag()
            name = yield from self._bounded(KEY_END)
            if name is None:
                self._content(KEY)
                return False
            tag = yield from self._tag()
            if tag != VALUE:
                self._content(KEY + name + KEY_END)
                return False
            self._take_tag()
            if not (yield from self._value(function, name, VALUE_END, first)):
                return False
            first = False
