"""instructor: pydantic models out of tool calls, JSON schemas and JSON mode."""

from typing import Literal

import instructor
import openai
from checking import API, ASK_LANGUAGE, KEY, MODEL, TIMEOUT_S, feature, main, require
from pydantic import BaseModel, ConfigDict, Field


class Language(BaseModel):
    """A programming language. Closed, as the model behind the server would go on adding properties."""

    model_config = ConfigDict(extra="forbid")

    language: Literal["python", "rust", "go"]
    level: int = Field(ge=1, le=5)
    typed: bool


def ask(mode: instructor.Mode) -> None:
    """One try: with the grammar the first answer obeys the model."""
    raw = openai.OpenAI(base_url=API, api_key=KEY, max_retries=0, timeout=TIMEOUT_S)
    client = instructor.from_openai(raw, mode=mode)
    answer = client.chat.completions.create(
        model=MODEL, messages=ASK_LANGUAGE, response_model=Language, max_tokens=200, seed=1, max_retries=0
    )
    require(isinstance(answer, Language), f"{answer!r}")


@feature("tools")
def tools() -> None:
    ask(instructor.Mode.TOOLS)


@feature("tools streamed")
def partial() -> None:
    raw = openai.OpenAI(base_url=API, api_key=KEY, max_retries=0, timeout=TIMEOUT_S)
    client = instructor.from_openai(raw, mode=instructor.Mode.TOOLS)
    parts = list(
        client.chat.completions.create_partial(
            model=MODEL, messages=ASK_LANGUAGE, response_model=Language, max_tokens=200, seed=1, max_retries=0
        )
    )
    require(len(parts) > 1, "the answer came in one part")
    Language.model_validate(parts[-1].model_dump())


@feature("json_schema")
def json_schema() -> None:
    ask(instructor.Mode.JSON_SCHEMA)


if __name__ == "__main__":
    main("instructor")
