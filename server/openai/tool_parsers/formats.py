"""The tool-call formats there are, and which one a model's chat template speaks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from server.openai.tool_parsers import grammars, hermes, iquest, qwen3_coder
from server.openai.tool_parsers.parser import ToolCallParser
from server.openai.tools import Tool


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One way to write calls.

    Attributes:
        marks: texts that the parser looks for and that may be special tokens of a vocabulary.
        parser: makes a parser of one answer.
        write: a call as the model should write it.
        call: the grammar of one function's call.
    """

    name: str
    marks: tuple[str, ...]
    parser: Callable[[Sequence[Tool]], ToolCallParser]
    write: Callable[[str, dict[str, Any]], str]
    call: grammars.Call


def _schemas(tools: Sequence[Tool]) -> dict[str, dict[str, Any]]:
    return {tool.name: tool.parameters for tool in tools}


HERMES = ToolFormat(
    "hermes", (hermes.OPEN, hermes.CLOSE), lambda _: hermes.HermesParser(), hermes.write, grammars.hermes_call
)
QWEN3_CODER = ToolFormat(
    "qwen3_coder",
    (qwen3_coder.OPEN, qwen3_coder.CLOSE, qwen3_coder.FUNCTION_END, qwen3_coder.PARAMETER_END),
    lambda tools: qwen3_coder.Qwen3CoderParser(_schemas(tools)),
    qwen3_coder.write,
    grammars.qwen3_coder_call,
)
IQUEST = ToolFormat(
    "iquest",
    (iquest.OPEN, iquest.CLOSE, iquest.KEY, iquest.KEY_END, iquest.VALUE, iquest.VALUE_END),
    lambda tools: iquest.IquestParser(_schemas(tools)),
    iquest.write,
    grammars.iquest_call,
)
FORMATS = {one.name: one for one in (HERMES, QWEN3_CODER, IQUEST)}


def format_of(template: str) -> ToolFormat | None:
    """The format that a chat template's text shows, if it is one of ours."""
    if iquest.OPEN in template or "<|iquest_assistant|>" in template:
        return IQUEST
    if qwen3_coder.FUNCTION in template:
        return QWEN3_CODER
    if hermes.OPEN in template and iquest.KEY not in template:  # with <arg_key> it is GLM's format
        return HERMES
    return None
