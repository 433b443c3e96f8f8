"""What tests of grammars share: grammar texts, a compiler without a thread, walks through a grammar."""

import json
import random
from concurrent.futures import Future
from typing import Any

import numpy as np
from llguidance import LLMatcher

from engine.grammar import Vocabulary
from engine.grammar_compiler import CompiledGrammars
from engine.grammar_state import GrammarState

BOUNDED = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["x", "yy"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def json_grammar(schema: dict[str, Any]) -> str:
    """Compact JSON, so that an answer's length is bounded by its schema."""
    return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})


def regex(pattern: str) -> str:
    return LLMatcher.grammar_from_regex(pattern)


def is_bounded(text: str) -> bool:
    """Whether a text is valid under `BOUNDED`, checked by hand."""
    value = json.loads(text)
    return (
        set(value) == {"name", "age", "tags"}
        and len(value["name"]) <= 6
        and type(value["age"]) is int
        and 0 <= value["age"] <= 130
        and len(value["tags"]) <= 2
        and set(value["tags"]) <= {"x", "yy"}
    )


class ImmediateCompiler:
    """Satisfies `GrammarCompiler` on the spot."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.grammars = CompiledGrammars(vocabulary)

    def compile(self, grammar: str) -> Future[GrammarState]:
        future: Future[GrammarState] = Future()
        try:
            future.set_result(self.grammars.state(grammar))
        except Exception as error:
            future.set_exception(error)
        return future


class HeldCompiler(ImmediateCompiler):
    """Ends a compilation only when the test says so."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self.held: list[tuple[str, Future[GrammarState]]] = []

    def compile(self, grammar: str) -> Future[GrammarState]:
        future: Future[GrammarState] = Future()
        self.held.append((grammar, future))
        return future

    def release(self) -> None:
        held, self.held = self.held, []
        for grammar, future in held:
            if future.set_running_or_notify_cancel():
                future.set_result(self.grammars.state(grammar))


def allowed(state: GrammarState) -> list[int]:
    """Ids in the mask that `allow` made."""
    return np.flatnonzero(np.unpackbits(state.mask.view(np.uint8), bitorder="little")).tolist()


def walk(state: GrammarState, seed: int, most: int = 400) -> list[int]:
    """Random allowed tokens until the grammar is complete."""
    choose = random.Random(seed).choice
    tokens: list[int] = []
    while not state.complete and len(tokens) < most:
        if not state.allow(()):
            break
        tokens.append(choose(allowed(state)))
        state.accept(tokens[-1])
        assert state.error is None
    return tokens
