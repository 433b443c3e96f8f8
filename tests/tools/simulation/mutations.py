"""Bugs as they could have been written, put in by monkeypatching: the simulator must notice every one."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

import engine.core as core_module
import engine.isolated_pass as isolated_pass_module
import engine.isolation as isolation_module
import engine.row_batch as row_batch_module
import engine.step_sampling as step_sampling_module
import scheduler.loop_layout as loop_layout_module
import scheduler.policy as policy_module
import scheduler.prefix_cache as prefix_cache_module
import scheduler.sequence_cache as sequence_cache_module
from engine.core import EngineCore
from engine.isolation import Failure
from engine.messages import Request, RequestOutput
from engine.runner import StepLogits
from scheduler.block_pool import BlockKey, BlockPool
from scheduler.eviction_queue import EvictionQueue
from scheduler.loop_layout import LoopLayout, StartPlan
from scheduler.scheduler import Scheduler
from scheduler.sequence import Carry, Sequence, SequenceState
from scheduler.sequence_cache import SequenceCache
from scheduler.step_plan import StepPlan
from tools.simulation.setting import Setting

Patch = pytest.MonkeyPatch
Mutation = Callable[[Patch], None]


def release_forgets_windows(patch: Patch) -> None:
    release = SequenceCache.release

    def broken(self: SequenceCache, sequence: Sequence) -> None:
        del sequence.tables[1:]
        release(self, sequence)

    patch.setattr(SequenceCache, "release", broken)


def release_forgets_carries(patch: Patch) -> None:
    release = SequenceCache.release

    def broken(self: SequenceCache, sequence: Sequence) -> None:
        sequence.carries = []
        release(self, sequence)

    patch.setattr(SequenceCache, "release", broken)


def blocks_are_released_twice(patch: Patch) -> None:
    release = BlockPool.release

    def broken(self: BlockPool, block: int) -> None:
        release(self, block)
        if self.refs[block] > 0:
            release(self, block)

    patch.setattr(BlockPool, "release", broken)


def window_is_trimmed_one_early(patch: Patch) -> None:
    trim = SequenceCache._trim_window

    def broken(self: SequenceCache, sequence: Sequence, loop: int) -> None:
        layout = sequence.layout
        sequence.layout = replace(layout, window=layout.window - 1)
        trim(self, sequence, loop)
        sequence.layout = layout

    patch.setattr(SequenceCache, "_trim_window", broken)


def window_is_read_one_short(patch: Patch) -> None:
    floor = row_batch_module._floor
    patch.setattr(row_batch_module, "_floor", lambda s, loop: floor(s, loop) + 1)


def padding_is_read(patch: Patch) -> None:
    """Tables of a batch begin one block late."""
    padded = row_batch_module._padded
    patch.setattr(row_batch_module, "_padded", lambda tables: np.roll(padded(tables), 1, axis=1))


def carry_is_zeroed(patch: Patch) -> None:
    patch.setattr(Carry, "slot_at", lambda self, position: 0)


def carry_is_not_restored(patch: Patch) -> None:
    begin = SequenceCache._begin_carries

    def broken(self: SequenceCache, sequence: Sequence, plan: StartPlan) -> list[object]:
        begin(self, sequence, plan)
        return []

    patch.setattr(SequenceCache, "_begin_carries", broken)


def carry_slots_come_back_early(patch: Patch) -> None:
    take = SequenceCache.take_slots

    def broken(
        self: SequenceCache, sequence: Sequence, loop: int, start: int, stop: int
    ) -> tuple[list[int], list[int]]:
        if loop > 0:
            carry, used = sequence.carries[loop - 1], stop - sequence.layout.offset - 1
            inputs, outputs = take(self, sequence, loop, start, stop)
            given = [carry.slots.popleft() for _ in range(min(len(carry.slots), max(0, used - carry.first)))]
            carry.first += len(given)
            self.carries.release(given)
            return inputs, outputs
        return take(self, sequence, loop, start, stop)

    patch.setattr(SequenceCache, "take_slots", broken)


def keys_leave_the_salt_out(patch: Patch) -> None:
    root = prefix_cache_module.root_key
    patch.setattr(sequence_cache_module, "root_key", lambda layout, tenant, salt: root(layout, tenant, ""))


def keys_leave_the_tenant_out(patch: Patch) -> None:
    root = prefix_cache_module.root_key
    patch.setattr(sequence_cache_module, "root_key", lambda layout, tenant, salt: root(layout, "", salt))


def keys_run_tenant_and_salt_together(patch: Patch) -> None:
    root = prefix_cache_module.root_key
    patch.setattr(
        sequence_cache_module, "root_key", lambda layout, tenant, salt: root(layout, "", tenant + salt)
    )


def keys_leave_the_loops_out(patch: Patch) -> None:
    root = prefix_cache_module.root_key
    patch.setattr(
        sequence_cache_module,
        "root_key",
        lambda layout, tenant, salt: root(replace(layout, num_loops=1), tenant, salt),
    )


def keys_leave_the_parent_out(patch: Patch) -> None:
    key = prefix_cache_module.block_key
    patch.setattr(prefix_cache_module, "block_key", lambda parent, tokens: key(b"", tokens))


def keys_are_not_cleared_on_growth(patch: Patch) -> None:
    """The key of a block that isn't full yet."""

    def broken(keys: list[bytes], root: bytes, tokens: list[int], block_size: int) -> None:
        while len(keys) * block_size < len(tokens):
            start = len(keys) * block_size
            part = tokens[start : start + block_size]
            keys.append(prefix_cache_module.block_key(keys[-1] if keys else root, part))

    patch.setattr(sequence_cache_module, "chain_keys", broken)


