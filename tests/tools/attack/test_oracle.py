"""The oracle sees each kind of problem, and none in a good answer."""

import dataclasses
import json
from typing import Any

import pytest

from tools.attack.case import BAD, CHAT, COMPLETIONS, GOOD, Case, once
from tools.attack.oracle import Kind, judge, overloaded
from tools.attack.wire import Answer, Exchange, Outcome

ERROR = {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": None}}
CHOICE: dict[str, Any] = {"index": 0, "text": "a", "finish_reason": "stop", "logprobs": None}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
JSON, STREAM = "application/json", "text/event-stream"


def answered(status: int, body: bytes | object, kind: str = JSON, *, complete: bool = True) -> Exchange:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = Answer(status, {"content-type": kind}, content, complete)
    return Exchange(Outcome.ANSWERED if complete else Outcome.CLOSED, [answer])


def case(want: frozenset[int] = BAD, **changes: Any) -> Case:
    return dataclasses.replace(Case("H00", "x", once(b""), want, COMPLETIONS), **changes)


def kinds(one: Case, done: Exchange) -> set[Kind]:
    return {problem.kind for problem in judge(one, done)}


def events(*objects: object, end: bytes = b"data: [DONE]\n\n") -> bytes:
    return b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in objects) + end


def error(message: str) -> dict[str, Any]:
    return {"error": {**ERROR["error"], "message": message}}


def test_what_is_as_wanted() -> None:
    assert not kinds(case(), answered(400, ERROR))
    assert not kinds(case(GOOD), answered(200, {"choices": [CHOICE], "usage": USAGE}))
    assert not kinds(case(GOOD), answered(200, events({"choices": [CHOICE]}, {"choices": []}), STREAM))
    assert not kinds(case(may_close=True), Exchange(Outcome.CLOSED))


@pytest.mark.parametrize(
    ("done", "kind"),
    [
        (answered(422, ERROR), Kind.STATUS),
        (answered(200, {"choices": [CHOICE]}), Kind.STATUS),
        (answered(500, ERROR), Kind.SERVER_ERROR),
        (
            answered(200, events(ERROR | {"error": {**ERROR["error"], "type": "server_error"}}), STREAM),
            Kind.SERVER_ERROR,
        ),
        (Exchange(Outcome.SILENT), Kind.HANG),
        (Exchange(Outcome.CLOSED), Kind.DROPPED),
        (answered(400, {"detail": "no"}), Kind.SHAPE),
        (answered(400, {"error": {"message": "no", "type": "x"}}), Kind.SHAPE),
        (answered(400, b"no"), Kind.SHAPE),
        (answered(400, error("ab" * 3000)), Kind.LARGE),
        (answered(400, error("ab" * 60_000)), Kind.AMPLIFIED),
        (answered(400, error("x" * 201)), Kind.ECHO),
        (answered(400, error("at 0x7f12ab34cd")), Kind.LEAK),
        (answered(400, error('File "/usr/lib/x/site-packages/a.py", line 1')), Kind.LEAK),
    ],
)
def test_each_problem_of_a_refusal(done: Exchange, kind: Kind) -> None:
    assert kind in kinds(case(), done)


@pytest.mark.parametrize(
    "done",
    [
        answered(200, b"{"),
        answered(200, b'{"choices": [{"index": 0, "text": "", "finish_reason": "stop", "x": NaN}]}'),
        answered(200, {"choices": []}),
        answered(200, {"choices": [{**CHOICE, "finish_reason": None}]}),
        answered(200, {"choices": [CHOICE], "usage": {**USAGE, "total_tokens": 4}}),
        answered(200, {"choices": [{**CHOICE, "logprobs": {"tokens": ["a"], "token_logprobs": []}}]}),
        answered(200, events({"choices": [CHOICE]}, end=b""), STREAM),
        answered(200, events(end=b"data: {\n\ndata: [DONE]\n\n"), STREAM),
        answered(200, {"choices": [CHOICE]}, complete=False),
    ],
)
def test_each_problem_of_a_good_answer(done: Exchange) -> None:
    assert kinds(case(GOOD), done) & {Kind.MALFORMED}


def test_a_refusal_within_a_stream_has_its_status() -> None:
    done = answered(200, events({"choices": [CHOICE]}, ERROR), STREAM)
    assert not kinds(case(), done)
    assert kinds(case(GOOD), done) == {Kind.STATUS}


def test_a_stream_that_still_flows_at_the_deadline_is_no_hang() -> None:
    done = answered(200, events({"choices": [CHOICE]}, end=b""), STREAM, complete=False)
    done.outcome = Outcome.SILENT
    assert not kinds(case(GOOD), done)


def test_slow_connections_are_held_not_hung() -> None:
    assert kinds(case(slow=True), Exchange(Outcome.SILENT)) == {Kind.HELD}


def test_wrong_content_is_worse_than_policy_only_where_a_good_answer_was_wanted() -> None:
    done = answered(200, {"choices": [CHOICE]})
    assert kinds(case(GOOD, check=lambda _: "wrong"), done) == {Kind.WRONG}
    assert kinds(case(GOOD | BAD, check=lambda _: "wrong"), done) == {Kind.CHECK}


def test_anthropics_shape_counts_under_its_path_only() -> None:
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    assert not kinds(case(path="/v1/messages"), answered(400, body))
    assert kinds(case(path=CHAT), answered(400, body)) == {Kind.SHAPE}


def test_overload_needs_a_word_on_when_to_come_back() -> None:
    done = answered(503, ERROR)
    assert not overloaded(done)
    assert kinds(case(), done) == {Kind.SERVER_ERROR}
    done.answers[0].headers["retry-after"] = "1"
    assert overloaded(done)
    assert kinds(case(), done) == {Kind.STATUS}
