"""What a parameter's JSON schema says about how its value is written in an XML format.

Such formats write strings as they are and everything else as JSON, so the schema has to say which it is.
"""

from dataclasses import dataclass
from typing import Any

from server.openai.tool_parsers.json_text import parse_json

MAX_LEAVES = 64
MAX_REFERENCES = 16

STRING, ANY = "string", "any"
_TYPES = frozenset(["string", "integer", "number", "boolean", "null", "array", "object"])


@dataclass(frozen=True, slots=True)
class Leaf:
    """One way to satisfy a schema.

    Attributes:
        type: a JSON type, or ANY where the schema names none.
        schema: without alternatives at its top, and its `type` is `type`.
    """

    type: str
    schema: dict[str, Any]


def properties(parameters: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The schema of each parameter, required ones that have none included."""
    named = parameters.get("properties")
    found = (
        {} if not isinstance(named, dict) else {n: s if isinstance(s, dict) else {} for n, s in named.items()}
    )
    required = parameters.get("required")
    for name in required if isinstance(required, list) else ():
        if isinstance(name, str):
            found.setdefault(name, {})
    return found


def leaves(schema: dict[str, Any], root: dict[str, Any]) -> list[Leaf]:
    """The alternatives of a schema; a schema that is too complicated is one leaf of type ANY.

    Args:
        root: what references refer to.
    """
    found: list[Leaf] = []
    waiting, references = [schema], 0
    while waiting:
        one = waiting.pop(0)
        if len(found) + len(waiting) > MAX_LEAVES or references > MAX_REFERENCES:
            return [Leaf(ANY, schema)]
        alternatives = one.get("anyOf", one.get("oneOf"))
        if isinstance(one.get("$ref"), str):
            references += 1
            target = _resolve(one["$ref"], root)
            if target is None:
                return [Leaf(ANY, schema)]
            waiting.append(target)
        elif isinstance(alternatives, list) and all(isinstance(branch, dict) for branch in alternatives):
            waiting += alternatives
        else:
            found += _of_types(one)
    return found


def _of_types(schema: dict[str, Any]) -> list[Leaf]:
    """A leaf per type of a schema without alternatives."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list) and values:
        return [Leaf(type_of(value), {"const": value}) for value in values]
    named = schema.get("type")
    types = [named] if isinstance(named, str) else named
    if (
        not isinstance(types, list)
        or not types
        or not all(one in _TYPES for one in types if isinstance(one, str))
    ):
        return [Leaf(ANY, schema)]
    return [Leaf(one, {**schema, "type": one}) for one in types if isinstance(one, str)]


def type_of(value: Any) -> str:
    """The JSON type of a value; a whole number is an integer."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return STRING
        case list():
            return "array"
        case dict():
            return "object"
        case float() if not value.is_integer():
            return "number"
        case _:
            return "integer"


def read_value(text: str, types: frozenset[str]) -> Any:
    """The value that a parameter's text stands for; text that fits no type is a string.

    Args:
        types: from the leaves of its schema.
    """
    if types <= {STRING}:
        return text
    stripped = text.strip()
    try:
        value = parse_json({"True": "true", "False": "false", "None": "null"}.get(stripped, stripped))
    except ValueError:
        return text
    kind = type_of(value)
    fits = ANY in types or kind in types or (kind == "integer" and "number" in types)
    return value if fits or STRING not in types else text


def _resolve(reference: str, root: dict[str, Any]) -> dict[str, Any] | None:
    """What a reference within the same document means."""
    if not reference.startswith("#"):
        return None
    value: Any = root
    for part in reference[1:].strip("/").split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if key:
            value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else None
