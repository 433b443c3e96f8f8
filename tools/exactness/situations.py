"""In which situations requests were compared: each must really have occurred, or the comparison says nothing of it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields

from engine.messages import Request
from tools.exactness.setting import Setting
from tools.exactness.watching import Story


@dataclass(frozen=True, slots=True)
class Compared:
    """One comparison: a request, its course in the crowd, and what it ran under."""

    setting: Setting
    request: Request
    story: Story

    @property
    def weights(self) -> str:
        options = self.setting.options
        return str(options.dtype if options.quantization == "none" else options.quantization)


SITUATIONS: dict[str, Callable[[Compared], bool]] = {
    "shared passes with other requests": lambda c: c.story.in_company > 0,
    "cold: nothing was found in the prefix cache": lambda c: not c.story.found,
    "cached: later loops' tail recomputed over found shared blocks": lambda c: c.story.recomputed,
    "restored: windows and carries came from the prefix cache": lambda c: c.story.restored,
    "evicted: a block that it could have found was cached before, but evicted": lambda c: c.story.forgotten,
    "preempted and begun again": lambda c: c.story.preemptions > 0,
    "preempted more than once": lambda c: c.story.preemptions > 1,
    "chunked: loop 0 took several passes to the next token": lambda c: c.story.most_chunks > 1,
    "asks for a number of loops of its own": lambda c: c.request.num_loops is not None,
    "another priority": lambda c: c.request.priority != 0,
    "neighbours were aborted meanwhile": lambda c: c.story.abandoned > 0,
    "aborted itself; what it got until then was compared": lambda c: not c.story.ended,
    "one loop per pass (`--execution sequential`)": lambda c: c.setting.options.execution == "sequential",
    "greedy": lambda c: c.request.params.greedy,
    "seeded sampling": lambda c: not c.request.params.greedy,
    "penalties": lambda c: c.request.params.repetition_penalty != 1.0,
    "prompt log-probabilities": lambda c: c.request.params.prompt_logprobs is not None,
    "loop log-probabilities": lambda c: c.request.params.loop_logprobs,
    "the demo model": lambda c: c.setting.checkpoint is None,
    "weights in float32": lambda c: c.weights == "float32",
    "weights in bfloat16": lambda c: c.weights == "bfloat16",
    "weights in int8": lambda c: c.weights == "int8",
    "weights in int4": lambda c: c.weights == "int4",
    "cache in float32": lambda c: c.setting.options.kv_cache_dtype == "float32",
    "cache in bfloat16": lambda c: c.setting.options.kv_cache_dtype == "bfloat16",
}


@dataclass(slots=True)
class Totals:
    """What was done.

    Attributes:
        compared: requests. positions: sampled positions whose logits were compared. values: of those logits.
        most_rows: of one pass.
        situations: comparisons, by the names of `SITUATIONS`.
    """

    cases: int = 0
    compared: int = 0
    positions: int = 0
    values: int = 0
    steps: int = 0
    preemptions: int = 0
    evictions: int = 0
    most_rows: int = 0
    situations: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Totals") -> None:
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            setattr(self, each.name, max(mine, theirs) if each.name == "most_rows" else mine + theirs)

    def count(self, compared: Compared) -> None:
        self.compared += 1
        self.positions += len(compared.story.logits)
        self.values += sum(logits.size for logits in compared.story.logits)
        self.situations.update(name for name, applies in SITUATIONS.items() if applies(compared))

    @property
    def missing(self) -> list[str]:
        """Situations that never occurred."""
        return [name for name in SITUATIONS if not self.situations[name]]
