"""A request in the engine."""

from dataclasses import dataclass, field

import torch

from engine.messages import Request, TokenLogprob
from engine.sampler import Draw, SamplingState
from scheduler.sequence import Sequence


@dataclass(slots=True)
class ActiveRequest:
    """A request between `add` and its last output.

    Attributes:
        loop_logits: float32 ``[vocab]`` that earlier loops gave after the newest position, until its token is sampled;
            only kept if the request asks for loop logprobs. They may come passes before the last loop's.
    """

    request: Request
    sequence: Sequence
    sampling: SamplingState
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=list)
    loop_logits: dict[int, torch.Tensor] = field(default_factory=dict)

    def draw(self, row: int, logits: torch.Tensor) -> Draw:
        """The draw of the next token from row `row` of a step's logits, which the last loop gave."""
        if not self.sequence.every_loop:
            return Draw(row, self.sampling)
        earlier = [self.loop_logits.pop(loop) for loop in range(self.sequence.layout.num_loops - 1)]
        return Draw(row, self.sampling, (*earlier, logits[row]))
