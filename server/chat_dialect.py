"""What a model's chat template says about its answers: how it calls tools and whether it thinks aloud."""

from dataclasses import dataclass

from engine.tokenizer import Tokenizer
from server.chat_template import ChatTemplate
from server.openai.reasoning import THINK, THINK_END
from server.openai.tool_parsers.formats import FORMATS, HERMES, ToolFormat, format_of
from server.settings import ReasoningParserName, ToolCallParserName


@dataclass(frozen=True, slots=True)
class ChatDialect:
    """How one model's answers are read.

    Attributes:
        tools: the format of tool calls, or None if there are none to expect.
        template_has_tools: the template tells the model about tools; if not, the server has to.
        thinks: answers may begin with reasoning.
        special: ids of the marks that are special tokens, which would not be part of an answer's text.
    """

    tools: ToolFormat | None
    template_has_tools: bool
    thinks: bool
    special: dict[str, int]


def chat_dialect(
    template: ChatTemplate | None,
    tokenizer: Tokenizer,
    tool_call_parser: ToolCallParserName,
    reasoning_parser: ReasoningParserName,
) -> ChatDialect:
    """The dialect of a model, from its template and the settings that may overrule it."""
    source = "" if template is None else template.source
    has_tools = template is not None and template.renders_tools()
    if tool_call_parser == "auto":
        # Without the template's help the server describes the format itself, and takes the most common one.
        tools = format_of(source) or (None if has_tools else HERMES)
    else:
        tools = FORMATS.get(tool_call_parser)
    mentioned = THINK in source or THINK_END in source
    thinks = reasoning_parser == "think" or (reasoning_parser == "auto" and mentioned)
    marks = [*(tools.marks if tools else ()), *((THINK, THINK_END) if thinks else ())]
    ids = {mark: tokenizer.special_token_id(mark) for mark in marks}
    special = {mark: i for mark, i in ids.items() if i is not None and tokenizer.is_special(i)}
    return ChatDialect(tools, has_tools, thinks, special)
