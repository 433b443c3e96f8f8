"""The same sampled request with the same seed in ever other crowds: how many different answers does it get?"""

import random
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from engine.messages import Request
from engine.sampling_params import SamplingParams
from tools.exactness.case import Crowd, compare, failure, run_alone
from tools.exactness.setting import Setting
from tools.exactness.watching import Story

GUEST = Request(
    request_id="guest",
    prompt_token_ids=[(37 * number + 11) % 320 for number in range(24)],
    params=SamplingParams(max_tokens=6, seed=42, temperature=1.0, top_p=0.95, logprobs=2),
)
"""Fits the shortest sequence of `Setting.draw_for_seed`. In a tight pool it can be preempted."""


@dataclass(slots=True)
class Answers:
    """Of the guest, to the bit: tokens and the logits behind each.

    Attributes:
        crowds: how many it was in.
        distinct: the different answers.
        in_company: crowds that it shared a pass with.
    """

    crowds: int = 0
    distinct: set[bytes] = field(default_factory=set)
    in_company: int = 0

    def add(self, story: Story) -> None:
        self.crowds += 1
        self.in_company += story.in_company > 0
        self.distinct.add(repr(story.tokens).encode() + b"".join(row.tobytes() for row in story.logits))


def meet_crowd(seed: int, number: int, answers: Answers) -> None:
    """Let the guest come into crowd `number` of a seed.

    Raises:
        SimulationError: something was wrong.
    """
    rng = random.Random(f"one seed/{seed}/{number}")
    setting = Setting.draw_for_seed(rng)
    try:
        with TemporaryDirectory(prefix="loopserve-exactness-") as directory:
            model, [fresh] = setting.load(Path(directory), num_alone=1)
        crowd = Crowd(model, setting, rng)
        crowd.run(GUEST)
        story = crowd.runner.stories[GUEST.request_id]
        if number == 0:
            compare(story, run_alone(fresh, GUEST))
    except Exception as error:
        raise failure(error, f"{setting}\ncrowd {number} of seed {seed}") from error
    answers.add(story)
