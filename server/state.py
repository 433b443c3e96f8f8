"""What every route needs, as one typed object on the application."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from engine.config import GenerationDefaults, ModelConfig
from engine.tokenizer import Tokenizer
from server.chat_dialect import ChatDialect
from server.chat_template import ChatTemplate
from server.engine_client import EngineClient
from server.grammar_trial import GrammarTrial
from server.metrics import ServerMetrics
from server.openai.limits import RequestLimits
from server.settings import Settings


@dataclass(frozen=True)
class AppState:
    """Everything a handler may use; made once by `server.app.create_app`.

    Attributes:
        model_name: the id clients give in `model` and see in `/v1/models`.
        chat_template: from `--chat-template` or the model; None if there is neither.
        dialect: how the model's chat answers are read.
        created: Unix time of the start, for `/v1/models`.
    """

    settings: Settings
    client: EngineClient
    metrics: ServerMetrics
    grammars: GrammarTrial
    tokenizer: Tokenizer
    model_name: str
    model_config: ModelConfig
    generation_defaults: GenerationDefaults
    chat_template: ChatTemplate | None
    dialect: ChatDialect
    created: int

    @property
    def limits(self) -> RequestLimits:
        """What one request may ask for."""
        return self.settings.request_limits


def get_state(request: Request) -> AppState:
    """The `AppState` of the application that got this request."""
    state: AppState = request.app.state.loopserve
    return state


State = Annotated[AppState, Depends(get_state)]
