"""The real scheduler under random load, driven as the engine drives it, with every invariant checked each step."""

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.invariants import check, check_idle
from scheduler.loop_layout import LoopCache, LoopLayout
from scheduler.policy import parallel_spans
from scheduler.scheduler import Scheduler, SchedulerLimits, _extend_lead
from scheduler.sequence import Sequence, SequenceState
from scheduler.step_plan import StepPlan


def make_scheduler(
    layout: LoopLayout, *, num_blocks: int, max_num_seqs: int, max_rows: int, **limits
) -> Scheduler:
    return Scheduler(
        layout, SchedulerLimits(max_num_seqs=max_num_seqs, max_rows=max_rows, **limits), num_blocks
    )


def check_readiness(scheduler: Scheduler, step: StepPlan) -> None:
    """The three rules of a row, stated on a finished plan and independent of the policy's code."""
    assert 0 <= step.num_rows <= scheduler.limits.max_rows
    seen: dict[tuple[int, int], int] = {}
    for segment in step.segments:
        assert segment.num_rows > 0
        sequence, layout = segment.sequence, segment.sequence.layout
        assert segment.loop < layout.num_loops
        assert segment.start == sequence.next[segment.loop]  # rule 1
        assert segment.stop <= len(sequence)
        seen[id(sequence), segment.loop] = segment.stop
        if segment.loop > 0:
            last_input = segment.stop - 1 - layout.offset
            assert last_input < sequence.next[segment.loop - 1]  # rule 2: computed in an earlier step
            shared_done = seen.get((id(sequence), 0), sequence.next[0])
            assert segment.stop <= shared_done  # rule 3
            assert len(segment.input_slots) == segment.num_rows
    if scheduler.limits.execution == "sequential":
        assert len({id(segment.sequence) for segment in step.segments}) == len(step.segments)


def check_every_loop(step: StepPlan, sampled: Iterable[Sequence]) -> None:
    """Who wants to know what every loop says gets no token before all loops have been at the newest position."""
    planned = {(id(segment.sequence), segment.loop): segment.stop for segment in step.segments}
    for sequence in sampled:
        for loop in range(sequence.layout.num_loops if sequence.every_loop else 0):
            assert planned.get((id(sequence), loop), sequence.next[loop]) == len(sequence)


def run_step(scheduler: Scheduler, next_token) -> StepPlan:
    step = scheduler.schedule()
    check_readiness(scheduler, step)
    tokens = {
        segment.sequence: next_token(segment.sequence)
        for segment in step.segments
        if segment.loop == segment.sequence.layout.num_loops - 1 and segment.stop == len(segment.sequence)
    }
    check_every_loop(step, tokens)
    scheduler.commit(step, tokens)
    return step


LAYOUTS = st.builds(
    LoopLayout,
    num_loops=st.integers(1, 4),
    offset=st.integers(0, 1),
    window=st.integers(0, 9),
    num_layers=st.integers(1, 3),
    block_size=st.integers(1, 6),
    cache=st.sampled_from(LoopCache),
)


@settings(max_examples=120, deadline=None)
@given(
    layout=LAYOUTS,
    seed=st.integers(0, 2**32),
    execution=st.sampled_from(["parallel", "sequential"]),
    prefix_caching=st.booleans(),
    max_num_seqs=st.integers(1, 5),
    extra_rows=st.integers(0, 20),
    spare_blocks=st.integers(0, 40),
)
def test_random_load_keeps_every_invariant(
    layout, seed, execution, prefix_caching, max_num_seqs, extra_rows, spare_blocks
):
    rng = random.Random(seed)
    max_rows = max_num_seqs * layout.num_loops + extra_rows
    max_len = 40
    num_blocks = layout.blocks_for(max_len, max_rows) + spare_blocks
    scheduler = make_scheduler(
        layout,
        num_blocks=num_blocks,
        max_num_seqs=max_num_seqs,
        max_rows=max_rows,
        execution=execution,
        prefix_caching=prefix_caching,
    )
    live: list[Sequence] = []
    to_come = 25
    for number in range(4000):
        if to_come and rng.random() < 0.3:
            to_come -= 1
            prompt = [rng.randrange(2) for _ in range(rng.randrange(1, 30))]
            sequence = Sequence(
                str(number),
                prompt,
                len(prompt),
                replace(layout, num_loops=rng.randint(1, layout.num_loops)),
                priority=rng.randrange(3),
                every_position=rng.random() < 0.1,
                every_loop=rng.random() < 0.3,
            )
            scheduler.add(sequence)
            live.append(sequence)
        if live and rng.random() < 0.03:
            scheduler.finish(live.pop(rng.randrange(len(live))))
            check(scheduler)
        run_step(scheduler, lambda s: sum(s.tokens) % 2)
        check(scheduler)
        for sequence in [s for s in live if s.num_output_tokens >= 10 or len(s) >= max_len]:
            scheduler.finish(sequence)
            live.remove(sequence)
            check(scheduler)
        if not to_come and not live:
            break
    assert not live, "a sequence starved"
    check_idle(scheduler)


