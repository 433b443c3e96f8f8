"""What a request must get: computed alone, from its own tokens, knowing nothing of batches, blocks and windows."""

import numpy as np
import torch

from engine.messages import Request, RequestOutput, TokenLogprob
from engine.sampler import Draw, SamplingState, sample_step
from tools.simulation.arithmetic import hash_sequence
from tools.simulation.curses import Curse
from tools.simulation.failure import require
from tools.simulation.hash_runner import KINDS_OF_LOGITS, LOGITS, world_of
from tools.simulation.setting import VOCAB_SIZE, Setting

BEST = LOGITS.argmax(dim=1).tolist()
LOGPROBS = LOGITS.log_softmax(dim=1)
CLOSE = 1e-4  # between log-probabilities of one row, computed in other company


class Expectation:
    """One request's true course.

    Attributes:
        curse: what will end it, if it doesn't end earlier.
        tokens: int64 ``[capacity]``, prompt and answer; the first `length` are known, the first `computed` hashed.
        keys: uint64 ``[loops, layers, capacity]``. hidden: uint64 ``[loops, capacity]``.
    """

    def __init__(self, setting: Setting, request: Request, curse: Curse | None = None) -> None:
        self.request = request
        self.curse = curse
        self.layout = layout = setting.layout
        self.num_loops = loops = request.num_loops or layout.num_loops
        self.length = len(request.prompt_token_ids)
        self.capacity = capacity = self.length + request.params.max_tokens
        self.computed = 0
        self.num_outputs = 0
        self.tokens = np.zeros(capacity, np.int64)
        self.tokens[: self.length] = request.prompt_token_ids
        self.keys = np.empty((loops, layout.num_layers, capacity), np.uint64)
        self.hidden = np.empty((loops, capacity), np.uint64)
        self._shared = np.zeros(layout.num_layers, np.uint64)
        self._own = np.zeros((loops, layout.num_layers), np.uint64)
        self._sampling: SamplingState | None = None
        if not _is_plain(request):
            self._sampling = SamplingState.begin(
                request.params, request.prompt_token_ids, VOCAB_SIZE, torch.device("cpu")
            )

    @property
    def is_struck(self) -> bool:
        return self.curse is not None and self.curse.has_struck

    def compute(self) -> None:
        """Hash all tokens known."""
        if self.computed < self.length:
            hash_sequence(
                self.tokens,
                np.uint64(world_of(self.request.tenant, self.request.cache_salt)),
                self.computed,
                self.length,
                self.layout.offset,
                self.layout.window,
                self.layout.has_windows,
                self.keys,
                self.hidden,
                self._shared,
                self._own,
            )
            self.computed = self.length

    def take(self, output: RequestOutput) -> None:
        """Compare one step's output.

        Raises:
            WrongResultError: naming the first difference.
        """
        if self.is_struck:
            failed = output.error is not None and output.finish_reason == "error" and not output.invalid
            require(failed and not output.token_ids, f"no end with an error of ours, but {output}")
            return
        self.compute()
        request, params = self.request, self.request.params
        require(output.error is None, f"an error: {output.error}")
        require(output.num_loops == self.num_loops, "another number of loops")
        require(output.cached_tokens < len(request.prompt_token_ids), "more cached tokens than may be reused")
        if self.num_outputs == 0:
            self._check_prompt(output)
        wanted = 1 if params.max_tokens else 0
        require(len(output.token_ids) == wanted, f"{len(output.token_ids)} tokens in one step")
        if wanted:
            token = self._next_token()
            require(
                output.token_ids == [token],
                f"token {self.num_outputs} is {output.token_ids}, expected {token}",
            )
            self._check_logprobs(output, token)
            self._append(token)
        require(output.finish_reason == self._finish_reason(), f"finish reason {output.finish_reason}")

    def _kind(self, loop: int, position: int) -> int:
        return int(self.hidden[loop, position]) & (KINDS_OF_LOGITS - 1)

    def _next_token(self) -> int:
        kind = self._kind(self.num_loops - 1, self.length - 1)
        if self._sampling is None:
            return int(BEST[kind])
        samples, _ = sample_step(LOGITS[kind : kind + 1], [Draw(0, self._sampling)], [])
        token = samples[0].token
        assert token is not None
        self._sampling.count(token)
        return token

    def _append(self, token: int) -> None:
        self.tokens[self.length] = token
        self.length += 1
        self.num_outputs += 1

    def _finish_reason(self) -> str | None:
        params = self.request.params
        last = int(self.tokens[self.length - 1])
        if self.num_outputs and last in params.stop_token_ids and self.num_outputs >= params.min_tokens:
            return "stop"
        return "length" if self.num_outputs >= params.max_tokens else None

    def _check_logprobs(self, output: RequestOutput, token: int) -> None:
        params, last = self.request.params, self.length - 1
        if params.logprobs is not None:
            require(output.logprobs is not None and len(output.logprobs) == 1, "no logprob")
            assert output.logprobs is not None
            self._check_entry(output.logprobs[0], last, token, params.logprobs)
        if params.loop_logprobs:
            expected = [float(LOGPROBS[self._kind(loop, last), token]) for loop in range(self.num_loops)]
            given = (output.loop_logprobs or [[]])[0]
            require(
                len(given) == len(expected)
                and all(abs(a - b) < CLOSE for a, b in zip(given, expected, strict=True)),
                f"loop logprobs {given}, expected {expected}",
            )
            best = [int(LOGPROBS[self._kind(loop, last)].argmax()) for loop in range(self.num_loops)]
            require(output.loop_tokens == [best], f"loop tokens {output.loop_tokens}, expected {best}")

    def _check_prompt(self, output: RequestOutput) -> None:
        num_top = self.request.params.prompt_logprobs
        if num_top is None:
            return
        prompt, entries = self.request.prompt_token_ids, output.prompt_logprobs
        require(entries is not None and len(entries) == len(prompt), "prompt logprobs are missing")
        assert entries is not None
        require(entries[0] is None, "a logprob of the first token")
        for position, (token, entry) in enumerate(zip(prompt[1:], entries[1:], strict=True)):
            require(entry is not None, f"no logprob of prompt token {position + 1}")
            assert entry is not None
            self._check_entry(entry, position, token, num_top)

    def _check_entry(self, entry: TokenLogprob, position: int, token: int, num_top: int) -> None:
        """The log-probability of `token` after `position`."""
        kind = self._kind(self.num_loops - 1, position)
        expected = float(LOGPROBS[kind, token])
        require(
            entry.token_id == token and abs(entry.logprob - expected) < CLOSE,
            f"logprob after position {position} is {entry.logprob}, expected {expected}",
        )
        require(len(entry.top) == num_top, f"{len(entry.top)} top tokens")
        require(not entry.top or entry.top[0][0] == BEST[kind], f"best token after position {position}")


def _is_plain(request: Request) -> bool:
    """Whether the best token is the answer, without sampling or penalties."""
    params = request.params
    return params.greedy and not (params.repetition_penalty != 1.0 or params.min_tokens)
