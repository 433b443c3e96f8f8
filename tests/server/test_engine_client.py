"""The engine client over scripted hosts: streams, death, restarts, abort, drain."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import msgspec
import pytest

from engine.errors import EngineDeadError, InvalidRequestError
from engine.messages import Abort, CacheUse, EngineFailed, EngineStats, LoopSignals, RequestOutput, StepShape
from server.admission import AdmissionLimits
from server.engine_client import MAX_RESTARTS, RESTART_WINDOW_S, EngineClient, EngineState
from server.engine_totals import totals_only, with_past
from server.errors import UnavailableError
from server.metrics import ServerMetrics
from tests.engine.fake_core import FakeCore, fake_request
from tests.server.scripted_host import HostFactory


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


Scenario = Callable[[EngineClient, HostFactory], Awaitable[None]]


def run(scenario: Scenario, *, ready: bool = True, clock: Clock | None = None) -> ServerMetrics:
    metrics = ServerMetrics("test")
    hosts = HostFactory(ready=ready)
    client = EngineClient(
        hosts,
        metrics,
        limits=AdmissionLimits(4, 1000),
        heartbeat_timeout=30,
        **({} if clock is None else {"clock": clock}),
    )

    async def main() -> None:
        async with asyncio.timeout(30):
            await client.start()
            await settle()
            await scenario(client, hosts)
            await client.stop()
            assert all(host.stopped for host in hosts.hosts)

    asyncio.run(main())
    return metrics


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def token(request_id: str, value: int, finish: str | None = None) -> RequestOutput:
    return RequestOutput(request_id=request_id, token_ids=[value], finish_reason=finish)


async def collect(client: EngineClient, request_id: str) -> list[int]:
    tokens: list[int] = []
    async with aclosing(client.submit([fake_request(request_id, [1])])[0]) as outputs:
        async for output in outputs:
            tokens += output.token_ids
    return tokens


def test_outputs_reach_their_own_stream() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        streams = [asyncio.create_task(collect(client, name)) for name in ("a", "b")]
        await settle()
        assert client.in_flight == 2
        hosts.last.say(token("a", 1), token("b", 10), token("stranger", 99))
        hosts.last.say(token("b", 11, "length"), token("a", 2, "stop"))
        assert await asyncio.gather(*streams) == [[1, 2], [10, 11]]
        assert client.in_flight == 0
        assert not any(isinstance(message, Abort) for message in hosts.last.sent)

    run(scenario)


def test_closing_or_cancelling_a_stream_aborts_it() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        stream = client.submit([fake_request("closed", [1])])[0]
        reading = asyncio.ensure_future(anext(stream))
        await settle()
        hosts.last.say(token("closed", 1))
        await reading
        await stream.aclose()
        assert hosts.last.sent[-1] == Abort(["closed"])

        cancelled = asyncio.create_task(collect(client, "cancelled"))
        await settle()
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        assert hosts.last.sent[-1] == Abort(["cancelled"])
        assert client.in_flight == 0

    run(scenario)


def test_death_ends_every_stream_with_a_typed_error_and_a_new_engine_serves() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        streams = [asyncio.create_task(collect(client, name)) for name in ("a", "b", "c")]
        await settle()
        hosts.last.say(token("a", 1))
        hosts.last.die()
        results = await asyncio.gather(*streams, return_exceptions=True)
        assert [type(result) for result in results] == [EngineDeadError] * 3
        await settle()
        assert (len(hosts.hosts), client.restarts_total) == (2, 1)
        assert client.state is EngineState.READY
        again = asyncio.create_task(collect(client, "d"))
        await settle()
        hosts.last.say(token("d", 5, "length"))
        assert await again == [5]

    run(scenario)


def test_refuses_while_loading_and_restarting() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        assert client.state is EngineState.LOADING
        with pytest.raises(UnavailableError, match="loading"):
            await collect(client, "a")
        hosts.last.say_ready()
        assert await client.wait_ready() is client.info
        hosts.last.die()
        await settle()
        assert client.state is EngineState.RESTARTING
        with pytest.raises(UnavailableError, match="restarting") as caught:
            client.admit(1)
        assert caught.value.retry_after > 0

    run(scenario, ready=False)


def test_restarts_are_bounded_then_the_server_is_told_to_exit() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        for _ in range(MAX_RESTARTS + 1):
            hosts.last.die("crash")
            await settle()
        failure = await client.wait_failed()
        assert (failure.exit_code, failure.message) == (70, "crash")
        assert client.state is EngineState.FAILED
        assert len(hosts.hosts) == 1 + MAX_RESTARTS

    run(scenario)


def test_restarts_long_ago_do_not_count() -> None:
    clock = Clock()

    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        for _ in range(3 * MAX_RESTARTS):
            clock.now += RESTART_WINDOW_S / 2
            hosts.last.die("crash")
            await settle()
        assert client.failure is None
        assert client.restarts_total == 3 * MAX_RESTARTS

    run(scenario, clock=clock)


def test_model_error_at_the_first_load_is_final() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        hosts.last.inbox.put(EngineFailed("no such model", True))
        failure = await client.wait_failed()
        assert (failure.exit_code, failure.message) == (2, "no such model")
        assert len(hosts.hosts) == 1

    run(scenario, ready=False)


def test_host_that_speaks_another_protocol_is_refused() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        hosts.last.inbox.put(msgspec.structs.replace(FakeCore().ready(), protocol_version=99))
        await settle()
        assert client.info is None
        assert len(hosts.hosts) == 2

    run(scenario, ready=False)


def test_admission_is_bounded_and_all_or_nothing() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        client.admit(4)
        with pytest.raises(InvalidRequestError, match="at most 4 at once"):
            client.admit(5)
        streams = [asyncio.create_task(collect(client, str(i))) for i in range(4)]
        await settle()
        with pytest.raises(UnavailableError, match="limit of 4 requests"):
            await collect(client, "one too many")
        assert len(hosts.last.requests) == 4
        for stream in streams:
            stream.cancel()

    run(scenario)


def test_drain_waits_for_those_in_flight_and_refuses_others() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        stream = asyncio.create_task(collect(client, "a"))
        await settle()
        draining = asyncio.create_task(client.drain(20))
        await settle()
        assert client.state is EngineState.DRAINING
        with pytest.raises(UnavailableError, match="shutting down"):
            client.admit(1)
        hosts.last.say(token("a", 7, "length"))
        assert await stream == [7]
        assert await draining == 0

    run(scenario)


def test_drain_ends_what_does_not_finish_in_time() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        stream = asyncio.create_task(collect(client, "a"))
        await settle()
        assert await client.drain(0.01) == 1
        with pytest.raises(UnavailableError, match="shutting down"):
            await stream
        assert hosts.last.sent[-1] == Abort(["a"])

    run(scenario)


def test_stats_totals_survive_a_restart() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        before = EngineStats(running=3, blocks_used=5, steps_total=10, rows_total=[7, 4])
        hosts.last.say(stats=before)
        await settle()
        hosts.last.die()
        await settle()
        assert client.stats == EngineStats(steps_total=10, rows_total=[7, 4])
        hosts.last.say(stats=EngineStats(running=1, steps_total=2, rows_total=[1, 1]))
        await settle()
        assert client.stats == EngineStats(running=1, steps_total=12, rows_total=[8, 5])
        hosts.last.die()
        await settle()
        assert client.stats == EngineStats(steps_total=12, rows_total=[8, 5])

    run(scenario)


def test_every_total_is_carried_over() -> None:
    """A new `*_total` in `EngineStats` must not be forgotten in `engine_totals`."""
    names = [name for name in EngineStats.__struct_fields__ if name.endswith("_total")]
    names.remove("blocks_total")  # a state: the size of the pool
    ones = EngineStats(**{name: [1] if name == "rows_total" else 1 for name in names})
    twice = with_past(ones, totals_only(ones))
    for name in names:
        assert getattr(twice, name) == ([2] if name == "rows_total" else 2), name


def test_every_total_of_the_loops_is_carried_over() -> None:
    names = LoopSignals.__struct_fields__
    now = EngineStats(signals=LoopSignals(**{name: [0, n, 1] for n, name in enumerate(names, 1)}))
    past = EngineStats(signals=LoopSignals(**{name: [0, 10 * n] for n, name in enumerate(names, 1)}))
    both = with_past(now, totals_only(past)).signals
    assert both == LoopSignals(**{name: [0, 11 * n, 1] for n, name in enumerate(names, 1)})


def test_what_is_held_is_no_total() -> None:
    held = EngineStats(cache=CacheUse(blocks=[3], tokens=5))
    assert totals_only(held).cache == CacheUse()
    assert with_past(EngineStats(), held).cache == CacheUse()


def test_steps_and_queue_times_are_observed() -> None:
    clock = Clock()

    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        stream = asyncio.create_task(collect(client, "a"))
        await settle()
        clock.now += 3.0
        step = StepShape(phase="decode", rows=[3, 2])
        stats = EngineStats(step_seconds=1.0, step=step, admitted=["a", "gone"])
        hosts.last.say(token("a", 1, "length"), stats=stats)
        await stream

    metrics = run(scenario, clock=clock)
    assert metrics.registry.get_sample_value("loopserve_step_seconds_sum", {"phase": "decode"}) == 1.0
    assert metrics.registry.get_sample_value("loopserve_step_rows_sum", {"loop": "1"}) == 2.0
    assert metrics.registry.get_sample_value("loopserve_request_queue_time_seconds_sum") == 2.0
    assert metrics.registry.get_sample_value("loopserve_request_queue_time_seconds_count") == 1


def test_responsive_follows_the_heartbeat() -> None:
    async def scenario(client: EngineClient, hosts: HostFactory) -> None:
        assert client.responsive
        hosts.last.age = 31.0
        assert not client.responsive

    run(scenario)
