"""Every way in which an answer can be wrong is seen."""

import json
from typing import Any

import pytest

from tools.reliability.questions import Outcome, Question
from tools.reliability.wire import Exchange, Failure

QUESTION = Question("p", 3, "abc")
ERROR = {"message": "m", "type": "server_error", "param": None, "code": "unavailable"}
DEAD = ERROR | {"code": "engine_dead"}
STREAM = {"content-type": "text/event-stream; charset=utf-8"}


def _text(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"text": text, "finish_reason": finish}]}


def _usage(tokens: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"completion_tokens": tokens}}


def _stream(*events: dict[str, Any], failure: Failure | None = None) -> Exchange:
    parts = [(float(i), b"data: %s\n\n" % json.dumps(one).encode()) for i, one in enumerate(events)]
    return Exchange(0.0, 200, STREAM, [*parts, (9.0, b"data: [DONE]\n\n")], 9.0, failure)


def _whole(body: Any, status: int = 200, retry_after: str | None = None) -> Exchange:
    headers = {"content-type": "application/json"} | ({"retry-after": retry_after} if retry_after else {})
    return Exchange(0.0, status, headers, [(1.0, json.dumps(body).encode())], 1.0)


RIGHT = (_text("a"), _text("b"), _text("c", "length"), _usage(3))


@pytest.mark.parametrize(
    ("done", "outcome"),
    [
        (_stream(*RIGHT), Outcome.RIGHT),
        (_whole(_text("abc", "length") | {"usage": {"completion_tokens": 3}}), Outcome.RIGHT),
        (_stream(_text("a"), _text("c", "length"), _usage(3)), Outcome.WRONG),  # lost
        (_stream(_text("a"), _text("b"), *RIGHT[1:]), Outcome.WRONG),  # doubled
        (_stream(_text("a"), _text("b"), _text("x", "length"), _usage(3)), Outcome.WRONG),
        (_stream(*RIGHT[:3], _usage(2)), Outcome.WRONG),  # a token without text is lost
        (_stream(_text("a"), _text("bc", "stop"), _usage(3)), Outcome.WRONG),
        (_whole(_text("ab", "length") | {"usage": {"completion_tokens": 3}}), Outcome.WRONG),
        (_stream(_text("a"), _text("b")), Outcome.CUT),
        (_stream(*RIGHT[:2], failure=Failure.CUT), Outcome.CUT),
        (_stream(_text("a"), {"error": DEAD}), Outcome.ENGINE_DEAD),
        (_stream(_text("a"), {"error": ERROR}), Outcome.UNEXPECTED),  # too late for a refusal
        (_whole({"error": DEAD}, 500), Outcome.ENGINE_DEAD),
        (_whole({"error": ERROR}, 503, "1"), Outcome.REFUSED),
        (_whole({"error": ERROR | {"code": "rate_limit_exceeded"}}, 429, "1"), Outcome.REFUSED),
        (_whole({"error": ERROR}, 500), Outcome.UNEXPECTED),
        (_whole({"detail": "busy"}, 503), Outcome.UNEXPECTED),  # not the error's shape
        (_whole("busy", 503), Outcome.UNEXPECTED),
        (Exchange(0.0, 502, {}, [(1.0, b"<html>")], 1.0), Outcome.UNEXPECTED),
        (Exchange(0.0, failure=Failure.UNREACHABLE), Outcome.UNREACHABLE),
        (Exchange(0.0, failure=Failure.RESET), Outcome.UNREACHABLE),
        (Exchange(0.0, failure=Failure.TIMEOUT), Outcome.TIMED_OUT),
    ],
)
def test_judgements(done: Exchange, outcome: Outcome) -> None:
    assert QUESTION.judge(done).outcome is outcome


def test_times_of_a_stream_are_those_of_its_text() -> None:
    answer = QUESTION.judge(_stream(_text(""), *RIGHT))
    assert answer.arrivals == (1.0, 2.0, 3.0)
    assert (answer.to_first_token, answer.gaps) == (1.0, [1.0, 1.0])


def test_a_refusal_says_when_to_come_back() -> None:
    assert QUESTION.judge(_whole({"error": ERROR}, 503, "7")).retry_after == "7"
    assert QUESTION.judge(_whole({"error": ERROR}, 503)).retry_after is None
