"""What every route needs, as one typed object on the application."""

from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Request

from engine.config import GenerationDefaults, ModelConfig
from engine.tokenizer import Tokenizer
from server.chat_dialect import ChatDialect
from server.chat_template import ChatTemplate
from server.engine_client import EngineClient
from server.grammar_trial import GrammarTrial
from server.key_limits import KeyLimits
from server.metrics import ServerMetrics
from server.openai.limits import RequestLimits
from server.settings import Settings
from server.tracing import Tracer


@dataclass(frozen=True)
class AppState:
    """Everything a handler may use; made once by `server.bootstrap.build_state`, and for each request named to it.

    Attributes:
        model_name: the id clients give in `model` and see in `/v1/models`.
        chat_template: from `--chat-template` or the model; None if there is neither.
        dialect: how the model's chat answers are read.
        created: Unix time of the start, for `/v1/models`.
        tracer: is told of requests; None if nobody asked for traces.
        account: whose request is handled, see `server.api_keys`; "" without keys.
    """

    settings: Settings
    client: EngineClient
    metrics: ServerMetrics
    key_limits: KeyLimits
    grammars: GrammarTrial
    tokenizer: Tokenizer
    model_name: str
    model_config: ModelConfig
    generation_defaults: GenerationDefaults
    chat_template: ChatTemplate | None
    dialect: ChatDialect
    created: int
    tracer: Tracer | None = None
    account: str = ""

    @property
    def tenant(self) -> str:
        """With whom the request shares the prefix cache."""
        return "" if self.settings.shared_prefix_cache else self.account

    @property
    def limits(self) -> RequestLimits:
        """What one request may ask for."""
        return self.settings.request_limits


def get_state(request: Request) -> AppState:
    """The `AppState` of the application that got this request, with the account that `AuthMiddleware` found."""
    state: AppState = request.app.state.loopserve
    return replace(state, account=request.scope.get("state", {}).get("account", ""))


State = Annotated[AppState, Depends(get_state)]
