"""Random changes of valid requests. Each is drawn from (seed, number) and can be sent again by these."""

import copy
import json
import random
from collections.abc import Callable, Collection, Iterator
from typing import Any

from tools.attack.case import ANY, CHAT, COMPLETIONS, Case, once
from tools.attack.target import Target, head
from tools.attack.wire import Manners

SECONDS = 60.0
LIMITS = {"max_tokens": 4, "max_completion_tokens": 4, "max_output_tokens": 4, "n_predict": 4}
"""Put back where they were taken away or made null: how long an answer without a limit takes is no finding."""
MAX_CHANGES = 3
HUGE = 64 << 10

Chosen = random.Random

TEXTS = (
    *(
        "",
        " ",
        "\0",
        "\ud800",
        "\udc00\ud800",
        "\u202e",
        "\ufeff",
        "👩‍👩‍👧‍👦",
        "é" * 300,
        "a" * HUGE,
        "\x1b[31m",
    ),
    *(
        "../../etc/passwd",
        "{{7*7}}",
        "%s%n",
        "null",
        "NaN",
        "-1",
        "1e400",
        "<|im_end|>",
        "<tool_call>",
        "'",
        '"',
    ),
    *("\r\nX: y", "[DONE]", "data: {}\n\n", "true", "__proto__", "a" + "\u0301" * 500, "(", "\\", "(a+)+b"),
)
NUMBERS = (
    *(0, -1, 1, 2, 7, 128, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30),
    *(-(2**31), -(2**63), -(2**63) - 1, 0.0, -0.0, 0.5, 1.5, 1e-320, 1e308, -1e308, 3.0000001),
)
NAMES = (
    *(
        "n",
        "best_of",
        "logprobs",
        "top_logprobs",
        "echo",
        "suffix",
        "stop",
        "seed",
        "logit_bias",
        "user",
        "tools",
    ),
    *(
        "tool_choice",
        "response_format",
        "stream_options",
        "min_tokens",
        "top_k",
        "min_p",
        "ignore_eos",
        "loops",
    ),
    *("structured_outputs", "guided_json", "grammar", "metadata", "cache_salt", "priority", "stop_token_ids"),
    *(
        "presence_penalty",
        "repetition_penalty",
        "chat_template_kwargs",
        "add_generation_prompt",
        "prompt_logprobs",
    ),
    *("loop_logprobs", "skip_special_tokens", "include_stop_str_in_output", "truncate_prompt_tokens", "x"),
)
HEADERS = (
    *("Content-Type", "Accept", "X-Request-Id", "X-Loops", "Accept-Encoding", "Content-Encoding", "Range"),
    *(
        "Origin",
        "Cookie",
        "If-None-Match",
        "X-Forwarded-For",
        "Via",
        "TE",
        "Trailer",
        "Upgrade",
        "Connection",
    ),
)
HEADER_VALUES = (
    "",
    "x",
    "2",
    "-1",
    "gzip",
    "text/plain",
    "close",
    "\xff",
    "bytes=0-",
    "a" * 3000,
    "application/json",
)


