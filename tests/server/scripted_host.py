"""An engine host whose every word the test says."""

from engine.host import Inbox
from engine.messages import (
    EngineReady,
    EngineStats,
    FromEngine,
    Request,
    RequestOutput,
    StepOutputs,
    ToEngine,
)
from tests.engine.fake_core import FakeCore


class ScriptedHost:
    """Satisfies `engine.host.EngineHost`."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.sent: list[ToEngine] = []
        self.started = False
        self.stopped = False
        self.age = 0.0

    async def start(self) -> None:
        self.started = True

    def send(self, message: ToEngine) -> None:
        self.sent.append(message)

    async def receive(self) -> FromEngine:
        return await self.inbox.get()

    def heartbeat_age(self) -> float:
        return self.age

    async def stop(self) -> None:
        self.stopped = True

    def say_ready(self) -> EngineReady:
        info = FakeCore().ready()
        self.inbox.put(info)
        return info

    def say(self, *outputs: RequestOutput, stats: EngineStats | None = None) -> None:
        self.inbox.put(StepOutputs(list(outputs), stats or EngineStats()))

    def die(self, reason: str = "killed") -> None:
        self.inbox.close(reason)

    @property
    def requests(self) -> list[Request]:
        return [message for message in self.sent if isinstance(message, Request)]


class HostFactory:
    """Makes scripted hosts and keeps them; `last` is the current life's."""

    def __init__(self, *, ready: bool = True) -> None:
        self.hosts: list[ScriptedHost] = []
        self.ready = ready

    def __call__(self) -> ScriptedHost:
        host = ScriptedHost()
        if self.ready:
            host.say_ready()
        self.hosts.append(host)
        return host

    @property
    def last(self) -> ScriptedHost:
        return self.hosts[-1]
