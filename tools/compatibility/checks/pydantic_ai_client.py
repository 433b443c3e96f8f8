"""pydantic-ai: agents with typed output."""

from typing import Literal

from checking import API, KEY, MODEL, UNKNOWN_MODEL, WRONG_KEY, equal, feature, main, raises, require
from pydantic import BaseModel, ConfigDict, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

QUESTION = "Describe a programming language."
SETTINGS = ModelSettings(max_tokens=200, temperature=0, parallel_tool_calls=False)
SHORT = ModelSettings(max_tokens=24, temperature=0)


class Language(BaseModel):
    """A programming language. Closed, as the model behind the server would go on adding properties."""

    model_config = ConfigDict(extra="forbid")

    language: Literal["python", "rust", "go"]
    level: int = Field(ge=1, le=5)
    typed: bool


def model(name: str = MODEL, key: str = KEY) -> OpenAIChatModel:
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=API, api_key=key))


@feature("chat")
def chat() -> None:
    require(
        Agent(model(), instructions="Be brief.").run_sync(QUESTION, model_settings=SHORT).output,
        "no output",
    )


@feature("stream")
def stream() -> None:
    result = Agent(model()).run_stream_sync(QUESTION, model_settings=SHORT)
    require("".join(result.stream_text(delta=True)), "no text")


@feature("tools")
def tools() -> None:
    agent = Agent(model(), output_type=ToolOutput(Language), retries=0)
    require(isinstance(agent.run_sync(QUESTION, model_settings=SETTINGS).output, Language), "no Language")


@feature("json_schema")
def json_schema() -> None:
    agent = Agent(model(), output_type=NativeOutput(Language, strict=True), retries=0)
    require(isinstance(agent.run_sync(QUESTION, model_settings=SETTINGS).output, Language), "no Language")


@feature("responses")
def responses() -> None:
    responses_model = OpenAIResponsesModel(MODEL, provider=OpenAIProvider(base_url=API, api_key=KEY))
    require(Agent(responses_model).run_sync(QUESTION, model_settings=SHORT).output, "no output")


@feature("auth error")
def auth_error() -> None:
    error = raises(ModelHTTPError, lambda: Agent(model(key=WRONG_KEY)).run_sync(QUESTION))
    equal(error.status_code, 401, "status")


@feature("unknown model")
def unknown_model() -> None:
    error = raises(ModelHTTPError, lambda: Agent(model(UNKNOWN_MODEL)).run_sync(QUESTION))
    equal(error.status_code, 404, "status")


if __name__ == "__main__":
    main("pydantic-ai-slim")
