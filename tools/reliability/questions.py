"""Questions whose right answers are known, and what an exchange about one comes to.

An answer is greedy, so there is one right text, whatever runs beside it; it is what the server said when it was asked
alone. A token that is lost, doubled or another's shows in the text or in the count.
"""

import json
import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tools.reliability.failure import ReliabilityError
from tools.reliability.wire import Call, Exchange, Failure, exchange

ALONE_SECONDS = 60.0
VERBS = ("add", "count", "merge", "parse", "read", "sort", "split", "write")
NOUNS = ("bytes", "edges", "files", "lines", "names", "nodes", "rows", "words")


class Outcome(StrEnum):
    """What became of a request."""

    RIGHT = "right"
    WRONG = "wrong answer"
    REFUSED = "refused with 429 or 503"
    ENGINE_DEAD = "told that the engine died"
    CUT = "cut off without an error"
    UNREACHABLE = "no answer began"
    TIMED_OUT = "no end in time"
    UNEXPECTED = "another answer"


@dataclass(frozen=True, slots=True)
class Answer:
    """One judged exchange; times in seconds of `time.perf_counter`.

    Attributes:
        arrivals: of the events with text; empty for a whole answer.
        retry_after: the header, if it was there.
        detail: for an outcome that nobody expects.
    """

    outcome: Outcome
    sent: float
    ended: float
    arrivals: tuple[float, ...] = ()
    retry_after: str | None = None
    detail: str = ""

    @property
    def to_first_token(self) -> float | None:
        """Seconds; None for an answer that was not streamed."""
        return self.arrivals[0] - self.sent if self.arrivals else None

    @property
    def gaps(self) -> list[float]:
        """Seconds between events with text."""
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and the only right answer of `max_tokens` tokens."""

    prompt: str
    max_tokens: int
    text: str

    def call(self, salt: str, *, stream: bool, key: str | None = None) -> Call:
        """The request; another salt finds nothing in the prefix cache."""
        body: dict[str, Any] = {
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "cache_salt": salt,
        }
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return Call("POST", "/v1/completions", body, key=key)

    def judge(self, done: Exchange) -> Answer:
        """Compare what came with what is right."""
        outcome, detail, arrivals = self._outcome(done)
        return Answer(outcome, done.sent, done.ended, arrivals, done.headers.get("retry-after"), detail)

    def _outcome(self, done: Exchange) -> tuple[Outcome, str, tuple[float, ...]]:
        if done.failure is not None:
            return _FAILURES[done.failure], done.failure, ()
        if done.status != 200:
            return *_refusal(done.status, _json(done.body)), ()
        if not done.headers.get("content-type", "").startswith("text/event-stream"):
            return *self._compare(Said.whole(_json(done.body))), ()
        said = Said.streamed(done)
        return *self._compare(said), tuple(said.arrivals)

    def _compare(self, said: "Said") -> tuple[Outcome, str]:
        if said.error is not None:
            return _refusal(200, {"error": said.error})
        if said.finish_reason is None:
            return Outcome.CUT, "the stream ended without a finish_reason"
        if (said.text, said.tokens, said.finish_reason) != (self.text, self.max_tokens, "length"):
            return Outcome.WRONG, f"{said.tokens} tokens, {said.finish_reason}: {said.text!r}"
        return Outcome.RIGHT, ""


class Said:
    """The text of an answer, however it came."""

    def __init__(self) -> None:
        self.text = ""
        self.tokens = 0
        self.finish_reason: str | None = None
        self.error: dict[str, Any] | None = None
        self.arrivals: list[float] = []

    @classmethod
    def whole(cls, body: dict[str, Any]) -> "Said":
        said = cls()
        said._take(body)
        return said

    @classmethod
    def streamed(cls, done: Exchange) -> "Said":
        said = cls()
        for time, part in done.parts:
            for line in part.split(b"\n\n"):
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    had = len(said.text)
                    said._take(json.loads(line.removeprefix(b"data: ")))
                    if len(said.text) > had:
                        said.arrivals.append(time)
        return said

    def _take(self, body: dict[str, Any]) -> None:
        self.error = body.get("error", self.error)
        for choice in body.get("choices", ()):
            self.text += choice["text"]
            self.finish_reason = choice["finish_reason"] or self.finish_reason
        if body.get("usage"):
            self.tokens = body["usage"]["completion_tokens"]


async def make_questions(
    port: int, count: int, tokens: tuple[int, int], seed: int, key: str | None = None
) -> list[Question]:
    """Draw questions and ask a server that does nothing else for the right answers.

    Args:
        tokens: least and most tokens of an answer.

    Raises:
        ReliabilityError: it does not answer, or says something else when asked again as a stream.
    """
    rng = random.Random(seed)
    questions = []
    for number in range(count):
        verb, noun = rng.choice(VERBS), rng.choice(NOUNS)
        prompt = f'def {verb}_{noun}_{number}(items):\n    """{verb.title()} the {noun}."""\n'
        blank = Question(prompt, rng.randint(*tokens), "")
        done = await exchange(port, blank.call("alone", stream=False, key=key), ALONE_SECONDS)
        if done.failure or done.status != 200:
            raise ReliabilityError(f"asked alone, the server answered {done.failure or done.body!r}")
        question = Question(prompt, blank.max_tokens, Said.whole(_json(done.body)).text)
        again = question.judge(
            await exchange(port, question.call("again", stream=True, key=key), ALONE_SECONDS)
        )
        if again.outcome is not Outcome.RIGHT:
            raise ReliabilityError(f"asked alone again, the server's answer differs: {again.detail}")
        questions.append(question)
    return questions


_FAILURES = {
    Failure.UNREACHABLE: Outcome.UNREACHABLE,
    Failure.RESET: Outcome.UNREACHABLE,
    Failure.CUT: Outcome.CUT,
    Failure.TIMEOUT: Outcome.TIMED_OUT,
    Failure.MALFORMED: Outcome.UNEXPECTED,
}


def _refusal(status: int, body: dict[str, Any]) -> tuple[Outcome, str]:
    error = body.get("error")
    detail = f"{status}: {error or body}"
    if not isinstance(error, dict) or not {"message", "type", "code"} <= error.keys():
        return Outcome.UNEXPECTED, detail
    if error["code"] == "engine_dead":
        return Outcome.ENGINE_DEAD, detail
    return (Outcome.REFUSED if status in (429, 503) else Outcome.UNEXPECTED), detail


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {"unreadable": body[:200].decode("latin-1")}
    return value if isinstance(value, dict) else {"not an object": value}
