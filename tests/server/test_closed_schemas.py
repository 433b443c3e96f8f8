"""Which objects are closed."""

from typing import Any

import pytest

from server.openai.closed_schemas import closed

NAMED: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
SHUT = {**NAMED, "additionalProperties": False}


def test_objects_are_closed_wherever_they_are_reached() -> None:
    schema = {
        "properties": {"one": NAMED, "many": {"type": "array", "items": NAMED}},
        "$defs": {"named": NAMED},
    }
    assert closed(schema) == {
        "properties": {"one": SHUT, "many": {"type": "array", "items": SHUT}},
        "$defs": {"named": SHUT},
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "more",
    [
        {"additionalProperties": True},
        {"additionalProperties": {"type": "string"}},
        {"patternProperties": {"^x": {}}},
        {"anyOf": [NAMED]},
        {"$ref": "#/$defs/x"},
        {"required": ["a", "b"]},
        {"minProperties": 2},
    ],
)
def test_what_says_more_than_its_properties_stays_open(more: dict[str, Any]) -> None:
    assert closed({**NAMED, **more}) == {**NAMED, **more}


@pytest.mark.parametrize(
    "schema", [{"type": "object"}, {"type": "object", "properties": {}}, {"anyOf": [NAMED]}]
)
def test_objects_without_named_properties_stay_open(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


def test_definitions_that_are_combined_stay_open() -> None:
    schema = {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {"a": NAMED, "b": NAMED}}
    assert closed(schema) == schema


def test_the_given_schema_is_left_alone() -> None:
    schema: dict[str, Any] = {"properties": {"one": {"properties": {"a": {}}}}}
    closed(schema)
    assert schema == {"properties": {"one": {"properties": {"a": {}}}}}