PLT = LoopLayout(num_loops=2, offset=1, window=4, num_layers=2, block_size=4)


def steps_until_token(scheduler: Scheduler, sequence: Sequence, tokens: int = 1) -> int:
    start = sequence.num_output_tokens
    for count in range(1, 1000):
        run_step(scheduler, lambda s: 7)
        if sequence.num_output_tokens == start + tokens:
            return count
    raise AssertionError("no token")


@pytest.mark.parametrize("num_loops", [1, 2, 3, 4])
def test_decode_takes_one_pass_per_token_whatever_the_loop_count(num_loops):
    layout = LoopLayout(num_loops, 1, 4, 2, 4)
    scheduler = make_scheduler(layout, num_blocks=200, max_num_seqs=4, max_rows=64)
    sequence = Sequence("a", [1, 2, 3], 3, layout)
    scheduler.add(sequence)
    steps_until_token(scheduler, sequence)
    for _ in range(10):
        step = run_step(scheduler, lambda s: 7)
        assert [segment.loop for segment in step.segments] == list(range(num_loops))
        assert step.num_rows == num_loops
    assert sequence.num_output_tokens == 11


@pytest.mark.parametrize("num_loops", [1, 2, 3])
def test_sequential_decode_takes_one_pass_per_loop(num_loops):
    layout = LoopLayout(num_loops, 1, 4, 2, 4)
    scheduler = make_scheduler(layout, num_blocks=200, max_num_seqs=4, max_rows=64, execution="sequential")
    sequence = Sequence("a", [1, 2, 3], 3, layout)
    scheduler.add(sequence)
    steps_until_token(scheduler, sequence)
    assert steps_until_token(scheduler, sequence, 5) == 5 * num_loops


