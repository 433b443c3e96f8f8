"""JSON schemas that name an object's properties and say nothing of others, read as if there were no others.

That is what authors of such schemas mean and what other servers' grammars do; a weak model that may add properties of
its own can go on adding them for ever. What the closed schema lets through is valid under the given one.
"""

from typing import Any

from server.openai.nesting import levels

_SAYS_MORE = frozenset(
    [
        *(
            "additionalProperties",
            "patternProperties",
            "unevaluatedProperties",
            "propertyNames",
            "minProperties",
        ),
        *("allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas", "$ref"),
    ]
)
"""With one of these an object's schema is more than its list of properties: closing it could contradict the rest."""

_DEFINITIONS = ("$defs", "definitions")


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A copy with ``additionalProperties: false`` where it is meant.

    Objects are looked for in properties, items and definitions. Definitions stay as they are if anything is combined by
    ``allOf``, which would need all parts' properties at once.
    """
    combined = any("allOf" in one for level in levels(schema) for one in level if isinstance(one, dict))
    return _closed(schema, not combined)


def _closed(schema: Any, with_definitions: bool) -> Any:
    if not isinstance(schema, dict):
        return schema
    out = dict(schema)
    for name in ("properties", *(_DEFINITIONS if with_definitions else ())):
        inner = out.get(name)
        if isinstance(inner, dict):
            out[name] = {key: _closed(value, with_definitions) for key, value in inner.items()}
    if "items" in out:
        out["items"] = _closed(out["items"], with_definitions)
    properties, required = out.get("properties"), out.get("required", [])
    if isinstance(properties, dict) and properties and not _SAYS_MORE & out.keys():
        named = isinstance(required, list) and all(isinstance(name, str) for name in required)
        if named and set(required) <= properties.keys():
            out["additionalProperties"] = False
    return out