def bases(target: Target) -> list[tuple[str, dict[str, Any]]]:
    """Valid requests by path."""
    common = {"model": target.model, "max_tokens": 4}
    user = {"role": "user", "content": "Write a loop."}
    tool = {
        "type": "function",
        "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
    }
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    found = [
        (COMPLETIONS, {**common, "prompt": "def f(x):", "temperature": 0.5, "top_p": 0.9, "seed": 1}),
        (
            COMPLETIONS,
            {**common, "prompt": ["a", "b"], "n": 2, "stop": ["x", "\n"], "logprobs": 2, "echo": True},
        ),
        (COMPLETIONS, {**common, "prompt": [5, 6, 7], "logit_bias": {"5": 1}, "presence_penalty": 0.5}),
        (CHAT, {**common, "messages": [{"role": "system", "content": "s"}, user], "temperature": 0.5}),
        (CHAT, {**common, "messages": [user], "logprobs": True, "top_logprobs": 2, "n": 2, "stop": "x"}),
        (CHAT, {**common, "messages": [user], "tools": [tool], "tool_choice": "auto"}),
        (CHAT, {**common, "messages": [user], "response_format": form}),
        (CHAT, {**common, "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}),
    ]
    if target.ours:
        found += [
            (COMPLETIONS, {**common, "prompt": "a", "structured_outputs": {"regex": "a+b"}, "loops": 1}),
            ("/v1/responses", {"model": target.model, "input": "hi", "max_output_tokens": 4}),
            (
                "/v1/responses",
                {"input": [{"role": "user", "content": "hi"}], "max_output_tokens": 4, "metadata": {}},
            ),
            ("/v1/messages", {**common, "messages": [user], "system": "s", "stop_sequences": ["x"]}),
            ("/tokenize", {"model": target.model, "prompt": "hello"}),
            ("/detokenize", {"model": target.model, "tokens": [5, 6]}),
            ("/v1/fim/completions", {**common, "prompt": "def f(", "suffix": "return x"}),
            ("/infill", {"input_prefix": "a", "input_suffix": "b", "n_predict": 4, "input_extra": []}),
        ]
    return found


def mutation(target: Target, seed: object, number: int) -> Case:
    """The changed request of a number."""
    chosen = Chosen(f"{seed}:{number}")
    path, original = chosen.choice(bases(target))
    values = copy.deepcopy(original)
    if path not in ("/tokenize", "/detokenize") and chosen.random() < 0.4:
        values["stream"] = True
    for _ in range(chosen.randint(1, MAX_CHANGES)):
        chosen.choice(CHANGES)(chosen, values)
    limits = LIMITS.keys() & original.keys()
    for name in limits:
        if values.get(name) is None:
            values[name] = LIMITS[name]
    content = json.dumps(values).encode()
    if chosen.random() < 0.25:
        changed = chosen.choice(BYTE_CHANGES)(chosen, content)
        content = changed if _has(changed, limits) else content
    request, plain = _request(chosen, target, path, content)
    return Case(
        "mutation",
        f"{number} {path}",
        once(request),
        ANY,
        path,
        Manners(deadline=SECONDS),
        may_close=plain,
        plain_error=plain,
    )


def _has(content: bytes, names: Collection[str]) -> bool:
    """Whether a body has these fields, as far as it is JSON at all."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return True
    return not isinstance(values, dict) or all(values.get(name) is not None for name in names)


def _request(chosen: Chosen, target: Target, path: str, content: bytes) -> tuple[bytes, bool]:
    """The request, and whether it may be refused by the HTTP parser."""
    headers = target.headers(Content_Type="application/json", Content_Length=str(len(content)))
    if chosen.random() < 0.8:
        return head("POST", path, headers) + content, False
    kind = chosen.randrange(5)
    method = "POST"
    if kind == 0:
        headers.insert(chosen.randrange(len(headers)), (chosen.choice(HEADERS), chosen.choice(HEADER_VALUES)))
    elif kind == 1:
        headers.pop(chosen.randrange(len(headers)))
        if not any(name == "Content-Length" for name, _ in headers):
            content = b""
    elif kind == 2:
        method = chosen.choice(["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "post", "X"])
    elif kind == 3:
        path = chosen.choice([path + "/", "/" + path, path + "?a=b&c", path.upper(), path + "%00", path[:-2]])
    else:
        data = bytearray(head("POST", path, headers))
        data[chosen.randrange(len(data) - 4)] = chosen.randrange(256)
        return _with_whole_body(bytes(data), content), True
    # HEAD has a length but no body: only closing the connection would show its end.
    return head("GET" if method == "HEAD" else method, path, headers) + content, True


def _with_whole_body(changed: bytes, content: bytes) -> bytes:
    """A head with a flipped byte may announce a longer body, for which a server waits: send more than enough."""
    return changed + content + b" " * 100_000


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) inside, without recursion: an earlier change may have nested it deeper than that goes."""
    left = [value]
    while left:
        one = left.pop()
        items = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        for key, inner in list(items):
            yield one, key
            left.append(inner)


def _place(chosen: Chosen, values: dict[str, Any]) -> tuple[Any, Any] | None:
    places = list(_places(values))
    return chosen.choice(places) if places else None


def _value(chosen: Chosen) -> Any:
    """Any JSON value, often a nasty one."""
    kind = chosen.randrange(7)
    if kind == 0:
        return chosen.choice([None, True, False])
    if kind == 1:
        return chosen.choice(NUMBERS)
    if kind == 2:
        return chosen.choice(TEXTS)
    if kind == 3:
        return [chosen.choice(NUMBERS) for _ in range(chosen.choice([0, 1, 3, 100]))]
    if kind == 4:
        return {chosen.choice(TEXTS)[:50]: chosen.choice(NUMBERS) for _ in range(chosen.choice([0, 1, 3]))}
    if kind == 5:
        return [[], {}, [[]], [{}], [None], [{"type": "text"}], {"type": "function"}][chosen.randrange(7)]
    return _nested(chosen.choice([5, 70, 200, 300]), chosen.choice(["list", "object"]))


def _nested(depth: int, kind: str) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


def _replace(chosen: Chosen, values: dict[str, Any]) -> None:
    if place := _place(chosen, values):
        place[0][place[1]] = _value(chosen)


def _delete(chosen: Chosen, values: dict[str, Any]) -> None:
    if place := _place(chosen, values):
        del place[0][place[1]]


def _number(chosen: Chosen, values: dict[str, Any]) -> None:
    """A number at the bounds where there was a number."""
    places = [place for place in _places(values) if type(place[0][place[1]]) in (int, float)]
    if places:
        container, key = chosen.choice(places)
        container[key] = chosen.choice(NUMBERS)


def _text(chosen: Chosen, values: dict[str, Any]) -> None:
    """Nasty text within a text."""
    places = [place for place in _places(values) if isinstance(place[0][place[1]], str)]
    if places:
        container, key = chosen.choice(places)
        old = container[key]
        at = chosen.randint(0, len(old))
        container[key] = old[:at] + chosen.choice(TEXTS) + old[at:]


def _wrap(chosen: Chosen, values: dict[str, Any]) -> None:
    """A value in a list, or many times in one."""
    if place := _place(chosen, values):
        container, key = place
        container[key] = [container[key]] * chosen.choice([1, 2, 70])


def _add(chosen: Chosen, values: dict[str, Any]) -> None:
    values[chosen.choice(NAMES)] = _value(chosen)


def _swap(chosen: Chosen, values: dict[str, Any]) -> None:
    """Two values change places."""
    first, second = _place(chosen, values), _place(chosen, values)
    if first and second and first[0] is second[0]:
        container = first[0]
        container[first[1]], container[second[1]] = container[second[1]], container[first[1]]


CHANGES: tuple[Callable[[Chosen, dict[str, Any]], None], ...] = (
    *(_replace, _replace, _delete, _number, _number, _text, _wrap, _add, _add, _swap),
)


def _flip(chosen: Chosen, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(chosen.randint(1, 4)):
        data[chosen.randrange(len(data))] = chosen.randrange(256)
    return bytes(data)


def _cut(chosen: Chosen, content: bytes) -> bytes:
    return content[: chosen.randrange(len(content))]


def _insert(chosen: Chosen, content: bytes) -> bytes:
    at = chosen.randrange(len(content))
    noise = chosen.choice(
        [b"\0", b"\xff", b"{", b"]", b",", b'"', b"NaN", b"\xed\xa0\x80", b"//", bytes(5000)]
    )
    return content[:at] + noise + content[at:]


def _repeat(chosen: Chosen, content: bytes) -> bytes:
    start = chosen.randrange(len(content))
    part = content[start : start + chosen.randint(1, 40)]
    return content[:start] + part * chosen.choice([2, 3, 200]) + content[start:]


BYTE_CHANGES: tuple[Callable[[Chosen, bytes], bytes], ...] = (_flip, _cut, _insert, _repeat)
