"""Puts the application together."""

from fastapi import FastAPI

from server.anthropic.errors import AnthropicErrorsMiddleware
from server.anthropic.messages import router as messages_router
from server.api_keys import ApiKeys
from server.auth import AuthMiddleware
from server.baseline_metrics import BaselineCollector
from server.body_limit import BodyLimitMiddleware, BodyMemory
from server.draining import CloseWhileDrainingMiddleware
from server.early_refusal import EarlyRefusalMiddleware
from server.engine_metrics import EngineCollector
from server.host_check import HostMiddleware
from server.http_metrics import HttpMetricsMiddleware, HttpSeries
from server.lifespan import lifespan
from server.model_metrics import ModelCollector, VllmCollector
from server.openai.errors import install_error_handlers
from server.openai.routes import router as openai_router
from server.openapi import ADDRESS as OPENAPI_ADDRESS
from server.openapi import install_openapi
from server.operations import router as operations_router
from server.panics import PanicMiddleware
from server.rate_limit_headers import RateLimitHeadersMiddleware
from server.request_id import RequestIdMiddleware
from server.request_log import log_request
from server.request_notes import RequestNotesMiddleware
from server.state import AppState
from server.static_page import load_page, page_router
from server.version import package_version


def create_app(state: AppState, api_keys: ApiKeys | None = None) -> FastAPI:
    """The ASGI application over a prepared state; call once per state.

    Args:
        state: what the routes use; its client is started and stopped by the application.
        api_keys: keys that clients must present; None means no authentication.
    """
    app = FastAPI(
        title="loopserve",
        version=package_version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=OPENAPI_ADDRESS,
        redirect_slashes=False,
    )
    app.state.loopserve = state
    state.metrics.registry.register(EngineCollector(state.client))
    state.metrics.registry.register(BaselineCollector(state.client))
    state.metrics.registry.register(ModelCollector(state.client, state.model_name))
    if state.settings.metrics_compat == "vllm":
        state.metrics.registry.register(VllmCollector(state.client, state.model_name))
    app.include_router(operations_router)
    app.include_router(openai_router)
    app.include_router(messages_router)
    page = load_page() if state.settings.page else {}
    if page:
        app.include_router(page_router(page))
    install_error_handlers(app)
    install_openapi(app, with_keys=api_keys is not None)
    app.add_middleware(PanicMiddleware)
    # Added last is outermost. Bodies are read only from authenticated clients; refusals are counted and carry an id.
    app.add_middleware(
        BodyLimitMiddleware,
        limit=int(state.settings.max_body_size),
        seconds=state.settings.body_timeout,
        memory=BodyMemory(int(state.settings.max_body_memory)),
    )
    if state.key_limits.has_rates:
        app.add_middleware(RateLimitHeadersMiddleware, limits=state.key_limits)
    app.add_middleware(EarlyRefusalMiddleware, client=state.client)
    if api_keys is not None:
        state.key_limits.replace(state.settings.key_quota(len(api_keys)), api_keys.accounts)
        app.add_middleware(AuthMiddleware, keys=api_keys, readable=page)
    app.add_middleware(HostMiddleware, allowed=state.settings.allowed_hosts)
    app.add_middleware(AnthropicErrorsMiddleware)
    app.add_middleware(HttpMetricsMiddleware, series=HttpSeries(state.metrics.registry, state.metrics.bounds))
    app.add_middleware(CloseWhileDrainingMiddleware, client=state.client)
    observers = [log_request] if state.settings.log_requests else []
    if state.tracer is not None:
        observers.append(state.tracer.on_request)
    if observers:
        app.add_middleware(RequestNotesMiddleware, observers=observers)
    app.add_middleware(RequestIdMiddleware)
    return app
