"""Limits of one key: the bucket, the books of all accounts, and what a client sees of them."""

import asyncio
import random
from collections.abc import Callable
from contextlib import ExitStack, aclosing
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.messages import Request
from engine.sampling_params import SamplingParams
from server.api_keys import ApiKeys
from server.app import create_app
from server.errors import UnavailableError
from server.key_limits import KeyLimits, KeyQuota
from server.metrics import ServerMetrics
from server.openai.errors import ApiError
from server.openai.generation import Choice, run_choices
from server.state import AppState
from server.token_bucket import TokenBucket
from tests.server.played import Played, hangs, says

Make = Callable[..., Played]


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def sequences(count: int, *, prompt: int = 10, max_tokens: int = 20) -> list[Request]:
    params = SamplingParams(max_tokens=max_tokens, seed=0)
    return [
        Request(request_id=str(number), prompt_token_ids=[1] * prompt, params=params)
        for number in range(count)
    ]


def refusal(limits: KeyLimits, account: str = "a", **of: int) -> ApiError:
    with pytest.raises(ApiError) as caught, limits.hold(account, sequences(of.pop("count", 1), **of)):
        pass
    return caught.value


@given(
    capacity=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 200), st.integers(1, 1500)), max_size=30),
)
def test_a_bucket_gives_no_more_than_its_rate_and_never_makes_anybody_wait_for_ever(
    capacity: int, steps: list[tuple[float, int]]
) -> None:
    bucket, now, taken, largest = TokenBucket(capacity, 0.0), 0.0, 0, 0
    for passed, amount in steps:
        now += passed
        wait = bucket.wait(amount, now)
        if wait > 0:
            assert bucket.wait(amount, now + wait * 0.99) > 0, "it was ready earlier"
            now += wait * 1.000001 + 1e-6
        assert bucket.wait(amount, now) == 0
        bucket.take(amount, now)
        taken, largest = taken + amount, max(largest, amount)
        assert bucket.level(now) <= capacity
        assert taken <= capacity + now * capacity / 60 + max(0, largest - capacity) + 1e-3


class Accounts(RuleBasedStateMachine):
    """Requests of two keys that begin and end in any order and way: what is held is what runs."""

    CONCURRENCY = 4

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.limits = KeyLimits(KeyQuota(self.CONCURRENCY, 50, 2000), self.clock)
        self.running: list[tuple[str, int, ExitStack]] = []

    def held(self, account: str) -> int:
        return sum(count for name, count, _ in self.running if name == account)

    @rule(account=st.sampled_from("ab"), count=st.integers(1, 6), used=st.integers(0, 20))
    def begin(self, account: str, count: int, used: int) -> None:
        stack = ExitStack()
        fits = count <= self.CONCURRENCY and self.held(account) + count <= self.CONCURRENCY
        refused: ApiError | None = None
        try:
            stack.enter_context(self.limits.hold(account, sequences(count))).generated = used
        except ApiError as error:
            refused = error
        if refused is not None:
            assert refused.status == (429 if count <= self.CONCURRENCY else 400)
            assert not fits or "per minute" in refused.message
            assert refused.status == 400 or int(refused.headers["Retry-After"]) >= 1
            return
        assert fits
        self.running.append((account, count, stack))

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        error=st.sampled_from(
            [None, ValueError(), ApiError(400, "x"), UnavailableError("x", retry_after=1), GeneratorExit(),
             asyncio.CancelledError()]
        ),
    )  # fmt: skip
    def end(self, data: st.DataObject, error: BaseException | None) -> None:
        index = data.draw(st.integers(0, len(self.running) - 1))
        _, _, stack = self.running.pop(index)
        if error is None:
            stack.close()
            return
        with pytest.raises(type(error)), stack:
            raise error

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def reload(self) -> None:
        self.limits.replace(KeyQuota(self.CONCURRENCY, 50, 2000), {"a", "b"})

    @invariant()
    def what_is_held_is_what_runs(self) -> None:
        for account in "ab":
            assert self.limits._of(account).sequences == self.held(account)
            for bucket in self.limits._of(account).buckets.values():
                assert bucket.level(self.clock.now) <= bucket.capacity

    def teardown(self) -> None:
        for _, _, stack in self.running:
            stack.close()
        self.clock.now += 10 * 60
        for account in "ab":
            books = self.limits._of(account)
            assert books.sequences == 0
            assert all(bucket.level(self.clock.now) == bucket.capacity for bucket in books.buckets.values())


