"""The format of Qwen3-Coder:

<tool_call>
<function=f>
<parameter=a>
1
</parameter>
</function>
</tool_call>
"""

import re
from typing import Any

from server.openai.tool_parsers.parser import NAME, Reading
from server.openai.tool_parsers.xml_values import Schemas, XmlParser, value_text

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"

PARAMETER_NAME = re.compile(r"[^<>\x00-\x1f]{1,256}")


def write(name: str, arguments: dict[str, Any]) -> str:
    """A call as the model should write it."""
    lines = [OPEN, f"{FUNCTION}{name}>"]
    for key, value in arguments.items():
        lines += [f"{PARAMETER}{key}>", value_text(value), PARAMETER_END]
    return "\n".join([*lines, FUNCTION_END, CLOSE])


class Qwen3CoderParser(XmlParser):
    """The outer tag may be missing, and so may the function's closing tag: models leave them out."""

    def __init__(self, schemas: Schemas) -> None:
        super().__init__(schemas, OPEN, FUNCTION, line_breaks=True)

    def _call(self, opener: str) -> Reading[None]:
        if opener == FUNCTION:
            self._text = opener + self._text
        tag = yield from self._tag()
        name = tag[len(FUNCTION) : -1]
        if not tag.startswith(FUNCTION) or not NAME.fullmatch(name):
            self._content(opener)
            if opener == FUNCTION:
                self._take(len(opener))
            return
        self._take_tag()
        self._start(name)
        self._arguments("{")
        if (yield from self._parameters(name)):
            self._arguments("}")
            self._end()
            yield from self._closer(CLOSE)

    def _parameters(self, function: str) -> Reading[bool]:
        """The parameters and the function's end; False if something else comes, which is left."""
        first = True
        while True:
            tag = yield from self._tag()
            name = tag[len(PARAMETER) : -1]
            if tag.startswith(PARAMETER) and PARAMETER_NAME.fullmatch(name):
                self._take_tag()
                if not (yield from self._value(function, name, PARAMETER_END, first)):
                    return False
                first = False
                continue
            if tag == FUNCTION_END:
                self._take_tag()
            return tag in (FUNCTION_END, CLOSE)
