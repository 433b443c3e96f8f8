"""Lark grammar texts, in llguidance's dialect, that only let calls through: for forced tool calls.

What a grammar lets through, the parser of the same format reads as calls that satisfy the functions' schemas. Where a
value can't be said in a format at all (a string that holds the closing tag), it is left out.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidRequestError
from server.openai.closed_schemas import closed
from server.openai.tool_parsers import hermes, iquest, qwen3_coder
from server.openai.tool_parsers.json_text import to_json
from server.openai.tool_parsers.schema_types import ANY, STRING, Leaf, leaves, properties
from server.openai.tools import Tool

_OTHERS = frozenset(
    ["additionalProperties", "patternProperties", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "$ref"]
)
# Without this a model may write white space for ever.
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(slots=True)
class Grammar:
    """A grammar text in the making.

    Attributes:
        special: ids of the marks that are special tokens: in a grammar these are not text.
    """

    special: Mapping[str, int]
    rules: list[str] = field(default_factory=list)

    def rule(self, body: str, *, terminal: bool = False) -> str:
        """Add a rule; returns its name."""
        name = f"{'T' if terminal else 'r'}{len(self.rules)}"
        self.rules.append(f"{name}: {body}")
        return name

    def text(self, text: str) -> str:
        """Exactly this text, as part of a rule; marks within it become their tokens."""
        pieces = re.split(f"({'|'.join(map(re.escape, self.special))})", text) if self.special else [text]
        parts = [
            f"<[{self.special[piece]}]>" if piece in self.special else json.dumps(piece, ensure_ascii=False)
            for piece in pieces
            if piece
        ]
        return " ".join(parts) or '""'

    def json(self, schema: dict[str, Any]) -> str:
        """JSON that satisfies a schema."""
        return self.rule(f"%json {to_json({**schema, 'x-guidance': _COMPACT})}")

    def until(self, terminal: str, marker: str) -> str:
        """A terminal's text and the first `marker` after it, which is not a special token."""
        name = f"r{len(self.rules)}"
        self.rules.append(f"{name}[suffix={json.dumps(marker)}]: {terminal}")
        return name

    def write(self, start: str) -> str:
        return "\n".join([f"start: {start}", *self.rules]) + "\n"


_ESCAPED = str.maketrans({"\n": "\\n", "\r": "\\r"})

Call = Callable[[Grammar, Tool], str]
"""Adds the rules of one function's call; returns the name of the rule."""


def hermes_call(grammar: Grammar, tool: Tool) -> str:
    """The call's JSON object, between its tags."""
    begin = grammar.text(f'{hermes.OPEN}\n{{"name": "{tool.name}", "arguments": ')
    end = grammar.text(f"}}\n{hermes.CLOSE}")
    arguments = grammar.json({**_closed(tool.parameters), "type": "object"})
    return grammar.rule(f"{begin} {arguments} {end}")


def _closed(parameters: dict[str, Any]) -> dict[str, Any]:
    """Unlike another object, a function that names no parameters has none."""
    if _OTHERS & parameters.keys() or parameters.get("properties"):
        return closed(parameters)
    return {**parameters, "additionalProperties": False}


def qwen3_coder_call(grammar: Grammar, tool: Tool) -> str:
    """Parameters in the schema's order."""
    form = Members(qwen3_coder.PARAMETER, ">\n", "\n", qwen3_coder.PARAMETER_END, "\n")
    begin = grammar.text(f"{qwen3_coder.OPEN}\n{qwen3_coder.FUNCTION}{tool.name}>\n")
    end = grammar.text(f"{qwen3_coder.FUNCTION_END}\n{qwen3_coder.CLOSE}")
    return grammar.rule(" ".join([begin, *form.rules(grammar, tool), end]))


def iquest_call(grammar: Grammar, tool: Tool) -> str:
    """Arguments in the schema's order."""
    form = Members(iquest.KEY, iquest.KEY_END + iquest.VALUE, "", iquest.VALUE_END, "")
    begin, end = grammar.text(iquest.OPEN + tool.name), grammar.text(iquest.CLOSE)
    return grammar.rule(" ".join([begin, *form.rules(grammar, tool), end]))


