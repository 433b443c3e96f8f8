"""Says what is wrong with what a server did with a case.

**Unsafe** is what no server should do to anybody: an answer of 5xx, no answer, a connection that dies, an answer
that can't be read, an error of many pages, internals in it, an address fetched. **Policy** is what loopserve promises
beyond that: the very status, OpenAI's error object, a 401 with its challenge, slow connections closed in time.
"""

import json
import re
from dataclasses import dataclass
from enum import StrEnum

from tools.attack.answers import MalformedError, check_good, error_in_stream, is_stream
from tools.attack.case import Case
from tools.attack.wire import Answer, Exchange, Outcome

MAX_ERROR_BYTES = 4096
AMPLIFIED_BYTES = 64 << 10
MAX_ECHO_CHARS = 200
LEAKS = re.compile(
    rb"Traceback \(most recent|\b0x[0-9a-f]{6,}|/site-packages/|\b\w+\.(?:py|cpp|h|rs):\d+|/(?:home|root|usr|opt)/\w+"
)
OVERLOADED = (429, 503)
NOT_OURS = 501  # "not implemented" is a refusal, not a failure


class Kind(StrEnum):
    """What kind of problem it is."""

    SERVER_ERROR = "5xx"
    HANG = "no answer in time"
    DROPPED = "dropped without an answer"
    MALFORMED = "malformed answer"
    AMPLIFIED = "error above 64 KiB"
    LARGE = "error above 4 KiB"
    LEAK = "internals in an error"
    WRONG = "wrong answer"
    STATUS = "another status"
    SHAPE = "not OpenAI's error object"
    ECHO = "long echo of the input"
    HELD = "connection held open"
    CHECK = "other"


POLICY = frozenset({Kind.STATUS, Kind.SHAPE, Kind.LARGE, Kind.ECHO, Kind.HELD, Kind.CHECK})


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    kind: Kind
    text: str

    @property
    def unsafe(self) -> bool:
        return self.kind not in POLICY

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def overloaded(done: Exchange) -> bool:
    """Whether the server said that it has too much to do, and when to come back."""
    first = done.answers[0] if done.answers else None
    return first is not None and first.status in OVERLOADED and "retry-after" in first.headers


def judge(case: Case, done: Exchange) -> list[Problem]:
    """All problems of one exchange, none if everything is as it should be."""
    if overloaded(done):
        return [Problem(Kind.STATUS, "told to come back later, however often it was sent")]
    flowing = done.outcome is Outcome.SILENT and any(_flows(answer) for answer in done.answers)
    problems = [] if flowing else _of_connection(case, done)
    for answer in done.answers:
        problems += _of_answer(case, answer, flowing=flowing)
    if case.check is not None and (text := case.check(done)) is not None:
        # What an answer says is more than a matter of policy, if the row is about a good answer's content.
        wrong = case.want == frozenset({200}) and done.outcome is Outcome.ANSWERED
        problems.append(Problem(Kind.WRONG if wrong else Kind.CHECK, text))
    return problems


def _of_connection(case: Case, done: Exchange) -> list[Problem]:
    if done.outcome is Outcome.ANSWERED or case.manners.answers > 1:
        return []
    if done.outcome is Outcome.SILENT:
        text = f"after {done.seconds:.0f} s"
        return [Problem(Kind.HELD if case.slow else Kind.HANG, text)]
    if case.may_close and done.outcome is Outcome.CLOSED:
        return []
    complete = any(answer.complete for answer in done.answers)
    return [] if complete else [Problem(Kind.DROPPED, str(done.outcome))]


def _flows(answer: Answer) -> bool:
    """A stream that was still going on at the deadline: long, but no hang."""
    return is_stream(answer) and bool(answer.body) and not answer.complete


def _of_answer(case: Case, answer: Answer, *, flowing: bool) -> list[Problem]:
    status = answer.status
    if status == 200 and answer.complete and (error := error_in_stream(answer)) is not None:
        status = 400 if error.get("type") == "invalid_request_error" else 500
    problems = []
    if status >= 500 and status != NOT_OURS and case.want.isdisjoint({status}):
        problems.append(Problem(Kind.SERVER_ERROR, f"{status} {_shown(answer)}"))
    elif status not in case.want:
        wanted = "/".join(map(str, sorted(case.want)[:4])) + ("…" if len(case.want) > 4 else "")
        problems.append(Problem(Kind.STATUS, f"{status} instead of {wanted}"))
    if 200 <= status < 300:
        return problems + ([] if flowing else _of_good_answer(case, answer))
    if status >= 400 and answer.complete and answer.status != 200:
        problems += _of_error(case, answer)
    return problems


def _of_good_answer(case: Case, answer: Answer) -> list[Problem]:
    if not answer.complete and case.slow:
        return []
    try:
        check_good(answer, case.path)
    except MalformedError as error:
        return [Problem(Kind.MALFORMED, str(error))]
    return []


def _of_error(case: Case, answer: Answer) -> list[Problem]:
    problems = []
    if len(answer.body) > MAX_ERROR_BYTES:
        kind = Kind.AMPLIFIED if len(answer.body) > AMPLIFIED_BYTES else Kind.LARGE
        problems.append(Problem(kind, f"{len(answer.body):,} bytes"))
    if leak := LEAKS.search(answer.body):
        problems.append(Problem(Kind.LEAK, repr(leak[0][:40])))
    if re.search(rb"(.)\1{%d}" % MAX_ECHO_CHARS, answer.body, re.DOTALL):
        problems.append(Problem(Kind.ECHO, f"{len(answer.body):,} bytes"))
    if not case.plain_error and not _has_shape(answer, case.path):
        problems.append(Problem(Kind.SHAPE, _shown(answer)))
    return problems


def _has_shape(answer: Answer, path: str) -> bool:
    """Whether the body is an error object with all its keys: OpenAI's, or Anthropic's under its path."""
    try:
        body = json.loads(answer.body)
    except ValueError:
        return False
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return False
    if path.startswith("/v1/messages"):
        return body.get("type") == "error" and isinstance(error.get("type"), str)
    return {"message", "type", "param", "code"} <= set(error)


def _shown(answer: Answer) -> str:
    return ascii(answer.body[:120].decode("utf-8", "replace"))