TestAccounts = Accounts.TestCase
TestAccounts.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_one_key_takes_no_place_of_another() -> None:
    limits = KeyLimits(KeyQuota(concurrency=2))
    with limits.hold("a", sequences(2)):
        assert refusal(limits).code == "rate_limit_exceeded"
        with limits.hold("b", sequences(2)):
            pass
    with limits.hold("a", sequences(2)):
        pass


def test_more_than_could_ever_run_is_the_requests_own_fault() -> None:
    assert refusal(KeyLimits(KeyQuota(concurrency=2)), count=3).status == 400


def test_requests_per_minute() -> None:
    clock = Clock()
    limits = KeyLimits(KeyQuota(requests_per_minute=2), clock)
    for _ in range(2):
        with limits.hold("a", sequences(5)):
            pass
    error = refusal(limits)
    assert (error.status, error.kind, error.headers) == (429, "rate_limit_error", {"Retry-After": "30"})
    with pytest.raises(ApiError):
        limits.check("a")
    clock.now += 29
    refusal(limits)
    clock.now += 1
    limits.check("a")
    with limits.hold("a", sequences(1)):
        pass


def test_tokens_are_reserved_and_corrected_by_what_was_generated() -> None:
    clock = Clock()
    limits = KeyLimits(KeyQuota(tokens_per_minute=100), clock)
    with limits.hold("a", sequences(2)) as hold:
        hold.generated = 5
        assert dict(limits.headers("a"))[b"x-ratelimit-remaining-tokens"] == b"40"
        assert refusal(limits, max_tokens=50).headers == {"Retry-After": "12"}
    assert dict(limits.headers("a"))[b"x-ratelimit-remaining-tokens"] == b"75"
    with pytest.raises(UnavailableError), limits.hold("a", sequences(1)):
        raise UnavailableError("full", retry_after=1)
    assert dict(limits.headers("a")) == {
        b"x-ratelimit-limit-tokens": b"100",
        b"x-ratelimit-remaining-tokens": b"75",
        b"x-ratelimit-reset-tokens": b"15s",
    }


def test_a_request_above_the_whole_rate_passes_when_all_is_there_and_pays_afterwards() -> None:
    clock = Clock()
    limits = KeyLimits(KeyQuota(tokens_per_minute=60), clock)
    with limits.hold("a", sequences(1, max_tokens=110)) as hold:
        hold.generated = 110
    assert refusal(limits, prompt=1, max_tokens=0).headers == {"Retry-After": "61"}
    clock.now += 61
    with limits.hold("a", sequences(1, prompt=1, max_tokens=0)):
        pass
    assert refusal(limits, max_tokens=1000).headers == {"Retry-After": "60"}


BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a", "max_tokens": 3},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3},
    "/v1/responses": {"input": "a", "max_output_tokens": 3},
    "/v1/messages": {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 3},
    "/v1/fim/completions": {"prompt": "a", "suffix": "b", "max_tokens": 3},
    "/infill": {"input_prefix": "a", "input_suffix": "b", "n_predict": 3},
}


