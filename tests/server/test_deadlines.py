"""Whole requests in and out of the queue: admission all or nothing, deadlines, and what is left of them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from engine.errors import EngineDeadError, EngineStartError
from engine.messages import Abort, EngineStats, Request, RequestOutput
from server.admission import AdmissionLimits, Refusal
from server.engine_client import EXIT_CANNOT_START, EngineClient, EngineState
from server.engine_streams import EngineStream
from server.errors import RequestTimeoutError, UnavailableError
from server.metrics import ServerMetrics
from tests.engine.fake_core import fake_request
from tests.server.scripted_host import HostFactory, ScriptedHost

SHORT_S = 0.05
LONG_S = 30.0
Scenario = Callable[[EngineClient, HostFactory], Awaitable[None]]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(
    scenario: Scenario,
    *,
    queue_timeout: float = SHORT_S,
    request_timeout: float = 0,
    hosts: HostFactory | None = None,
    clock: Clock | None = None,
) -> ServerMetrics:
    metrics, factory = ServerMetrics("test"), hosts or HostFactory()
    client = EngineClient(
        factory,
        metrics,
        limits=AdmissionLimits(8, 1000),
        heartbeat_timeout=30,
        queue_timeout=queue_timeout,
        request_timeout=request_timeout,
        clock=clock or Clock(),
    )

    async def main() -> None:
        async with asyncio.timeout(LONG_S):
            await client.start()
            await settle()
            await scenario(client, factory)
            await settle()
            left = (client.admission.in_flight, client.admission.waiting, client.admission.waiting_tokens)
            assert (client.in_flight, *left) == (0, 0, 0, 0)
            await client.stop()

    asyncio.run(main())
    return metrics


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def requests(name: str, count: int, tokens: int = 1) -> list[Request]:
    return [fake_request(f"{name}{i}", [1] * tokens) for i in range(count)]


def stats(*admitted: str) -> EngineStats:
    return EngineStats(step_seconds=0.01, admitted=list(admitted))


def close(streams: list[EngineStream]) -> None:
    for stream in streams:
        stream.close()


def refusals(metrics: ServerMetrics, reason: Refusal) -> float | None:
    return metrics.registry.get_sample_value("loopserve_requests_refused_total", {"reason": reason.value})


def test_a_request_enters_whole_or_not_at_all() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        streams = client.submit(requests("a", 5))
        assert client.in_flight == 5, "at once: nobody can take a place in between"
        with pytest.raises(UnavailableError):
            client.submit(requests("b", 4))
        assert len(hosts.last.requests) == 5
        more = client.submit(requests("c", 3))
        close([*streams, *more])

    metrics = run(scenario)
    assert refusals(metrics, Refusal.QUEUE_FULL) == 1


def test_tokens_that_wait_are_bounded() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        first = client.submit(requests("a", 2, tokens=400))
        with pytest.raises(UnavailableError, match="waiting prompt tokens"):
            client.submit(requests("b", 1, tokens=201))
        hosts.last.say(stats=stats("a0"))
        await settle()
        second = client.submit(requests("b", 1, tokens=201))
        close([*first, *second])

    metrics = run(scenario, queue_timeout=0)
    assert refusals(metrics, Refusal.QUEUE_TOKENS) == 1


def test_one_that_is_not_taken_up_in_time_is_ended() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        streams = client.submit(requests("a", 2))
        for stream in streams:
            with pytest.raises(UnavailableError, match="has waited") as caught:
                await anext(stream)
            assert (caught.value.code, 1 <= caught.value.retry_after <= 60) == ("queue_timeout", True)
        assert hosts.last.sent[-1] == Abort(["a0", "a1"])
        close(streams)
        assert hosts.last.sent[-1] == Abort(["a0", "a1"]), "aborted once"

    metrics = run(scenario)
    assert refusals(metrics, Refusal.QUEUE_TIMEOUT) == 1, "one request, whatever its sequences"


@pytest.mark.parametrize("how", ["admitted", "output"])
def test_the_first_sequence_taken_up_ends_the_deadline_of_all(how: str) -> None:
    """An output counts, too: a request that the engine refuses is never taken up."""

    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        taken_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        streams = client.submit(requests("a", 2), taken_up)
        assert not taken_up.done()
        if how == "admitted":
            hosts.last.say(stats=stats("a1"))
        else:
            hosts.last.say(RequestOutput(request_id="a1", token_ids=[1]))
        await settle()
        assert taken_up.done()
        assert client.admission.waiting == 1
        await asyncio.sleep(3 * SHORT_S)
        hosts.last.say(RequestOutput(request_id="a0", token_ids=[7], finish_reason="length"))
        assert (await anext(streams[0])).token_ids == [7]
        close(streams)
        assert hosts.last.sent[-1] == Abort(["a1"])

    metrics = run(scenario)
    assert refusals(metrics, Refusal.QUEUE_TIMEOUT) == 0


def test_without_a_deadline_nothing_can_refuse_it_any_more() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        taken_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        streams = client.submit(requests("a", 1), taken_up)
        assert taken_up.done()
        await asyncio.sleep(3 * SHORT_S)
        assert client.admission.waiting == 1
        close(streams)

    run(scenario, queue_timeout=0)


def test_a_request_that_ends_or_is_closed_has_no_deadline_left() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        close(client.submit(requests("a", 1)))
        sent = len(hosts.last.sent)
        await asyncio.sleep(3 * SHORT_S)
        assert len(hosts.last.sent) == sent

    metrics = run(scenario, request_timeout=SHORT_S)
    assert refusals(metrics, Refusal.QUEUE_TIMEOUT) == 0


def test_the_engines_death_comes_before_the_deadline() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        streams = client.submit(requests("a", 1))
        hosts.last.die()
        await asyncio.sleep(3 * SHORT_S)
        with pytest.raises(EngineDeadError):
            await anext(streams[0])
        close(streams)

    metrics = run(scenario)
    assert refusals(metrics, Refusal.QUEUE_TIMEOUT) == 0


def test_a_request_that_runs_too_long_is_ended_with_what_it_has() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        (stream,) = client.submit(requests("a", 1))
        hosts.last.say(RequestOutput(request_id="a0", token_ids=[7]), stats=stats("a0"))
        assert (await anext(stream)).token_ids == [7]
        with pytest.raises(RequestTimeoutError, match="was ended after"):
            await anext(stream)
        assert hosts.last.sent[-1] == Abort(["a0"])
        stream.close()

    run(scenario, queue_timeout=LONG_S, request_timeout=SHORT_S)


def test_a_request_that_cannot_be_sent_leaves_nothing_behind() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        def broken(message: object) -> None:
            if isinstance(message, Request):
                raise TypeError("can't be encoded")

        hosts.last.send = broken  # type: ignore[method-assign]
        with pytest.raises(TypeError):
            client.submit(requests("a", 2))
        assert await client.drain(LONG_S) == 0

    run(scenario)


def test_retry_after_tells_loading_from_a_queue() -> None:
    clock = Clock()

    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        assert (client.state, client.retry_after()) == (EngineState.LOADING, 5)
        clock.now += 12
        assert client.retry_after() == 6
        hosts.last.say_ready()
        await settle()
        assert client.retry_after() == 1, "nobody waits"
        streams = client.submit(requests("a", 8))
        for i in range(4):
            clock.now += 2
            hosts.last.say(stats=stats(f"a{i}"))
            await settle()
        assert client.retry_after() == pytest.approx(8, abs=1)
        hosts.last.age = 31
        assert client.retry_after() == 12, "a hung engine has to be loaded again"
        hosts.last.die()
        await settle()
        assert (client.state, client.retry_after()) == (EngineState.RESTARTING, 12)
        clock.now += 7
        assert client.retry_after() == 5
        close(streams)

    run(scenario, hosts=HostFactory(ready=False), clock=clock, queue_timeout=0)


def test_refusals_are_counted_by_reason() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        with suppress(UnavailableError):
            client.admit()
        hosts.last.say_ready()
        await settle()
        hosts.last.die()
        await settle()
        with suppress(UnavailableError):
            client.admit()
        await client.drain(0)
        for _ in range(2):
            with suppress(UnavailableError):
                client.submit(requests("a", 1))

    metrics = run(scenario, hosts=HostFactory(ready=False))
    counts = {reason.value: refusals(metrics, reason) for reason in Refusal}
    expected = {"loading": 1, "restarting": 1, "draining": 2}
    assert counts == {reason.value: expected.get(reason.value, 0) for reason in Refusal}


class Barren(ScriptedHost):
    """A host on a machine without room for it."""

    async def start(self) -> None:
        raise EngineStartError("no room")


def test_a_machine_that_cannot_start_the_engine_is_final_at_first_and_a_crash_later() -> None:
    async def first(client: EngineClient, hosts: HostFactory) -> None:
        failure = await client.wait_failed()
        assert (failure.exit_code, failure.message) == (EXIT_CANNOT_START, "no room")
        assert len(hosts.hosts) == 1

    async def later(client: EngineClient, hosts: HostFactory) -> None:
        hosts.make = Barren  # type: ignore[attr-defined]
        hosts.last.die()
        failure = await client.wait_failed()
        assert failure.exit_code == 70
        assert len(hosts.hosts) == 4, "tried as often as after any crash"

    class Factory(HostFactory):
        make: type[ScriptedHost] = ScriptedHost

        def __call__(self) -> ScriptedHost:
            host = self.make()
            if self.ready:
                host.say_ready()
            self.hosts.append(host)
            return host

    barren = Factory()
    barren.make = Barren
    run(first, hosts=barren)
    run(later, hosts=Factory())
