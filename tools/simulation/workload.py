"""The clients: who comes when, with what, and who gives up."""

import random
from dataclasses import dataclass, replace
from typing import Any

from engine.messages import Request
from engine.sampling_params import SamplingParams
from tools.simulation.curses import Curse
from tools.simulation.expectation import Expectation
from tools.simulation.setting import VOCAB_SIZE, Setting

KEPT_TEXTS = 8
SALTS = ("", "", "", "a", "b")
CHANGE_OF_PACE = 0.02
PACES = (0.0, 1.0, 1.0, 6.0)


@dataclass(slots=True)
class Client:
    """An outstanding request.

    Attributes:
        leaves_at: turn at which it is aborted, if it is still there (a disconnect or a timeout); may be its first.
        leaves_after: number of tokens after which it is aborted.
    """

    expectation: Expectation
    leaves_at: int | None = None
    leaves_after: int | None = None


class Workload:
    """Seeded arrivals for one setting."""

    def __init__(self, setting: Setting, rng: random.Random) -> None:
        self.setting = setting
        self.rng = rng
        self.pace = 1.0
        self.num_requests = 0
        self.texts: list[list[int]] = [self._random(self.rng.randint(1, setting.max_model_len))]
        self.most = 4 * setting.limits.max_num_seqs + 4

    def arrivals(self, turn: int, outstanding: int) -> list[Client]:
        """Who comes in this turn."""
        rng = self.rng
        if rng.random() < CHANGE_OF_PACE:
            self.pace = rng.choice(PACES)
        mean = self.setting.arrivals * self.pace
        count = int(mean) + (rng.random() < mean % 1)
        if outstanding == 0:
            count = max(count, rng.random() < 0.5)
        return [self._client(turn) for _ in range(min(count, self.most - outstanding))]

    def remember(self, tokens: list[int]) -> None:
        """Later prompts may begin with these."""
        self.texts.append(tokens)
        if len(self.texts) > KEPT_TEXTS:
            del self.texts[self.rng.randrange(KEPT_TEXTS)]

    def _client(self, turn: int) -> Client:
        rng = self.rng
        curse = Curse.draw(rng) if rng.random() < self.setting.curse_share else None
        client = Client(Expectation(self.setting, self._request(), curse))
        if rng.random() < self.setting.abort_share:
            if rng.random() < 0.3:
                client.leaves_after = rng.randint(1, 4)
            else:
                client.leaves_at = turn + rng.choice((0, 0, 1, 2, rng.randint(1, 10), rng.randint(5, 80)))
        return client

    def _request(self) -> Request:
        rng, setting = self.rng, self.setting
        self.num_requests += 1
        longest = max(1, int(setting.max_model_len * setting.answer_share))
        max_tokens = rng.choice((1, min(4, longest), longest, longest, longest, longest))
        prompt = self._prompt(min(setting.max_prompt, setting.max_model_len - max_tokens))
        return Request(
            request_id=str(self.num_requests),
            prompt_token_ids=prompt,
            params=SamplingParams(**self._params(max_tokens)),
            priority=rng.choice((0, 0, 0, 0, -1, 1)),
            cache_salt=rng.choice(SALTS),
            num_loops=rng.randint(1, setting.layout.num_loops) if rng.random() < 0.3 else None,
            tenant=rng.choice(setting.tenants),
        )

    def _params(self, max_tokens: int) -> dict[str, Any]:
        rng = self.rng
        params: dict[str, Any] = {"max_tokens": max_tokens, "seed": rng.getrandbits(64), "temperature": 0.0}
        if rng.random() < 0.3:
            params["stop_token_ids"] = tuple(rng.sample(range(VOCAB_SIZE), 24))
        if rng.random() < 0.06:
            params |= {"temperature": 0.8, "top_k": rng.choice((0, 5))}
        if rng.random() < 0.03:
            params |= {"repetition_penalty": 1.3, "min_tokens": max_tokens // 2}
        if rng.random() < 0.06:
            params["logprobs"] = rng.randint(0, 3)
        if rng.random() < self.setting.special_share:
            params["loop_logprobs"] = True
        if rng.random() < self.setting.special_share:
            params |= {"prompt_logprobs": rng.randint(0, 2), "max_tokens": rng.choice((0, max_tokens))}
            params["min_tokens"] = 0
        return params

    def _prompt(self, most: int) -> list[int]:
        """New, the beginning of a known text, a known text and more, or just a known text."""
        rng = self.rng
        length = rng.randint(1, most if rng.random() < 0.5 else min(most, 8))
        if rng.random() < 0.3:
            return self._random(length)
        known = rng.choice(self.texts)
        if rng.random() < 0.4:
            known = known[: rng.randint(1, len(known))]
        if rng.random() < 0.7:
            known = known + self._random(rng.randint(1, 8))
        return known[:most]

    def _random(self, length: int) -> list[int]:
        return list(self.rng.randbytes(length))


def again(client: Client, setting: Setting) -> Client:
    """The same client, asking again after a restart; its curse has died with the engine."""
    return replace(client, expectation=Expectation(setting, client.expectation.request))