def tail_starts_one_late(patch: Patch) -> None:
    starts = LoopLayout.tail_starts

    def broken(self: LoopLayout, length: int) -> tuple[int, ...]:
        first, *later = starts(self, length)
        return (first, *(start + (0 < start < length - 1) for start in later))

    patch.setattr(LoopLayout, "tail_starts", broken)


def look_back_forgets_a_layer(patch: Patch) -> None:
    patch.setattr(LoopLayout, "look_back", property(lambda self: self.window * (self.num_layers - 1)))


def inexact_blocks_are_cached(patch: Patch) -> None:
    patch.setattr(SequenceCache, "cacheable", lambda self, sequence, loop, index: True)


def blocks_count_as_exact_too_early(patch: Patch) -> None:
    plan = loop_layout_module._plan

    def broken(*args: object) -> StartPlan:
        found = plan(*args)  # type: ignore[arg-type]
        return replace(found, kv_exact_from=tuple(max(0, first - 1) for first in found.kv_exact_from))

    patch.setattr(loop_layout_module, "_plan", broken)


def snapshots_count_as_exact_too_early(patch: Patch) -> None:
    plan = loop_layout_module._plan

    def broken(*args: object) -> StartPlan:
        found = plan(*args)  # type: ignore[arg-type]
        return replace(found, hidden_exact_from=found.kv_exact_from)

    patch.setattr(loop_layout_module, "_plan", broken)


