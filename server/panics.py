"""A panic of a Rust library (tokenizers, llguidance) is answered like any exception: it costs its request.

pyo3 derives its panics from BaseException: Starlette's handlers would let them through, and uvicorn would answer in
plain text.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import is_isolable
from server.errors import LibraryPanicError


class PanicMiddleware:
    """Stands inside all other middleware, so that they see an exception as after any other bug."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry.

        Raises:
            LibraryPanicError: instead of a panic.
        """
        try:
            await self._app(scope, receive, send)
        except Exception:
            raise
        except BaseException as error:
            if not is_isolable(error):
                raise
            raise LibraryPanicError(str(error)) from error
