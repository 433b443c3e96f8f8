"""loopserve on Ray Serve: replicas of the whole server, and an ingress that sends what belongs together to one of them.

    pip install loopserve 'ray[serve]'
    serve run deploy/ray_serve.yaml

An `Engine` replica is what `loopserve serve` is, without its socket: the same application over the same engine
process. Ray's proxy shows routers only headers, so `Ingress` reads the body, makes a key of it (`server.affinity`) and
gives that to Ray's consistent-hash router as the session. A replica that has all the requests it may have passes one on
to the next of the ring. Settings are the environment's `LOOPSERVE_*`, or `args` of the application in the YAML file.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
)
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.log_format import log_to_stderr
from server.affinity import routing_key
from server.api_keys import ApiKeys
from server.app import create_app
from server.auth import AuthMiddleware
from server.body_limit import BodyLimitMiddleware, BodyMemory
from server.bootstrap import build_state
from server.engine_client import EngineState
from server.error_catalogue import ENGINE_DEAD, REPLICAS_BUSY
from server.host_check import HostMiddleware
from server.openai.errors import ApiError, error_response
from server.relay import RelayedRequest, relay
from server.settings import Settings, load_settings
from server.static_page import load_page

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
SERVED_BY = b"x-served-by"
RETRY_AFTER_S = 1


@serve.deployment(
    name="Engine",
    num_replicas=1,
    max_ongoing_requests=64,  # as many as run at once by default: further ones rather go to the ring's next replica
    max_queued_requests=256,  # when all replicas have theirs
    graceful_shutdown_timeout_s=60,
    health_check_period_s=5,
    health_check_timeout_s=10,
    request_router_config=RequestRouterConfig(request_router_class=ROUTER),
)
class Engine:
    """One server with its engine."""

    async def __init__(self, options: Mapping[str, Any]) -> None:  # type: ignore[misc]  # Ray awaits it
        """Ready when the engine is: Ray sends nothing before this returns.

        Raises:
            RuntimeError: the model can't be served.
        """
        settings = load_settings(dict(options))
        log_to_stderr(settings.log_level.upper(), settings.log_format)
        keys = ApiKeys(settings.all_api_keys())
        self._settings = settings
        self._state = build_state(settings)
        self._app = create_app(self._state, keys if len(keys) > 0 else None)
        self._lifespan = self._app.router.lifespan_context(self._app)
        self._name = serve.get_replica_context().replica_id.unique_id.encode()
        await self._lifespan.__aenter__()
        client = self._state.client
        ready, failed = (asyncio.create_task(each) for each in (client.wait_ready(), client.wait_failed()))
        await asyncio.wait({ready, failed}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        failed.cancel()
        self.check_health()

    async def answer(self, request: RelayedRequest) -> AsyncGenerator[Message, None]:
        """The messages of one answer, the first with this replica's name."""
        async for message in relay(self._app, request):
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (SERVED_BY, self._name)]
            yield message

    def check_health(self) -> None:
        """Called by Ray, which replaces a replica that fails this.

        An engine that is being restarted is no failure: the server does that itself, a bounded number of times.

        Raises:
            RuntimeError: the engine is beyond that.
        """
        client = self._state.client
        if client.state is EngineState.FAILED:
            raise RuntimeError(client.failure.message if client.failure else "the engine failed")

    async def __del__(self) -> None:
        """Called once by Ray when this replica has to go, after its requests have ended."""
        await self._state.client.drain(self._settings.drain_timeout)
        await self._lifespan.__aexit__(None, None, None)


@serve.deployment(name="Ingress", max_ongoing_requests=1024, graceful_shutdown_timeout_s=60)
class Ingress:
    """Refuses what no replica need see, and chooses the replica of the rest."""

    def __init__(self, engine: DeploymentHandle, options: Mapping[str, Any]) -> None:
        """Without a model: cheap, and there may be several."""
        self._engine = engine.options(stream=True, method_name="answer")
        self._app = _guarded(self._forward, load_settings(dict(options)))

    async def __call__(self, request: Request) -> Response:
        """Called by Ray."""
        return _Answer(self._app)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application. Its body has been collected: it is one message."""
        body = (await receive()).get("body", b"")
        key = routing_key(scope["headers"], body)
        answer = self._engine.options(session_id=key).remote(RelayedRequest.of(scope, body))
        leaving = asyncio.create_task(_client_left(receive, answer))
        begun = False
        try:
            async for message in answer:
                begun = True
                await send(message)
        except (RequestCancelledError, asyncio.CancelledError):
            if not leaving.done():
                raise
        except (RayError, RayServeException) as error:
            if begun:
                raise  # the client sees its connection end inside the answer
            await error_response(_without_answer(error))(scope, receive, send)
        finally:
            leaving.cancel()


class _Answer(Response):
    """An ASGI application as the response that Ray wants."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _guarded(app: ASGIApp, settings: Settings) -> ASGIApp:
    """The checks that stand before a body is read; the replica makes them again."""
    app = BodyLimitMiddleware(
        app,
        limit=int(settings.max_body_size),
        seconds=settings.body_timeout,
        memory=BodyMemory(int(settings.max_body_memory)),
    )
    keys = ApiKeys(settings.all_api_keys())
    if len(keys) > 0:
        app = AuthMiddleware(app, keys, readable=load_page() if settings.page else {})
    return HostMiddleware(app, allowed=settings.allowed_hosts)


async def _client_left(receive: Receive, answer: DeploymentResponseGenerator) -> None:
    """End the request in its replica when its client goes."""
    while (await receive())["type"] != "http.disconnect":
        pass
    answer.cancel()


def _without_answer(error: Exception) -> ApiError:
    """What the client is told if no replica has begun to answer."""
    if isinstance(error, BackPressureError | DeploymentUnavailableError | ReplicaUnavailableError):
        return ApiError.of(REPLICAS_BUSY, headers={"Retry-After": str(RETRY_AFTER_S)})
    return ApiError.of(ENGINE_DEAD)


def build(args: dict[str, Any]) -> serve.Application:
    """The application, for `import_path` of a configuration.

    Args:
        args: settings by name, such as ``{"model": "/models/demo"}``, over the environment's.
    """
    return Ingress.bind(Engine.bind(args), args)  # type: ignore[attr-defined]