def blocks_are_registered_before_they_are_full(patch: Patch) -> None:
    register = SequenceCache._register

    def broken(self: SequenceCache, sequence: Sequence, loop: int) -> None:
        size, done = sequence.layout.block_size, sequence.next[loop]
        if done % size and (done // size + 1) * size <= len(sequence):
            sequence.next[loop] = (done // size + 1) * size
        register(self, sequence, loop)
        sequence.next[loop] = done

    patch.setattr(SequenceCache, "_register", broken)


def eviction_keeps_the_key(patch: Patch) -> None:
    patch.setattr(BlockPool, "_evict", lambda self: self.evictable.pop())


def _evict_from(patch: Patch, choose: Callable[[EvictionQueue], tuple[str, int]]) -> None:
    def broken(self: EvictionQueue) -> int:
        tenant, block = choose(self)
        self.remove(block, tenant)
        return block

    patch.setattr(EvictionQueue, "pop", broken)


def eviction_takes_turns(patch: Patch) -> None:
    """A block of whoever came first."""
    _evict_from(patch, lambda queue: next((t, next(iter(blocks))) for t, blocks in queue.tenants.items()))


def eviction_takes_the_newest(patch: Patch) -> None:
    def newest(queue: EvictionQueue) -> tuple[str, int]:
        tenant = next(iter(queue.by_count[queue.most]))
        return tenant, next(reversed(queue.tenants[tenant]))

    _evict_from(patch, newest)


def eviction_does_not_see_who_has_the_most(patch: Patch) -> None:
    count = EvictionQueue._count

    def broken(self: EvictionQueue, tenant: str, before: int, after: int) -> None:
        count(self, tenant, before, after)
        self.most = min(self.by_count, default=0)

    patch.setattr(EvictionQueue, "_count", broken)


def salts_count_as_tenants(patch: Patch) -> None:
    """A client that changes its salt has another share of the cache."""
    register = BlockPool.register

    def broken(self: BlockPool, block: int, key: BlockKey, tenant: str) -> None:
        register(self, block, key, tenant + str(key[0][0] % 3))

    patch.setattr(BlockPool, "register", broken)


def everyone_is_one_tenant(patch: Patch) -> None:
    begin = EngineCore._begin

    def broken(self: EngineCore, request: Request, *args: object) -> None:
        begin(self, msgspec.structs.replace(request, tenant=""), *args)  # type: ignore[arg-type]

    patch.setattr(EngineCore, "_begin", broken)


def hits_are_not_retained(patch: Patch) -> None:
    patch.setattr(BlockPool, "retain", lambda self, block: None)


def prompts_may_be_found_whole(patch: Patch) -> None:
    find = prefix_cache_module.find_start

    def broken(layout: LoopLayout, pool: BlockPool, keys: list[bytes], length: int) -> StartPlan:
        return find(layout, pool, keys, length + 1)

    patch.setattr(sequence_cache_module, "find_start", broken)


def restore_looks_for_shared_blocks_only(patch: Patch) -> None:
    patch.setattr(prefix_cache_module, "_restorable", lambda layout, pool, keys, plan: True)


def restored_window_is_one_block_short(patch: Patch) -> None:
    def broken(layout: LoopLayout, boundary: int) -> range:
        first = (max(0, boundary - layout.window) + layout.block_size - 1) // layout.block_size
        return range(first, boundary // layout.block_size)

    patch.setattr(prefix_cache_module, "kept_block_range", broken)
    patch.setattr(sequence_cache_module, "kept_block_range", broken)


def own_contexts_are_hit_by_loop_0_alone(patch: Patch) -> None:
    """With an own context each, a loop without its blocks can't go on where loop 0 can."""
    found = prefix_cache_module._num_found
    patch.setattr(prefix_cache_module, "_num_found", lambda pool, keys, loops: found(pool, keys, range(1)))


def own_contexts_are_trimmed_like_windows(patch: Patch) -> None:
    advance = SequenceCache.advance

    def broken(self: SequenceCache, sequence: Sequence) -> None:
        advance(self, sequence)
        for loop in range(1, sequence.layout.num_loops):
            self._trim_window(sequence, loop)

    patch.setattr(SequenceCache, "advance", broken)


def later_loops_read_loop_0s_context(patch: Patch) -> None:
    """As if there were windows beside it."""
    table = property(lambda self: self.sequence.tables[0])
    patch.setattr(row_batch_module.ContextRows, "table", table)


def prompt_logprobs_use_the_cache(patch: Patch) -> None:
    def broken(self: SequenceCache, sequence: Sequence) -> StartPlan:
        return prefix_cache_module.find_start(sequence.layout, self.blocks, sequence.keys, len(sequence))

    patch.setattr(SequenceCache, "_plan", broken)


def rows_may_use_what_this_step_computes(patch: Patch) -> None:
    ready = policy_module.ready_stop

    def broken(sequence: Sequence, loop: int, leading: int) -> int:
        return min(ready(sequence, loop, leading) + 1, len(sequence), leading)

    patch.setattr(policy_module, "ready_stop", broken)


def last_loop_does_not_wait(patch: Patch) -> None:
    patch.setattr(policy_module, "_middle_fits", lambda sequence, leading, budget: True)


def preemption_keeps_everything(patch: Patch) -> None:
    def broken(self: Scheduler, sequence: Sequence) -> None:
        self.running.remove(sequence)
        sequence.state = SequenceState.WAITING
        self.waiting.append(sequence)
        self.waiting.sort(key=lambda s: s.rank)

    patch.setattr(Scheduler, "_preempt", broken)


def preemption_keeps_planned_rows(patch: Patch) -> None:
    """A sequence that is admitted again has the carries of its former life."""
    release = SequenceCache.release

    def broken(self: SequenceCache, sequence: Sequence) -> None:
        kept = [Carry(carry.first, deque(carry.slots)) for carry in sequence.carries]
        release(self, sequence)
        if sequence.state is not SequenceState.FINISHED:
            sequence.carries = kept

    patch.setattr(SequenceCache, "release", broken)


def preemption_hits_the_first(patch: Patch) -> None:
    make_room = Scheduler._make_room

    def broken(self: Scheduler, *args: object) -> bool:
        self.running.reverse()
        done = make_room(self, *args)  # type: ignore[arg-type]
        self.running.reverse()
        return done

    patch.setattr(Scheduler, "_make_room", broken)


def the_first_in_the_queue_is_passed_by(patch: Patch) -> None:
    admit = Scheduler._admit

    def broken(self: Scheduler, *args: object) -> None:
        if len(self.waiting) > 1:
            head = self.waiting.pop(0)
            admit(self, *args)  # type: ignore[arg-type]
            self.waiting.insert(0, head)
        elif not self.running:
            admit(self, *args)  # type: ignore[arg-type]

    patch.setattr(Scheduler, "_admit", broken)


def aborted_requests_stay_in_the_queue(patch: Patch) -> None:
    finish = Scheduler.finish

    def broken(self: Scheduler, sequence: Sequence) -> None:
        if sequence.state is not SequenceState.WAITING:
            finish(self, sequence)

    patch.setattr(Scheduler, "finish", broken)


def aborts_leave_the_request_in_the_engine(patch: Patch) -> None:
    def broken(self: EngineCore, request_id: str) -> None:
        active = self.active.get(request_id)
        if active is not None and active.sequence.state is SequenceState.FINISHED:
            self.scheduler.finish(active.sequence)

    patch.setattr(EngineCore, "abort", broken)


def culprits_keep_their_blocks(patch: Patch) -> None:
    end, release = EngineCore._end_failed, SequenceCache.release

    def broken(self: EngineCore, failures: list[Failure]) -> list[RequestOutput]:
        patch.setattr(SequenceCache, "release", lambda self, sequence: None)
        outputs = end(self, failures)
        patch.setattr(SequenceCache, "release", release)
        return outputs

    patch.setattr(EngineCore, "_end_failed", broken)


def culprits_are_not_told(patch: Patch) -> None:
    end = EngineCore._end_failed

    def broken(self: EngineCore, failures: list[Failure]) -> list[RequestOutput]:
        end(self, failures)
        return []

    patch.setattr(EngineCore, "_end_failed", broken)


def culprits_rows_are_booked(patch: Patch) -> None:
    patch.setattr(EngineCore, "_without", lambda self, plan, failures: plan)


def culprits_rows_are_booked_before_they_end(patch: Patch) -> None:
    """So the blocks that a broken pass has written get into the prefix cache."""
    end = EngineCore._end_failed

    def broken(self: EngineCore, failures: list[Failure]) -> list[RequestOutput]:
        for failure in failures:
            sequence = failure.sequence
            if sequence.tables:
                sequence.next[0] = min(sequence.tables[0].stop * sequence.layout.block_size, len(sequence))
                self.scheduler.cache.advance(sequence)
        return end(self, failures)

    patch.setattr(EngineCore, "_end_failed", broken)


def neighbours_in_a_pass_fail_too(patch: Patch) -> None:
    patch.setattr(isolated_pass_module, "bisect", _all_or_none)


def neighbours_in_sampling_fail_too(patch: Patch) -> None:
    patch.setattr(step_sampling_module, "bisect", _all_or_none)


def _all_or_none(items: list[Any], compute: Callable[[list[Any]], object]) -> object:
    try:
        return [(items, compute(items))], []
    except Exception as error:
        return [], [(item, error) for item in items]


def neighbours_are_not_restored_again(patch: Patch) -> None:
    patch.setattr(StepPlan, "part", lambda self, sequences: replace(_part(self, sequences), restores=[]))


_part = StepPlan.part


def neighbours_draws_count_twice(patch: Patch) -> None:
    sample = step_sampling_module._sample

    def broken(result: StepLogits, wishes: list[Any]) -> list[Any]:
        states = [wish.active.sampling for wish in wishes if wish.draw is not None]
        for state in states:
            state.num_outputs += 1
        given = sample(result, wishes)
        for state in states:
            state.num_outputs -= 1
        return given

    patch.setattr(step_sampling_module, "_sample", broken)


def panics_are_not_kept_in(patch: Patch) -> None:
    patch.setattr(isolation_module, "is_isolable", lambda error: isinstance(error, Exception))


def bad_requests_in_a_row_kill_the_engine(patch: Patch) -> None:
    patch.setattr(core_module, "engine_works", lambda scheduler, runner: False)


MUTATIONS: list[Mutation] = [
    value
    for name, value in list(globals().items())
    if callable(value)
    and not name.startswith("_")
    and getattr(value, "__module__", "") == __name__
    and not isinstance(value, type)
]

CONTENT_MUTATIONS: list[Mutation] = [
    window_is_trimmed_one_early,
    window_is_read_one_short,
    padding_is_read,
    carry_is_zeroed,
    carry_is_not_restored,
    keys_leave_the_salt_out,
    keys_leave_the_tenant_out,
    keys_run_tenant_and_salt_together,
    everyone_is_one_tenant,
    keys_leave_the_parent_out,
    tail_starts_one_late,
    inexact_blocks_are_cached,
    eviction_keeps_the_key,
    later_loops_read_loop_0s_context,
    own_contexts_are_trimmed_like_windows,
]
"""Those that make a row read something wrong."""


def _has_own_contexts(setting: Setting) -> bool:
    return not setting.layout.has_windows and setting.layout.num_loops > 1


def _has_exact_blocks_before_exact_hidden(setting: Setting) -> bool:
    layout = setting.layout
    tail = layout.window * layout.num_layers * (layout.num_loops - 1)
    return (
        setting.limits.prefix_caching
        and layout.num_loops >= 3
        and 2 * layout.block_size <= layout.window
        and tail + 2 * layout.block_size < setting.max_prompt
    )


def _has_a_cached_tail(setting: Setting) -> bool:
    layout = setting.layout
    reach = layout.window * layout.num_layers
    return setting.limits.prefix_caching and layout.num_loops >= 2 and 2 * reach < setting.max_prompt


def _has_short_prompts_and_long_answers(setting: Setting) -> bool:
    caches = setting.limits.prefix_caching and setting.layout.block_size > 1
    return caches and setting.max_prompt <= 8 and setting.answer_share == 0.9


def _has_cursed_requests_alone(setting: Setting) -> bool:
    return setting.limits.max_num_seqs <= 2 and setting.curse_share == 0.3


def _has_cursed_requests_and_a_cache(setting: Setting) -> bool:
    """And room in it, so that what a broken pass left there is still there when it is asked for."""
    layout = setting.layout
    caches = setting.limits.prefix_caching and 4 * layout.block_size <= setting.max_prompt
    return (
        caches
        and setting.curse_share == 0.3
        and setting.num_blocks > 4 * setting.max_model_len // layout.block_size
    )


def _hiccups_while_restoring(setting: Setting) -> bool:
    layout = setting.layout
    return (
        setting.limits.prefix_caching
        and layout.num_loops >= 2
        and layout.offset == 1
        and layout.block_size <= layout.window
        and setting.hiccup_every == 10
        and setting.max_prompt > 8
    )


def _is_short_of_rows(setting: Setting) -> bool:
    layout, limits = setting.layout, setting.limits
    return (
        limits.execution == "parallel"
        and layout.offset == 1
        and layout.num_loops >= 3
        and limits.max_rows < limits.max_num_seqs * layout.num_loops + 2
        and limits.max_num_seqs <= 2
        and setting.special_share == 0.5
    )


SUITED: dict[Mutation, Callable[[Setting], bool]] = {
    snapshots_count_as_exact_too_early: _has_exact_blocks_before_exact_hidden,
    blocks_count_as_exact_too_early: _has_a_cached_tail,
    last_loop_does_not_wait: _is_short_of_rows,
    own_contexts_are_hit_by_loop_0_alone: _has_own_contexts,
    keys_are_not_cleared_on_growth: _has_short_prompts_and_long_answers,
    bad_requests_in_a_row_kill_the_engine: _has_cursed_requests_alone,
    culprits_rows_are_booked_before_they_end: _has_cursed_requests_and_a_cache,
    neighbours_are_not_restored_again: _hiccups_while_restoring,
}
"""Where a rare bug shows soon: which settings to try, without which it takes some ten thousand steps."""