def guarded(state: AppState, *keys: str) -> FastAPI:
    return create_app(replace(state, metrics=ServerMetrics("0")), ApiKeys(keys))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def with_clients(server: Played, work: Callable[[httpx.AsyncClient, AppState], Any], *keys: str) -> Any:
    """Run against an application with keys."""

    async def main(_: FastAPI, state: AppState) -> Any:
        transport = httpx.ASGITransport(guarded(state, *keys), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as client:
            return await work(client, state)

    return server.run(main)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
def test_every_front_end_has_the_limits(played: Make, path: str, stream: bool) -> None:
    body = {**BODIES[path], "stream": stream}

    async def work(client: httpx.AsyncClient, state: AppState) -> None:
        for remaining in ("1", "0"):
            answer = await client.post(path, json=body, headers=bearer("mine"))
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-ratelimit-remaining-requests"] == remaining
        refused = await client.post(path, json=body, headers=bearer("mine"))
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.json()["error"]["type"] == "rate_limit_error"
        if path != "/v1/messages":  # whose errors have another API's shape and headers
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert (await client.post(path, json=body, headers=bearer("other"))).status_code == 200
        assert (await client.get("/v1/models", headers=bearer("mine"))).status_code == 200

    with_clients(played(settings={"key_requests_per_minute": 2}), work, "mine", "other")


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_every_front_end_names_the_tenant_to_the_engine(played: Make, path: str, shared: bool) -> None:
    server = played(settings={"shared_prefix_cache": shared})

    async def work(client: httpx.AsyncClient, state: AppState) -> None:
        for key in ("mine", "other", "mine"):
            assert (await client.post(path, json=BODIES[path], headers=bearer(key))).status_code == 200

    with_clients(server, work, "mine", "other")
    mine, other, again = (request.tenant for request in server.host.requests)
    if shared:
        assert (mine, other, again) == ("", "", "")
    else:
        assert mine == again != other
        assert {len(mine), len(other)} == {64}
        assert "mine" not in mine


def test_a_salt_is_beside_the_tenant_and_a_client_can_not_name_one(played: Make) -> None:
    server = played()

    async def work(client: httpx.AsyncClient, state: AppState) -> None:
        for extra in ({}, {"cache_salt": "s"}):
            body = {**BODIES["/v1/completions"], **extra}
            await client.post("/v1/completions", json=body, headers=bearer("mine"))
        named = await client.post(
            "/v1/completions", json={**BODIES["/v1/completions"], "tenant": "x"}, headers=bearer("mine")
        )
        assert named.status_code in (200, 400)

    with_clients(server, work, "mine", "other")
    assert len({request.tenant for request in server.host.requests}) == 1
    assert [request.cache_salt for request in server.host.requests][:2] == ["", "s"]


def test_without_keys_there_is_one_tenant_and_no_header(played: Make) -> None:
    server = played()
    answer = server.ask("/v1/completions", BODIES["/v1/completions"])
    assert server.host.requests[0].tenant == ""
    assert not [name for name in answer.headers if "ratelimit" in name]


def test_places_come_back_when_clients_leave_at_any_moment(played: Make) -> None:
    """Half of the answers hang for ever, half of the clients go away; in the end nothing may be held."""
    rng = random.Random(0)
    script = lambda request: (hangs("a") if rng.random() < 0.5 else says("ab"))(request)  # noqa: E731
    server = played(script, settings={"key_concurrency": 3, "key_tokens_per_minute": 10**9})
    outcomes: list[int | str] = []

    async def ask(client: httpx.AsyncClient) -> None:
        path = rng.choice(list(BODIES))
        body = {**BODIES[path], "stream": rng.random() < 0.5}
        try:
            async with asyncio.timeout(rng.choice((0.0, 0.005, 0.02, 0.1))):
                outcomes.append((await client.post(path, json=body, headers=bearer("mine"))).status_code)
        except TimeoutError:
            outcomes.append("left")

    async def work(client: httpx.AsyncClient, state: AppState) -> None:
        for _ in range(40):
            await asyncio.gather(*(ask(client) for _ in range(8)))
        for _ in range(200):
            if not state.client.in_flight:
                break
            await asyncio.sleep(0.01)
        assert state.client.in_flight == 0
        assert [books.sequences for books in state.key_limits._accounts.values()] == [0]

    with_clients(server, work, "mine", "other")
    assert {200, 429, "left"} <= set(outcomes)


def test_a_refused_engine_gives_everything_back(played: Make) -> None:
    full = {"max_num_seqs": 1, "max_waiting_requests": 0}
    server = played(says("ab"), settings={"key_requests_per_minute": 5, **full})

    async def work(client: httpx.AsyncClient, state: AppState) -> None:
        body = {**BODIES["/v1/completions"], "n": 2}
        answer = await client.post("/v1/completions", json=body, headers=bearer("mine"))
        assert answer.status_code == 503
        assert answer.headers["x-ratelimit-remaining-requests"] == "5"

    with_clients(server, work, "mine")


def test_closing_a_run_before_its_end_gives_the_place_back(played: Make) -> None:
    server = played(hangs("ab"), settings={"key_concurrency": 1})

    async def work(app: FastAPI, state: AppState) -> None:
        for _ in range(3):
            choice = Choice(0, sequences(1)[0], [], include_stop=False, skip_special_tokens=True)
            async with aclosing(run_choices(state, [choice])) as deltas:
                await anext(deltas)
                with pytest.raises(ApiError, match="in flight"):
                    state.key_limits.check("")
            state.key_limits.check("")

    server.run(work)
