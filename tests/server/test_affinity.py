"""Which requests have the same routing key, and which must not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.affinity import PREFIX_CHARS, PREFIX_TOKENS, routing_key


def key_of(body: Any, **headers: str) -> str:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return routing_key(
        [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()], data
    )


def chat(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns], **more}


SYSTEM = ("system", "You write Python. " * 100)


def test_a_conversation_keeps_its_key_while_it_grows() -> None:
    first = chat(SYSTEM, ("user", "a parser"))
    later = chat(
        SYSTEM, ("user", "a parser"), ("assistant", "def parse"), ("user", "with tests"), max_tokens=3
    )
    assert key_of(first) == key_of(later) != ""


def test_conversations_that_share_a_system_prompt_differ() -> None:
    assert key_of(chat(SYSTEM, ("user", "a parser"))) != key_of(chat(SYSTEM, ("user", "a printer")))
    assert key_of({"system": "a", **chat(("user", "x"))}) != key_of({"system": "b", **chat(("user", "x"))})
    assert key_of({"instructions": "a", "input": "x"}) != key_of({"instructions": "b", "input": "x"})


def test_a_prompt_keeps_its_key_while_its_end_changes() -> None:
    text = "x" * PREFIX_CHARS
    assert (
        key_of({"prompt": text + "a"})
        == key_of({"prompt": text + "b"})
        == key_of({"prompt": [text, "other"]})
    )
    assert key_of({"prompt": "a" + text}) != key_of({"prompt": "b" + text})
    ids = list(range(PREFIX_TOKENS))
    assert (
        key_of({"prompt": [*ids, 1]}) == key_of({"prompt": [*ids, 2]}) == key_of({"prompt": [[*ids, 3], [4]]})
    )
    assert key_of({"prompt": [1, *ids]}) != key_of({"prompt": [2, *ids]})
    assert key_of({"input_prefix": text, "input_suffix": "a"}) == key_of(
        {"input_prefix": text, "input_suffix": "b"}
    )


def test_what_the_client_says_wins_over_what_it_asks() -> None:
    one, other = {"prompt": "one"}, {"prompt": "other"}
    assert key_of(one, x_session_id="s") == key_of(other, x_session_id="s") == key_of(b"", x_session_id="s")
    assert key_of(one, x_session_id="s") != key_of(one, x_session_id="t")
    assert key_of({**one, "prompt_cache_key": "k"}) == key_of({**other, "prompt_cache_key": "k", "user": "u"})
    assert key_of({**one, "user": "u"}) == key_of({**other, "user": "u"})
    assert key_of({**one, "user": "u"}) == key_of({**other, "metadata": {"user_id": "u"}})
    keys = {
        key_of(one, x_session_id="a"),
        key_of({**one, "prompt_cache_key": "a"}),
        key_of({**one, "user": "a"}),
        key_of({"prompt": "a"}),
    }
    assert len(keys) == 4


def test_clients_with_different_api_keys_share_no_key() -> None:
    body = {"prompt": "one", "user": "u"}
    found = {
        key_of(body),
        key_of(body, authorization="Bearer a"),
        key_of(body, authorization="Bearer b"),
        key_of(body, x_api_key="a"),
        key_of(body, x_session_id="s"),
        key_of(body, x_session_id="s", authorization="Bearer a"),
    }
    assert len(found) == 6


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff",
        b"{}",
        b'{"prompt": ""}',
        b'{"prompt": []}',
        b'{"messages": []}',
        b'{"prompt": 3}',
    ],
)
def test_a_request_that_belongs_nowhere_has_no_key(body: bytes) -> None:
    assert key_of(body) == ""


@given(
    key=st.sampled_from(
        ["prompt", "messages", "user", "metadata", "system", "tools", "input", "prompt_cache_key"]
    ),
    value=st.sampled_from(
        [
            None,
            True,
            0,
            1.5,
            "",
            "x",
            "\ud800",
            [],
            [None],
            [[]],
            [[[1]]],
            ["x"],
            [{}],
            [{"role": 3}],
            {},
            {"user_id": 3},
        ]
    ),
    other=st.sampled_from([None, "x", [1], [{"role": "user"}]]),
)
def test_no_body_breaks_it(key: str, value: Any, other: Any) -> None:
    body = json.dumps({key: value, "prompt": other}).encode()
    assert routing_key([], body) == routing_key([], body)


@pytest.mark.parametrize("depth", [200, 500, 1000, 100_000])
@pytest.mark.parametrize("key", ["prompt", "messages", "system", "input"])
def test_nor_does_a_deep_one(key: str, depth: int) -> None:
    assert isinstance(key_of(f'{{"{key}": {"[" * depth}1{"]" * depth}, "prompt": "x"}}'.encode()), str)
