"""Where one answer stands in its grammar."""

from collections.abc import Collection

import numpy as np
from llguidance import LLMatcher
from llguidance.numpy import fill_next_token_bitmask
from numpy.typing import NDArray

from engine.grammar import Vocabulary, error_of

BITS = 32


class GrammarState:
    """One answer's matcher. It holds the tokens of the answer only, so preemption is nothing to it.

    Every token: `allow`, then a choice within `mask`, then `accept`.

    Attributes:
        mask: int32 ``[ceil(vocab / 32)]``, bit i % 32 of word i // 32 says whether token i may come next.
        complete: the answer is a whole sentence and nothing can follow it.
        error: why the grammar can't go on; the request ends with it.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary) -> None:
        """Begin an answer; `matcher` is this answer's own."""
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._known = np.frombuffer(vocabulary.known, np.int32)
        self._words = np.zeros((1, len(self._known)), np.int32)
        self.mask: NDArray[np.int32] = self._words[0]
        self.complete = False
        self.error: str | None = None

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer; the matcher allows them where the grammar may end."""
        return self._vocabulary.end_ids

    def allow(self, unwanted: Collection[int]) -> bool:
        """Work out `mask` for the next token.

        Args:
            unwanted: tokens to leave out as long as the grammar allows any other; it is never broken for them.

        Returns:
            False if no token can come: `complete` or `error` says why.
        """
        fill_next_token_bitmask(self._matcher, self._words)
        if self._failed():
            return False
        allowed = self._words[0] & self._known
        self.mask = allowed
        if unwanted:
            preferred = allowed & ~_bits(unwanted, len(allowed))
            self.mask = preferred if preferred.any() else allowed
        if self.mask.any():
            return True
        if self._matcher.is_accepting():
            self.complete = True
        else:
            self.error = "The grammar allows none of this model's tokens here."
        return False

    def accept(self, token: int) -> None:
        """Note the chosen token; sets `complete` if it was the last, or `error`."""
        self._matcher.consume_token(token)
        if not self._failed():
            self.complete = self._matcher.is_stopped()

    def _failed(self) -> bool:
        if self._matcher.is_error():
            self.error = f"The grammar can't be followed any further: {error_of(self._matcher)}."
        return self.error is not None


def _bits(ids: Collection[int], words: int) -> NDArray[np.int32]:
    bits = np.zeros(words * BITS, np.uint8)
    bits[list(ids)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)
