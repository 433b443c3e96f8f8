"""Where requests with a grammar wait until it is compiled."""

from concurrent.futures import Future
from dataclasses import dataclass

from engine.errors import InvalidRequestError
from engine.grammar_compiler import GrammarCompiler
from engine.grammar_state import GrammarState
from engine.messages import Request


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: Request
    state: Future[GrammarState]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A request that waits no longer.

    Attributes:
        result: its grammar's state, or why there is none; `LoopserveError` has a text for the client.
    """

    request: Request
    result: GrammarState | BaseException


class GrammarGate:
    """Requests between their arrival and their first step, in order of arrival."""

    def __init__(self, compiler: GrammarCompiler | None) -> None:
        """Without a compiler every grammar is refused."""
        self._compiler = compiler
        self._waiting: dict[str, _Waiting] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def any_ready(self) -> bool:
        """Whether `take` would return something."""
        return any(waiting.state.done() for waiting in self._waiting.values())

    def hold(self, request: Request, grammar: str) -> None:
        """Begin to compile.

        Raises:
            InvalidRequestError: this engine has no grammars.
        """
        if self._compiler is None:
            raise InvalidRequestError("This engine was started without grammars.", param="grammar")
        self._waiting[request.request_id] = _Waiting(request, self._compiler.compile(grammar))

    def drop(self, request_id: str) -> None:
        """Forget a request; unknown ids are ignored."""
        waiting = self._waiting.pop(request_id, None)
        if waiting is not None:
            waiting.state.cancel()

    def take(self) -> list[Compiled]:
        """Those whose compilation has ended, one way or the other."""
        done = [waiting for waiting in self._waiting.values() if waiting.state.done()]
        for waiting in done:
            del self._waiting[waiting.request.request_id]
        return [
            Compiled(waiting.request, waiting.state.exception() or waiting.state.result()) for waiting in done
        ]
