"""Compiles grammars beside the engine's steps.

A compiler gives a future per request, so that the engine core needs no thread of its own and tests can compile on the
spot.
"""

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from llguidance import LLMatcher

from engine.config import ModelConfig
from engine.grammar import COMPILE_STACK_BYTES, Vocabulary, compile_grammar, make_vocabulary
from engine.grammar_state import GrammarState
from engine.tokenizer import Tokenizer

MAX_COMPILED = 32
"""Grammars kept for the next request that brings the same."""


class GrammarCompiler(Protocol):
    """Makes the state of a request before its first token."""

    def compile(self, grammar: str) -> Future[GrammarState]:
        """Begin; the future holds the state, or `InvalidRequestError`."""


class CompiledGrammars:
    """The most recently used matchers, by grammar; each request gets a copy. For one thread at a time."""

    def __init__(self, vocabulary: Vocabulary, capacity: int = MAX_COMPILED) -> None:
        self._vocabulary = vocabulary
        self._capacity = capacity
        self._matchers: OrderedDict[str, LLMatcher] = OrderedDict()

    def state(self, grammar: str) -> GrammarState:
        """The state before the first token.

        Raises:
            InvalidRequestError: see `compile_grammar`.
        """
        if grammar not in self._matchers:
            self._matchers[grammar] = compile_grammar(self._vocabulary, grammar)
            if len(self._matchers) > self._capacity:
                self._matchers.popitem(last=False)
        self._matchers.move_to_end(grammar)
        return GrammarState(self._matchers[grammar].deep_copy(), self._vocabulary)


class BackgroundCompiler:
    """Compiles in one thread, in order. The thread and the vocabulary are made for the first grammar."""

    def __init__(self, load_vocabulary: Callable[[], Vocabulary]) -> None:
        self._load = load_vocabulary
        self._jobs: queue.SimpleQueue[tuple[str, Future[GrammarState]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def compile(self, grammar: str) -> Future[GrammarState]:
        """See `GrammarCompiler.compile`; the future may be cancelled."""
        if self._thread is None:
            self._thread = _start(self._run)
        future: Future[GrammarState] = Future()
        self._jobs.put((grammar, future))
        return future

    def _run(self) -> None:
        grammars: CompiledGrammars | None = None
        while True:
            grammar, future = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                grammars = grammars or CompiledGrammars(self._load())
                future.set_result(grammars.state(grammar))
            except (
                BaseException
            ) as error:  # this request's, panics, too; the thread must live on for the others
                future.set_exception(error)


def load_vocabulary(model_dir: Path, config: ModelConfig) -> Vocabulary:
    """The vocabulary of a checkpoint.

    Raises:
        TokenizerError: its tokenizer can't be loaded.
    """
    return make_vocabulary(Tokenizer.load(model_dir), config.vocab_size, config.eos_token_ids)


def _start(run: Callable[[], None]) -> threading.Thread:
    """A daemon thread, so that a long compilation never keeps the process from exiting."""
    before = threading.stack_size(COMPILE_STACK_BYTES)
    try:
        thread = threading.Thread(target=run, name="grammars", daemon=True)
        thread.start()
    finally:
        threading.stack_size(before)
    return thread