def calls_grammar(
    call: Call, tools: Sequence[Tool], special: Mapping[str, int], *, many: bool, thinking: str | None = None
) -> str:
    """The grammar of an answer that is nothing but calls.

    Args:
        call: of the format.
        tools: the functions that may be called.
        special: ids of the format's marks that are special tokens.
        many: let more than one call through.
        thinking: mark that ends the reasoning which the answer begins with, if it does.
    """
    grammar = Grammar(special)
    one = grammar.rule(" | ".join([call(grammar, tool) for tool in tools]))
    calls = f'{one} ("\\n" {one})*' if many else one
    if thinking is None:
        return grammar.write(calls)
    thought = grammar.rule(_without(thinking), terminal=True)
    if thinking in special:
        return grammar.write(f'{thought} {grammar.text(thinking)} "\\n\\n" {calls}')
    return grammar.write(f'{grammar.until(thought, thinking)} "\\n\\n" {calls}')


@dataclass(frozen=True, slots=True)
class Members:
    """How a format writes arguments: `begin` NAME `middle` VALUE `space` `closer` `after`."""

    begin: str
    middle: str
    space: str
    closer: str
    after: str

    def rules(self, grammar: Grammar, tool: Tool) -> list[str]:
        """A rule per parameter; optional ones may be left out."""
        required = tool.parameters.get("required")
        must = set(map(str, required)) if isinstance(required, list) else set()
        members = []
        for name, schema in properties(tool.parameters).items():
            if qwen3_coder.PARAMETER_NAME.fullmatch(name):
                begin = grammar.text(self.begin + name + self.middle)
                value = self._value(grammar, schema, tool.parameters)
                members.append(grammar.rule(f"{begin} {value}") + ("" if name in must else "?"))
            elif name in must:
                raise InvalidRequestError(
                    f"Calls of {tool.name} can't be forced: this model's format can't spell one of its parameters.",
                    param="tools",
                )
        return members

    def _value(self, grammar: Grammar, schema: dict[str, Any], root: dict[str, Any]) -> str:
        """A rule for a value and what follows it."""
        shared: dict[str, Any] = {key: root[key] for key in ("$defs", "definitions") if key in root}
        end = grammar.text(self.space + self.closer + self.after)
        options = []
        for leaf in leaves(schema, root):
            if "const" in leaf.schema:
                value = leaf.schema["const"]
                text = value if isinstance(value, str) else to_json(value)
                if self.closer not in text:
                    options.append(grammar.text(text + self.space + self.closer + self.after))
            elif leaf.type == STRING:
                options.append(self._string(grammar, leaf))
            else:
                any_type = {} if leaf.type == ANY else {"type": leaf.type}
                options.append(f"{grammar.json({**shared, **leaf.schema, **any_type})} {end}")
        if not options:
            raise InvalidRequestError("A parameter's schema lets no value through.", param="tools")
        return grammar.rule(" | ".join(options))

    def _string(self, grammar: Grammar, leaf: Leaf) -> str:
        """A string in which the closing tag can't be, and what follows it."""
        body = _without(self.closer)
        low, high = leaf.schema.get("minLength"), leaf.schema.get("maxLength")
        if isinstance(low, int) or isinstance(high, int):
            bounds = f"{low if isinstance(low, int) else 0},{high if isinstance(high, int) else ''}"
            body += f" & /(?s:.{{{bounds}}})/"
        if isinstance(pattern := leaf.schema.get("pattern"), str):
            body += f" & {_regex(_anywhere(pattern))}"
        terminal = grammar.rule(body, terminal=True)
        after = grammar.text(self.after)
        if self.closer in grammar.special:
            space = (
                grammar.rule(f"{terminal} {json.dumps(self.space)}", terminal=True)
                if self.space
                else terminal
            )
            return f"{space} {grammar.text(self.closer)} {after}"
        return f"{grammar.until(terminal, self.space + self.closer)} {after}"


def _anywhere(pattern: str) -> str:
    """A pattern that may match anywhere as one that matches the whole, as llguidance has no anchors."""
    before = "" if pattern.startswith("^") else "(?s:.*)"
    after = "" if pattern.endswith("$") and not pattern.endswith("\\$") else "(?s:.*)"
    bare = pattern.removeprefix("^") if not before else pattern
    return f"{before}(?:{bare[:-1] if not after else bare}){after}"


def _without(marker: str) -> str:
    """The terminal of any text that does not hold `marker`."""
    return f"/(?s:.*)/ & ~{_regex(f'(?s:.*){re.escape(marker)}(?s:.*)')}"


def _regex(pattern: str) -> str:
    """A pattern as Lark writes it: on one line, slashes escaped unless they are already."""
    escaped = re.sub(r"\\.|/", lambda found: r"\/" if found[0] == "/" else found[0], pattern, flags=re.DOTALL)
    return f"/{escaped.translate(_ESCAPED)}/"
