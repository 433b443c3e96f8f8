"""Request fields that constrain the answer's text: OpenAI's `response_format`, and `structured_outputs` as vLLM has it.

What a schema may say is the compiler's business; here only shapes and sizes are checked.
"""

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationInfo

from server.openai.limits import limits_of
from server.openai.nesting import deeper_than

MAX_CHOICES = 1024
MAX_CHOICE_CHARS = 4096
MAX_SCHEMA_NAME_CHARS = 256


def check_schema(value: object, info: ValidationInfo) -> dict[str, Any]:
    """A JSON schema as an object; it may also come as its JSON text."""
    if isinstance(value, str):
        text = value.encode()
        _check_size(text, info)
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise ValueError("must be a JSON schema, or the text of one") from None
        depth = limits_of(info).max_nesting  # of other schemas it was checked with the body
        if deeper_than(value, depth):
            raise ValueError(f"may be nested at most {depth} deep")
    if not isinstance(value, dict):
        raise ValueError("must be a JSON schema, which is an object")
    _check_size(orjson.dumps(value), info)
    return value


def check_text(value: object, info: ValidationInfo) -> str:
    """A regex or grammar."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a string that is not empty")
    _check_size(value.encode(), info)
    return value


def check_choices(value: object, info: ValidationInfo) -> list[str]:
    """The texts to choose from."""
    if not isinstance(value, list) or not value or not set(map(type, value)) <= {str}:
        raise ValueError("must be a list of strings that is not empty")
    if len(value) > MAX_CHOICES:
        raise ValueError(f"may have at most {MAX_CHOICES} strings")
    if not all(0 < len(choice) <= MAX_CHOICE_CHARS for choice in value):
        raise ValueError(f"must hold strings of 1 to {MAX_CHOICE_CHARS} characters")
    _check_size("".join(value).encode(), info)
    return value


def _check_size(text: bytes, info: ValidationInfo) -> None:
    """Of a schema, regex or grammar as text; of all choices together."""
    most = limits_of(info).max_schema_size
    if len(text) > most:
        raise ValueError(f"may have at most {most} bytes")


Schema = Annotated[dict[str, Any], PlainValidator(check_schema, json_schema_input_type=dict[str, Any] | str)]
Text = Annotated[str, PlainValidator(check_text, json_schema_input_type=str)]
Choices = Annotated[list[str], PlainValidator(check_choices, json_schema_input_type=list[str])]


class JsonSchemaFormat(BaseModel):
    """What `response_format` of type json_schema names. It is enforced whatever `strict` says."""

    model_config = ConfigDict(strict=True)

    name: Annotated[str, Field(max_length=MAX_SCHEMA_NAME_CHARS)] | None = None
    description: str | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """OpenAI's `response_format`."""

    model_config = ConfigDict(strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(BaseModel):
    """Exactly one of these; unknown members are refused, as ignoring one would drop a constraint."""

    model_config = ConfigDict(strict=True, extra="forbid")

    json_: Annotated[Schema | None, Field(alias="json")] = None
    regex: Text | None = None
    choice: Choices | None = None
    grammar: Text | None = None
    json_object: bool | None = None
