"""Constraints on an answer's text, as one grammar in llguidance's own text form.

Making the text is cheap and checks nothing; whether it compiles, a trial in a killable process says (`check_grammar`).
"""

import json
from typing import Any

from llguidance import LLMatcher

from engine.errors import InvalidRequestError
from server.error_catalogue import INVALID_GRAMMAR
from server.openai.closed_schemas import closed
from server.openai.constraint_fields import ResponseFormat, StructuredOutputs
from server.openai.errors import ApiError
from server.openai.protocol import GenerationFields
from server.state import AppState

# Where JSON allows white space: nothing, a space, or a new line with its indentation. Without a bound a weak model can
# go on with blanks for ever, and be within the grammar.
_WHITE_SPACE = r"\x20|\r?\n(\x20{0,24}|\x09{0,8})"
JSON_OPTIONS = {"whitespace_pattern": _WHITE_SPACE, "item_separator": ",", "key_separator": ":"}
ANY_OBJECT: dict[str, Any] = {"type": "object"}


def json_schema_grammar(schema: dict[str, Any]) -> str:
    """JSON that is valid under `schema`, properties in the schema's order, white space bounded."""
    return LLMatcher.grammar_from_json_schema(schema_with_options(schema))


def schema_with_options(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema closed and with our rules on white space, to embed in Lark by ``%json``."""
    own = schema.get("x-guidance")
    return {**closed(schema), "x-guidance": {**(own if isinstance(own, dict) else {}), **JSON_OPTIONS}}


def lark_grammar(text: str) -> str:
    """Text that follows a Lark grammar (llguidance's variant); its rule `start` is the whole answer."""
    return LLMatcher.grammar_from_lark(text)


def regex_grammar(pattern: str) -> str:
    """Text that matches a regex (Rust's syntax, no look-around) from its beginning to its end."""
    return LLMatcher.grammar_from_regex(pattern)


def choice_grammar(choices: list[str]) -> str:
    """One of the texts."""
    return lark_grammar("start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices))


def constraint_of(fields: GenerationFields) -> str | None:
    """The grammar that a request's fields ask for, or None.

    Raises:
        InvalidRequestError: they ask for more than one thing, or for nothing clear.
    """
    formatted = None if fields.response_format is None else _of_format(fields.response_format)
    if fields.structured_outputs is None:
        return formatted
    if formatted is not None:
        raise InvalidRequestError(
            "Give either response_format or structured_outputs.", param="structured_outputs"
        )
    return _of_structured(fields.structured_outputs)


async def checked_constraint(state: AppState, fields: GenerationFields) -> str | None:
    """`constraint_of`, tried out.

    Raises:
        InvalidRequestError, UnavailableError: see `constraint_of` and `check_grammar`.
    """
    grammar = constraint_of(fields)
    if grammar is not None:
        param = "response_format" if fields.structured_outputs is None else "structured_outputs"
        await check_grammar(state, grammar, param)
    return grammar


async def check_grammar(state: AppState, grammar: str, param: str) -> None:
    """Compile a grammar on trial.

    Args:
        param: the request field that an error names.

    Raises:
        ApiError: it doesn't compile, or not within the time and memory that grammars get.
        UnavailableError: the trial compiler is busy or can't start.
    """
    problem = await state.grammars.problem_of(grammar)
    if problem is not None:
        raise ApiError.of(INVALID_GRAMMAR, param=param, problem=problem)


def _of_format(given: ResponseFormat) -> str | None:
    match given.type:
        case "text":
            return None
        case "json_object":
            return json_schema_grammar(ANY_OBJECT)
        case "json_schema":
            if given.json_schema is None or given.json_schema.schema_ is None:
                raise InvalidRequestError(
                    "response_format of type json_schema needs json_schema.schema.", param="response_format"
                )
            return json_schema_grammar(given.json_schema.schema_)


def _of_structured(given: StructuredOutputs) -> str:
    constraints: list[str] = []
    if given.json_ is not None:
        constraints.append(json_schema_grammar(given.json_))
    if given.regex is not None:
        constraints.append(regex_grammar(given.regex))
    if given.choice is not None:
        constraints.append(choice_grammar(given.choice))
    if given.grammar is not None:
        constraints.append(_lark_of_client(given.grammar))
    if given.json_object:
        constraints.append(json_schema_grammar(ANY_OBJECT))
    if len(constraints) != 1:
        raise InvalidRequestError(
            "structured_outputs needs exactly one of json, regex, choice, grammar, json_object.",
            param="structured_outputs",
        )
    return constraints[0]


def _lark_of_client(text: str) -> str:
    if "::=" in text:
        raise InvalidRequestError(
            "structured_outputs.grammar takes Lark (rules like 'start: ...'), not GBNF or EBNF ('root ::= ...').",
            param="structured_outputs",
        )
    return lark_grammar(text)
