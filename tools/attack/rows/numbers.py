"""Sizes and numbers out of bounds."""

from collections.abc import Iterator

from tools.attack.case import BAD, COMPLETIONS, EITHER, GOOD, TOO_LARGE, Case, Raw, Row, crossed, values
from tools.attack.case import CHAT as CHAT_PATH
from tools.attack.target import Target

ONLY_COMPLETIONS = (COMPLETIONS,)
ONLY_CHAT = (CHAT_PATH,)
NOT_FINITE = [Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e400"), Raw("-1e400")]
DIGITS = Raw("9" * 5000)
SOON = ["w", "e", " ", "\n"]
"""Stops that any text has soon: who takes a huge limit for none should not be measured by how fast it generates."""


def n(target: Target) -> Iterator[Case]:
    return values(target, "H01", "n", [10**9, 129, 0, -1, 1.5, True, "1", [1], DIGITS])


def best_of(target: Target) -> Iterator[Case]:
    yield from values(target, "H02", "best_of", [10**6, 0, -1, "2"], apis=ONLY_COMPLETIONS)
    yield from values(target, "H02", "best_of", [1], apis=ONLY_COMPLETIONS, n=2)


def max_tokens(target: Target) -> Iterator[Case]:
    hostile = [-1, 2**63, 10**30, True, "16", 1.5, [16], DIGITS]
    return values(target, "H03", "max_tokens", hostile, stop=SOON)


def min_tokens(target: Target) -> Iterator[Case]:
    yield from values(target, "H04", "min_tokens", [10**9, -1, True, "4"], max_tokens=..., stop=SOON)
    yield from values(target, "H04", "min_tokens", [8, 10**9])


def temperature(target: Target) -> Iterator[Case]:
    yield from values(target, "H05", "temperature", [-1, 1e308, *NOT_FINITE, "hot", True, [0.5]])
    yield from values(target, "H05", "temperature", [Raw("1e-320")], GOOD)


def probabilities(target: Target) -> Iterator[Case]:
    yield from values(target, "H06", "top_p", [0, -0.1, 1.0001, *NOT_FINITE, "0.5"])
    yield from values(target, "H06", "top_k", [-2, 2**63, 1.5, "5"])
    yield from values(target, "H06", "min_p", [2, -0.1, Raw("NaN")])


def penalties(target: Target) -> Iterator[Case]:
    for name in ("presence_penalty", "frequency_penalty"):
        yield from values(target, "H07", name, [2.1, -3, Raw("NaN"), Raw("1e400"), "1"])
    yield from values(target, "H07", "repetition_penalty", [0, -1, 1e9, Raw("NaN")])
    together = {
        "presence_penalty": 2,
        "frequency_penalty": -2,
        "repetition_penalty": 2,
        "min_p": 1,
        "top_k": 1,
    }
    yield from crossed(target, "H07", "all at their ends", {**together, "temperature": 2, "seed": 0}, GOOD)


def logprobs(target: Target) -> Iterator[Case]:
    yield from values(target, "H08", "logprobs", [10**6, -1, 21, "many", True, 1.5], apis=ONLY_COMPLETIONS)
    yield from values(target, "H08", "top_logprobs", [10**6, 21, -1], apis=ONLY_CHAT, logprobs=True)
    yield from values(target, "H08", "top_logprobs", [2], apis=ONLY_CHAT)
    for echo in (True, False):
        fields = {"echo": echo, "logprobs": 5}
        # Twice, so that the second one meets what the first left in a prefix cache.
        yield from crossed(target, "H08", f"{fields}", fields, GOOD, apis=ONLY_COMPLETIONS)
        yield from crossed(target, "H08", f"{fields} again", fields, GOOD, apis=ONLY_COMPLETIONS)


def seeds(target: Target) -> Iterator[Case]:
    return values(target, "H09", "seed", [2**64, -(2**63) - 1, 1.5, "1", DIGITS])


def stops(target: Target) -> Iterator[Case]:
    hostile = ["", [""], ["a"] * 100_000, "x" * 3_000_000, "\ud800", ["x" * 257], 7, [7], {"a": 1}, [["a"]]]
    yield from values(target, "H10", "stop", hostile)
    yield from values(target, "H10", "stop", [["a"] * 4, "\0", ["\u202e", "🎉"]], GOOD)


def stop_ids(target: Target) -> Iterator[Case]:
    hostile: list[object] = [[-1], [2**40], ["1"], [True], [1] * 100_000, 5, [1.0]]
    if target.vocab_size:
        hostile.append([target.vocab_size])
    return values(target, "H11", "stop_token_ids", hostile)


def bans(target: Target) -> Iterator[Case]:
    vocab = target.vocab_size or 1000
    for count in (300, vocab):
        bias = {str(token): -100 for token in range(count)}
        yield from crossed(target, "H12", f"{count} tokens banned", {"logit_bias": bias}, EITHER)
    hostile = [{"a": 1}, {"-1": 1}, {"1_0": 1}, {"5": 101}, {"5": "1"}, {"5": True}, {"5": None}, [5], 5]
    yield from values(target, "H12", "logit_bias", hostile)
    many = {str(index): 1 for index in range(100_000)}
    yield from crossed(target, "H12", "100,000 keys", {"logit_bias": many}, BAD)


def ids_beyond_the_head(target: Target) -> Iterator[Case]:
    if not target.vocab_size:
        return
    for token in (target.vocab_size, target.vocab_size + 1, 2**31 - 1):
        yield from values(target, "H13", "logit_bias", [{str(token): 5}])
        yield from values(target, "H13", "allowed_token_ids", [[token]])
        yield from values(target, "H13", "bad_words_ids", [[[token]]], EITHER)


def many_prompts(target: Target) -> Iterator[Case]:
    apis = ONLY_COMPLETIONS
    million = Raw("[" + ",".join(["[1]"] * 1_000_000) + "]")
    yield from crossed(target, "H14", "1,000,000 prompts", {"prompt": million}, TOO_LARGE, apis=apis)
    yield from crossed(target, "H14", "2,049 prompts", {"prompt": ["a"] * 2049}, apis=apis)
    yield from crossed(target, "H14", "64 prompts, n 128", {"prompt": ["a"] * 64, "n": 128}, apis=apis)


def too_long(target: Target) -> Iterator[Case]:
    context = target.context
    for name, fields in (
        ("as many tokens as the context", {"prompt": [5] * context}),
        ("one token more than the context", {"prompt": [5] * (context + 1), "max_tokens": 1}),
        ("an answer as long as the context", {"max_tokens": context, "stop": SOON}),
    ):
        yield from crossed(target, "H15", name, fields, apis=ONLY_COMPLETIONS)


def larger_than_the_pool(target: Target) -> Iterator[Case]:
    for count in (100_000, 1_000_000):
        fields = {"prompt": [5] * count}
        yield from crossed(target, "H16", f"{count:,} tokens", fields, TOO_LARGE, apis=ONLY_COMPLETIONS)
    words = [{"role": "user", "content": "word " * 300_000}]
    yield from crossed(target, "H16", "300,000 words", {"messages": words}, TOO_LARGE, apis=ONLY_CHAT)


def unknown_fields(target: Target) -> Iterator[Case]:
    yield from values(target, "H17", "truncate_prompt_tokens", [-5, 10**9], apis=ONLY_COMPLETIONS)
    yield from values(target, "H17", "no_such_field", [1, "x" * 100_000, [[[]]]], EITHER)
    yield from values(target, "H17", "__proto__", [{"a": 1}], EITHER)
    yield from values(target, "H17", "__class__", ["x"], EITHER)
    many = {f"field_{index}": index for index in range(100_000)}
    yield from crossed(target, "H17", "100,000 unknown fields", many)


def labels(target: Target) -> Iterator[Case]:
    for name in ("user", "request_id", "cache_salt"):
        yield from values(target, "H20", name, ["x" * 1_000_000])
        yield from values(target, "H20", name, ["a\0b", "a\r\nX-Evil: 1", "../../etc/passwd", "/"], EITHER)
    yield from values(target, "H20", "metadata", [{"a": "x" * 1_000_000}])
    yield from values(target, "H20", "metadata", [{"a": "\r\n\0../"}], EITHER)


ROWS = (
    Row("H01", "`n` out of bounds", n),
    Row("H02", "`best_of` out of bounds or below `n`", best_of),
    Row("H03", "`max_tokens` out of bounds or of another type", max_tokens),
    Row("H04", "`min_tokens` above `max_tokens`, which may be absent", min_tokens),
    Row("H05", "`temperature` negative, not finite, of another type; a denormal one is fine", temperature),
    Row("H06", "`top_p`, `top_k`, `min_p` out of bounds", probabilities),
    Row("H07", "penalties out of bounds; all at their ends together are fine", penalties),
    Row("H08", "`logprobs` out of bounds; with `echo` on a cached prompt", logprobs),
    Row("H09", "`seed` beyond 64 bits, fractional, 5,000 digits", seeds),
    Row("H10", "`stop` empty, many, megabytes, no text", stops),
    Row("H11", "`stop_token_ids` outside of the vocabulary", stop_ids),
    Row("H12", "`logit_bias` that bans everything; malformed; 100,000 keys", bans),
    Row("H13", "token ids beyond the head's width", ids_beyond_the_head),
    Row("H14", "a million prompts; prompts × `n`", many_prompts),
    Row("H15", "prompt and answer just longer than the context", too_long),
    Row("H16", "a prompt larger than the whole cache", larger_than_the_pool),
    Row("H17", "unknown fields, one or 100,000", unknown_fields),
    Row("H20", "labels of a megabyte, with NUL, CRLF, `../`", labels),
)
