"""Exceptions for one request, at every place where the engine does something for it."""

import random
from dataclasses import dataclass, field, fields

from engine.core import EngineCore
from engine.grammar_state import GrammarState
from engine.messages import Request, RequestOutput
from engine.sampler import Sample, SamplingState
from scheduler.sequence import Sequence
from tools.simulation.failure import CurseError, PanicException

PLACES = (
    "admitting",
    "admitted",
    *("before a pass", "after a pass"),
    *("masking", "choosing", "counting"),
    *("reporting", "reported"),
)
"""Choosing and the passes are done for many sequences at once."""

MOST_SPARED = 6


@dataclass(slots=True)
class Curse:
    """What befalls a request, and from then on whenever the engine gets to that place with it.

    Attributes:
        spared: times that the place is passed first.
        panics: what is raised is a panic of Rust code, no `Exception`.
    """

    place: str
    spared: int
    panics: bool
    has_struck: bool = False

    @classmethod
    def draw(cls, rng: random.Random) -> "Curse":
        place = rng.choice(PLACES)
        return cls(place, rng.choice((0, 0, rng.randint(0, MOST_SPARED))), rng.random() < 0.3)


@dataclass(slots=True)
class Curses:
    """Those of one engine's requests.

    Attributes:
        struck: requests that the engine must end in this turn.
        total: how many have been struck.
    """

    by_request: dict[str, Curse] = field(default_factory=dict)
    struck: set[str] = field(default_factory=set)
    total: int = 0

    def meet(self, request_id: str, place: str) -> None:
        """The engine does something for a request.

        Raises:
            CurseError, PanicException: it must not get through with it.
        """
        curse = self.by_request.get(request_id)
        if curse is None or curse.place != place:
            return
        if curse.spared > 0:
            curse.spared -= 1
            return
        if not curse.has_struck:
            curse.has_struck = True
            self.struck.add(request_id)
            self.total += 1
        raise (PanicException if curse.panics else CurseError)(f"{place} request {request_id}")


class CursedState(SamplingState):
    """A sampling state that may raise. It is of the request's, so only that may suffer."""

    __slots__ = ("curses", "request_id")

    curses: Curses
    request_id: str

    @classmethod
    def of(cls, state: SamplingState, curses: Curses, request_id: str) -> "CursedState":
        cursed = cls(*(getattr(state, part.name) for part in fields(state)))
        cursed.curses, cursed.request_id = curses, request_id
        return cursed

    @property
    def adjusts(self) -> bool:
        self.curses.meet(self.request_id, "choosing")
        return super().adjusts

    def may_draw(self) -> bool:
        self.curses.meet(self.request_id, "masking")
        return super().may_draw()

    def count(self, token: int) -> None:
        super().count(token)
        self.curses.meet(self.request_id, "counting")


class CursedCore(EngineCore):
    """The engine's core, in which what is done for one request may raise."""

    curses: Curses

    def _begin(self, request: Request, grammar: GrammarState | None) -> None:
        name = request.request_id
        self.curses.meet(name, "admitting")
        super()._begin(request, grammar)
        if name in self.curses.by_request:
            active = self.active[name]
            active.sampling = CursedState.of(active.sampling, self.curses, name)
        self.curses.meet(name, "admitted")

    def _output(self, sequence: Sequence, sample: Sample | None) -> RequestOutput:
        self.curses.meet(sequence.sequence_id, "reporting")
        output = super()._output(sequence, sample)
        self.curses.meet(sequence.sequence_id, "reported")
        return output