@pytest.mark.parametrize(("length", "chunk"), [(64, 16), (65, 16), (40, 64), (1, 16)])
@pytest.mark.parametrize("num_loops", [1, 2, 3])
def test_prompt_costs_its_chunks_plus_the_trailing_loops(length, chunk, num_loops):
    layout = LoopLayout(num_loops, 1, 100, 2, 4)  # a window so long that every loop starts at 0
    scheduler = make_scheduler(layout, num_blocks=500, max_num_seqs=1, max_rows=chunk * num_loops)
    sequence = Sequence("a", [1] * length, length, layout)
    scheduler.add(sequence)
    passes = steps_until_token(scheduler, sequence)
    first_chunks = -(-length // (chunk * num_loops))
    assert passes <= -(-length // chunk) + num_loops - 1
    assert passes >= first_chunks


@pytest.mark.parametrize("execution", ["parallel", "sequential"])
def test_a_budget_of_loops_is_obeyed_and_shares_passes(execution):
    layout = LoopLayout(3, 1, 4, 2, 4)
    scheduler = make_scheduler(layout, num_blocks=200, max_num_seqs=4, max_rows=64, execution=execution)
    sequences = [Sequence(str(k), [1, 2, 3], 3, replace(layout, num_loops=k)) for k in (1, 2, 3)]
    for sequence in sequences:
        scheduler.add(sequence)
    steps_until_token(scheduler, sequences[2], 3)
    for _ in range(9):
        step = run_step(scheduler, lambda s: 7)
        check(scheduler)
        loops = {s: [segment.loop for segment in step.segments if segment.sequence is s] for s in sequences}
        if execution == "parallel":
            assert list(loops.values()) == [[0], [0, 1], [0, 1, 2]]
        else:
            assert all(len(mine) == 1 for mine in loops.values())
    fewer, _, all_loops = (sequence.num_output_tokens for sequence in sequences)
    assert (fewer > 2 * all_loops) == (execution == "sequential")


def test_sequences_of_different_loops_share_no_block():
    scheduler = make_scheduler(PLT, num_blocks=200, max_num_seqs=1, max_rows=64)
    hits = []
    for k in (2, 1, 2, 1):
        sequence = Sequence("a", [1] * 40, 40, replace(PLT, num_loops=k))
        scheduler.add(sequence)
        steps_until_token(scheduler, sequence)
        scheduler.finish(sequence)
        hits.append(sequence.cached_tokens)
    assert hits == [0, 0, 36, 36]


def serve_alone(scheduler: Scheduler, prompt: list[int], tenant: str) -> int:
    """Run one short request to its end; returns its cached tokens."""
    sequence = Sequence("s", list(prompt), len(prompt), scheduler.layout, tenant=tenant)
    scheduler.add(sequence)
    while sequence.num_output_tokens == 0:
        run_step(scheduler, lambda sequence: 1)
    scheduler.finish(sequence)
    check(scheduler)
    return sequence.cached_tokens


@pytest.mark.parametrize("apart", [True, False])
def test_a_flood_of_one_tenant_leaves_anothers_prefix_cached(apart):
    """With both on one tenant, which is plain LRU, the same flood costs B everything."""
    layout = LoopLayout(num_loops=2, offset=1, window=4, num_layers=1, block_size=4)
    scheduler = make_scheduler(layout, num_blocks=60, max_num_seqs=2, max_rows=64)
    system_prompt = list(range(1000, 1041))
    flood, victim = ("a", "b") if apart else ("both", "both")
    hits = []
    for wave in range(10):
        for number in range(8):
            serve_alone(scheduler, [wave * 100 + number] * 40, flood)
        hits.append(serve_alone(scheduler, system_prompt, victim))
    assert hits == ([0] + [40] * 9 if apart else [0] * 10)


def test_tenants_share_no_block_even_of_equal_prompts_and_salts():
    layout = LoopLayout(num_loops=2, offset=1, window=4, num_layers=1, block_size=4)
    scheduler = make_scheduler(layout, num_blocks=200, max_num_seqs=2, max_rows=64)
    prompt = list(range(40))
    found = [serve_alone(scheduler, prompt, tenant) for tenant in ("a", "b", "a", "", "b")]
    assert found == [0, 0, 36, 0, 36]


def test_the_newest_position_waits_for_the_loops_between():
    """Without `every_loop` the last loop may be at the newest position before the one ahead of it."""
    layout = LoopLayout(3, 1, 4, 2, 4)
    early = []
    for every_loop in (False, True):
        sequence = Sequence("a", [1] * 20, 20, layout, every_loop=every_loop)
        sequence.next = [19, 19, 19]
        early.append(parallel_spans(sequence, 2))
    assert early == [[(0, 19, 20), (2, 19, 20)], [(0, 19, 20), (1, 19, 20)]]
    sequence.next = [20, 20, 19]
    assert parallel_spans(sequence, 1) == [(2, 19, 20)]


def test_later_loops_of_a_long_prompt_run_on_the_tail_only():
    scheduler = make_scheduler(PLT, num_blocks=500, max_num_seqs=1, max_rows=64)
    sequence = Sequence("a", [1] * 300, 300, PLT)
    scheduler.add(sequence)
    rows = {0: 0, 1: 0}
    while not sequence.num_output_tokens:
        for segment in run_step(scheduler, lambda s: 7).segments:
            rows[segment.loop] += segment.num_rows
    assert rows == {0: 300, 1: PLT.window * PLT.num_layers + 1}


def test_windows_give_blocks_back_while_the_shared_cache_grows():
    scheduler = make_scheduler(PLT, num_blocks=500, max_num_seqs=1, max_rows=64, prefix_caching=False)
    sequence = Sequence("a", [1] * 8, 8, PLT)
    scheduler.add(sequence)
    steps_until_token(scheduler, sequence, 200)
    assert len(sequence.tables[0].blocks) == -(-207 // PLT.block_size)
    assert len(sequence.tables[1].blocks) <= PLT.window_blocks(1)


def test_preemption_takes_the_last_ranked_and_keeps_its_tokens():
    num_blocks = PLT.blocks_for(40, 8) + 12
    scheduler = make_scheduler(PLT, num_blocks=num_blocks, max_num_seqs=4, max_rows=8, prefix_caching=False)
    first, second = Sequence("a", [1] * 8, 8, PLT), Sequence("b", [2] * 8, 8, PLT)
    scheduler.add(first)
    scheduler.add(second)
    while not second.num_preemptions:
        run_step(scheduler, lambda s: 7)
        check(scheduler)
        assert len(first) < 60, "the pool never ran out"
    assert first.state is SequenceState.RUNNING
    assert second.state is SequenceState.WAITING
    assert second.tokens[:8] == [2] * 8
    assert set(second.tokens[8:]) == {7}


def test_priority_goes_first_but_overtakes_nobody_for_ever():
    scheduler = make_scheduler(PLT, num_blocks=200, max_num_seqs=1, max_rows=8)
    patient = Sequence("low", [1], 1, PLT, priority=1)
    scheduler.add(Sequence("running", [1], 1, PLT))
    run_step(scheduler, lambda s: 7)
    scheduler.add(patient)
    urgent = Sequence("high", [1], 1, PLT, priority=0)
    scheduler.add(urgent)
    assert scheduler.waiting == [urgent, patient]
    scheduler.totals.steps += 5000
    late = Sequence("late", [1], 1, PLT, priority=0)
    scheduler.add(late)
    assert scheduler.waiting == [urgent, patient, late]


def test_finish_is_idempotent_in_every_state():
    scheduler = make_scheduler(PLT, num_blocks=50, max_num_seqs=1, max_rows=8)
    running, waiting = Sequence("a", [1] * 8, 8, PLT), Sequence("b", [1] * 8, 8, PLT)
    scheduler.add(running)
    scheduler.add(waiting)
    run_step(scheduler, lambda s: 7)
    for sequence in (running, waiting, running, waiting):
        scheduler.finish(sequence)
        check(scheduler)
    check_idle(scheduler)


def test_too_small_a_row_budget_is_refused():
    with pytest.raises(ValueError, match="at least max_num_seqs"):
        make_scheduler(PLT, num_blocks=8, max_num_seqs=5, max_rows=9)


@settings(max_examples=100, deadline=None)
@given(layout=LAYOUTS, num_blocks=st.integers(0, 60), wanted=st.integers(0, 80), spare_rows=st.integers(0, 9))
def test_the_longest_sequence_that_fits_alone(layout, num_blocks, wanted, spare_rows):
    max_rows = layout.num_loops + spare_rows
    scheduler = make_scheduler(layout, num_blocks=num_blocks, max_num_seqs=1, max_rows=max_rows)
    fitting = [n for n in range(1, wanted + 1) if layout.blocks_for(n, max_rows) <= num_blocks]
    assert scheduler.max_sequence_len(wanted) == max(fitting, default=0)


def test_there_is_work_while_anything_waits_or_runs():
    scheduler = make_scheduler(PLT, num_blocks=50, max_num_seqs=1, max_rows=8)
    assert not scheduler.has_work
    only = Sequence("a", [1] * 8, 8, PLT)
    scheduler.add(only)
    assert scheduler.waiting
    assert scheduler.has_work
    run_step(scheduler, lambda s: 7)
    assert not scheduler.waiting
    assert scheduler.has_work
    scheduler.finish(only)
    assert not scheduler.has_work


def test_totals_begin_at_nothing_and_count_what_happens():
    scheduler = make_scheduler(PLT, num_blocks=100, max_num_seqs=1, max_rows=64)
    totals = scheduler.totals
    assert (totals.steps, totals.preemptions, totals.prefix_query_tokens, totals.prefix_hit_tokens) == (
        0,
    ) * 4
    assert serve_alone(scheduler, list(range(21)), "a") == 0
    steps = totals.steps
    assert steps > 0
    assert (totals.prefix_query_tokens, totals.prefix_hit_tokens) == (21, 0)
    assert serve_alone(scheduler, list(range(23)), "a") == 20
    assert totals.steps > steps
    assert (totals.prefix_query_tokens, totals.prefix_hit_tokens) == (44, 20)
    assert totals.preemptions == 0
    before = totals.steps
    run_step(scheduler, lambda s: 7)
    assert totals.steps == before + 1


def test_a_level_of_priority_is_worth_4096_steps():
    scheduler = make_scheduler(PLT, num_blocks=200, max_num_seqs=1, max_rows=8)
    scheduler.totals.steps = 10
    early = Sequence("early", [1], 1, PLT, priority=1)
    scheduler.add(early)
    scheduler.totals.steps = 10 + 4096 - 1
    urgent = Sequence("urgent", [1], 1, PLT, priority=0)
    scheduler.add(urgent)
    assert scheduler.waiting == [urgent, early]
    scheduler.totals.steps = 10 + 4096
    late = Sequence("late", [1], 1, PLT, priority=0)
    scheduler.add(late)
    assert scheduler.waiting == [urgent, early, late], "of equal rank, who came first"
    assert early.rank[0] == late.rank[0]


def test_a_preempted_sequence_that_finds_its_own_blocks_counts_as_no_hit():
    scheduler = make_scheduler(PLT, num_blocks=100, max_num_seqs=1, max_rows=64)
    sequence = Sequence("a", list(range(30)), 30, PLT)
    scheduler.add(sequence)
    run_step(scheduler, lambda s: 7)
    run_step(scheduler, lambda s: 7)
    scheduler._preempt(sequence)
    assert scheduler.totals.preemptions == sequence.num_preemptions == 1
    run_step(scheduler, lambda s: 7)
    assert sequence.plan.shared_hit > 0
    assert sequence.cached_tokens == 0
    assert (scheduler.totals.prefix_query_tokens, scheduler.totals.prefix_hit_tokens) == (30, 0)


def three_at_work(layout: LoopLayout, max_rows: int) -> tuple[Scheduler, Sequence, Sequence, Sequence]:
    """The first decodes, the second's long prompt is being computed, the third decodes."""
    scheduler = make_scheduler(
        layout, num_blocks=100, max_num_seqs=3, max_rows=max_rows, prefix_caching=False
    )
    first, third = Sequence("1", [1] * 8, 8, layout), Sequence("3", [3] * 6, 6, layout, priority=1)
    second = Sequence("2", [2] * 90, 90, layout)
    for sequence in (first, third):
        scheduler.add(sequence)
        steps_until_token(scheduler, sequence)
    scheduler.add(second)
    run_step(scheduler, lambda s: 7)
    assert scheduler.running == [first, second, third]
    assert [s.is_decoding for s in scheduler.running] == [True, False, True]
    return scheduler, first, second, third


@pytest.mark.parametrize("offset", [0, 1])
def test_decoding_goes_before_prompts_of_better_rank(offset):
    """Without an offset, a prompt's second loop wants as many rows as its first had, and one more of the first."""
    layout = LoopLayout(num_loops=2, offset=offset, window=100, num_layers=1, block_size=4)
    scheduler, first, second, third = three_at_work(layout, max_rows=8)
    while not second.num_output_tokens:
        step = run_step(scheduler, lambda s: 7)
        assert {first, third} <= {segment.sequence for segment in step.segments}


def test_rows_of_who_was_planned_and_then_preempted_go_to_others():
    layout = LoopLayout(num_loops=2, offset=1, window=100, num_layers=1, block_size=4)
    scheduler, first, second, third = three_at_work(layout, max_rows=8)
    while third.num_preemptions == 0:
        while 1 in (
            len(first) % 4,
            len(third) % 4,
        ):  # they need no block, so that only the prompt's window does
            run_step(scheduler, lambda s: 7)
        held = scheduler.blocks.allocate(scheduler.blocks.available)
        step = scheduler.schedule()
        rows = {
            s: sum(each.num_rows for each in step.segments if each.sequence is s) for s in (first, second)
        }
        scheduler.commit(step, {s: 7 for s in (first, third) if s.state is SequenceState.RUNNING})
        for block in held:
            scheduler.blocks.release(block)
        assert not second.is_decoding
    assert step.preempted == [third]
    assert rows == {first: 2, second: 6}


def test_who_is_preempted_leaves_its_rows_to_others_at_once():
    layout = LoopLayout(num_loops=1, offset=1, window=4, num_layers=1, block_size=4)
    scheduler, first, second, third = three_at_work(layout, max_rows=8)
    while len(first) % 4 != 1 or len(third) % 4 == 1:
        run_step(scheduler, lambda s: 7)
        assert not second.is_decoding
    scheduler.blocks.allocate(scheduler.blocks.available)
    step = scheduler.schedule()
    assert step.preempted == [third]
    assert step.admitted == []
    assert scheduler.running == [first, second]
    assert scheduler.waiting == [third]
    assert [(segment.sequence, segment.num_rows) for segment in step.segments] == [(first, 1), (second, 7)]


def test_a_step_says_who_was_admitted_and_admits_only_who_gets_a_row():
    layout = LoopLayout(num_loops=1, offset=1, window=4, num_layers=1, block_size=4)
    scheduler = make_scheduler(layout, num_blocks=100, max_num_seqs=2, max_rows=2)
    long, short = Sequence("long", [1] * 5, 5, layout), Sequence("short", [2], 1, layout)
    scheduler.add(long)
    scheduler.add(short)
    admitted = []
    for _ in range(3):
        step = run_step(scheduler, lambda s: 7)
        admitted.append(step.admitted)
        assert step.num_rows == 2
    # Rows 0 and 1 of the prompt, rows 2 and 3, then the last and the first of the other.
    assert admitted == [[long], [], [short]]
    assert run_step(scheduler, lambda s: 7).admitted == []


def test_who_gives_way_itself_leaves_its_rows_to_others_too():
    layout = LoopLayout(num_loops=1, offset=1, window=4, num_layers=1, block_size=4)
    scheduler, first, second, third = three_at_work(layout, max_rows=8)
    while len(third) % 4 != 1 or len(first) % 4 == 1:
        run_step(scheduler, lambda s: 7)
        assert not second.is_decoding
    scheduler.blocks.allocate(scheduler.blocks.available)
    step = scheduler.schedule()
    assert step.preempted == [third]
    assert [(segment.sequence, segment.num_rows) for segment in step.segments] == [(first, 1), (second, 7)]


def test_without_a_prefix_cache_nothing_is_looked_up():
    scheduler = make_scheduler(PLT, num_blocks=100, max_num_seqs=1, max_rows=64, prefix_caching=False)
    assert [serve_alone(scheduler, list(range(21)), "a") for _ in range(2)] == [0, 0]
    assert scheduler.totals.prefix_query_tokens == scheduler.totals.prefix_hit_tokens == 0


def test_only_a_planned_row_of_loop_0_is_followed_by_more():
    sequence = Sequence("a", [1] * 9, 9, PLT)
    for planned, budget, added, left in (
        ([], 5, 0, []),
        ([(1, 2, 4)], 5, 0, [(1, 2, 4)]),
        ([(0, 3, 4), (1, 1, 2)], 2, 2, [(0, 3, 6), (1, 1, 2)]),
        ([(0, 3, 4)], 50, 5, [(0, 3, 9)]),
    ):
        assert _extend_lead(sequence, planned, budget) == added
        assert planned == left


def test_a_model_whose_later_loops_see_only_themselves_can_be_restored():
    """W = 0: a restored window shows nothing, but beside its last block is the H to go on from."""
    layout = LoopLayout(num_loops=3, offset=1, window=0, num_layers=1, block_size=1)
    scheduler = make_scheduler(layout, num_blocks=64, max_num_seqs=1, max_rows=6)
    serve_alone(scheduler, [1] * 6, "")
    assert serve_alone(scheduler, [1] * 7, "") == 6
