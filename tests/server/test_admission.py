"""Who may come in, and that the counts behind it can't drift."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidRequestError
from server.admission import Admission, AdmissionLimits, Refusal
from server.errors import UnavailableError


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def refused(admission: Admission, sequences: int, tokens: int) -> str | None:
    """The reason of a refusal, None if there is none."""
    try:
        admission.check(sequences, tokens)
    except UnavailableError as error:
        reason, retry_after = error.reason, error.retry_after
    else:
        return None
    assert 1 <= retry_after <= 60
    return reason


def test_sequences_are_bounded_and_counted_until_they_leave() -> None:
    admission = Admission(AdmissionLimits(3, 1000))
    for _ in range(2):
        admission.enter(10)
    admission.take_up(10)
    assert refused(admission, 1, 1) is None
    assert refused(admission, 2, 2) == Refusal.QUEUE_FULL
    admission.leave(10, waiting=False)
    assert refused(admission, 2, 2) is None


def test_waiting_tokens_are_bounded_until_they_are_taken_up() -> None:
    admission = Admission(AdmissionLimits(100, 1000))
    admission.enter(600)
    assert refused(admission, 1, 400) is None
    assert refused(admission, 1, 401) == Refusal.QUEUE_TOKENS
    admission.take_up(600)
    assert admission.waiting_tokens == 0
    assert refused(admission, 1, 1000) is None


def test_what_exceeds_the_token_bound_alone_is_served_when_nobody_waits() -> None:
    admission = Admission(AdmissionLimits(100, 1000))
    assert refused(admission, 2, 5000) is None
    admission.enter(2500)
    admission.enter(2500)
    assert refused(admission, 1, 0) == Refusal.QUEUE_TOKENS, "known before the prompt is"
    admission.leave(2500, waiting=True)
    admission.take_up(2500)
    assert refused(admission, 1, 5000) is None


def test_what_never_fits_is_the_requests_fault() -> None:
    admission = Admission(AdmissionLimits(3, 1000))
    with pytest.raises(InvalidRequestError, match="4 sequences"):
        admission.check(4, 4)


def test_retry_after_follows_the_engines_pace_and_ignores_idle_time() -> None:
    clock = Clock()
    admission = Admission(AdmissionLimits(100, 100_000), clock)
    for _ in range(60):
        admission.enter(10)
    for _ in range(30):
        clock.now += 0.5
        admission.take_up(10)
    assert admission.retry_after() == pytest.approx(15, abs=2)
    for _ in range(30):
        admission.leave(10, waiting=False)
        admission.leave(10, waiting=True)
    assert admission.retry_after() == 1
    clock.now += 3600  # nobody waits, so nothing is learnt
    for _ in range(60):
        admission.enter(10)
    assert admission.retry_after() == pytest.approx(30, abs=4)


def test_a_clock_that_jumps_back_does_no_harm() -> None:
    clock = Clock()
    admission = Admission(AdmissionLimits(9, 99), clock)
    admission.enter(1)
    clock.now -= 1000
    admission.take_up(1)
    assert 1 <= admission.retry_after() <= 60


Actions = st.lists(
    st.tuples(st.sampled_from(["request", "take_up", "leave"]), st.integers(0, 40), st.integers(1, 4)),
    max_size=80,
)


@given(Actions)
def test_counts_and_bounds_hold_whatever_happens(actions: list[tuple[str, int, int]]) -> None:
    limits = AdmissionLimits(6, 60)
    admission = Admission(limits, Clock())
    inside: list[tuple[int, bool]] = []
    for action, number, count in actions:
        waiting = [index for index, (_, waits) in enumerate(inside) if waits]
        if action == "request":
            tokens_before = sum(tokens for tokens, waits in inside if waits)
            verdict = refused(admission, count, count * number)
            room = len(inside) + count <= limits.max_in_flight
            fits = tokens_before == 0 or tokens_before + max(count * number, 1) <= limits.max_waiting_tokens
            assert (verdict is None) == (room and fits)
            for _ in range(0 if verdict else count):
                admission.enter(number)
                inside.append((number, True))
        elif action == "take_up" and waiting:
            index = waiting[number % len(waiting)]
            admission.take_up(inside[index][0])
            inside[index] = (inside[index][0], False)
        elif action == "leave" and inside:
            tokens, waits = inside.pop(number % len(inside))
            admission.leave(tokens, waiting=waits)
        assert admission.in_flight == len(inside) <= limits.max_in_flight
        assert admission.waiting == sum(waits for _, waits in inside)
        assert admission.waiting_tokens == sum(tokens for tokens, waits in inside if waits)
