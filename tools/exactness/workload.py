"""Who comes when, with what, and who gives up."""

import random
from dataclasses import dataclass
from typing import Any

from engine.messages import Request
from engine.sampling_params import SamplingParams
from tools.exactness.setting import Setting

KEPT_TEXTS = 6
SALTS = ("", "", "", "", "a")
TENANTS = ("", "", "", "", "b")
PAUSES = (0, 0, 0, 1, 2, 5, 40)
"""Steps between two arrivals; after the longest, everybody before is usually done."""
SHORT_PAUSES = (0, 0, 0, 1, 5)
MISCHIEF = 0.01  # per step


@dataclass(slots=True)
class Visit:
    """A request, and after how many steps of its own it is aborted, if it is."""

    request: Request
    leaves_after: int | None


class Workload:
    """Seeded requests for one engine, of which many begin alike."""

    def __init__(self, rng: random.Random, setting: Setting, vocab_size: int, num_loops: int) -> None:
        self.rng = rng
        self.setting = setting
        self.vocab_size = vocab_size
        self.num_loops = num_loops
        self.num_requests = 0
        self.texts: list[list[int]] = [self._random(setting.max_prompt)]

    def visit(self) -> Visit:
        """The next request."""
        rng = self.rng
        self.num_requests += 1
        longest = self.setting.max_answer
        max_tokens = longest if self.setting.hurry else rng.choice((1, min(4, longest), longest))
        request = Request(
            request_id=str(self.num_requests),
            prompt_token_ids=self._prompt(self.setting.max_prompt),
            params=SamplingParams(**self._params(max_tokens)),
            priority=rng.choice((0, 0, 0, 0, -1, 1)),
            tenant=rng.choice(TENANTS),
            cache_salt=rng.choice(SALTS),
            num_loops=rng.randint(1, self.num_loops) if rng.random() < 0.25 else None,
        )
        leaves = rng.random() < self.setting.abort_share
        return Visit(request, rng.randint(0, 12) if leaves else None)

    def pause(self) -> int:
        """Steps until the next one comes."""
        return self.rng.choice(SHORT_PAUSES if self.setting.hurry else PAUSES)

    def remember(self, tokens: list[int]) -> None:
        """Later prompts may begin with these."""
        self.texts.append(tokens)
        if len(self.texts) > KEPT_TEXTS:
            del self.texts[self.rng.randrange(KEPT_TEXTS)]

    def _params(self, max_tokens: int) -> dict[str, Any]:
        rng = self.rng
        params: dict[str, Any] = {"max_tokens": max_tokens, "seed": rng.getrandbits(64), "temperature": 0.0}
        if rng.random() < 0.4:
            params |= {
                "temperature": rng.choice((0.7, 1.0, 1.5)),
                "top_k": rng.choice((0, 0, 20)),
                "top_p": rng.choice((1.0, 0.9)),
                "min_p": rng.choice((0.0, 0.0, 0.02)),
            }
        if rng.random() < 0.1:
            params |= {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2}
        if rng.random() < 0.1:
            params["logit_bias"] = dict.fromkeys(self._random(3), 2.0)
        if rng.random() < 0.2:
            params["stop_token_ids"] = tuple(self._random(20))
        if rng.random() < 0.2:
            params["logprobs"] = rng.randint(0, 5)
        if rng.random() < 0.1:
            params["loop_logprobs"] = True
        if rng.random() < 0.08:
            params |= {"prompt_logprobs": rng.randint(0, 2), "max_tokens": rng.choice((0, max_tokens))}
        return params

    def _prompt(self, most: int) -> list[int]:
        """New, or the beginning of a known text and some more."""
        rng = self.rng
        if rng.random() < 0.3:
            return self._random(rng.randint(1, most if rng.random() < 0.5 else min(most, 8)))
        known = rng.choice(self.texts)
        if rng.random() < 0.4:
            known = known[: rng.randint(1, len(known))]
        if rng.random() < 0.7:
            known = known + self._random(rng.randint(1, 8))
        return known[:most]

    def _random(self, length: int) -> list[int]:
        return [self.rng.randrange(self.vocab_size) for _ in range(length)]
