"""The engine: requests in, tokens out, one step at a time.

`EngineCore` is synchronous and single-threaded, does no I/O after loading and has no clock. Whoever drives it (a
thread, a process, a test, a simulation) calls `add` and `abort` between steps.
"""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from engine.errors import InvalidRequestError
from engine.grammar_compiler import BackgroundCompiler, GrammarCompiler, load_vocabulary
from engine.grammar_gate import GrammarGate
from engine.grammar_state import GrammarState
from engine.loading import LoadedModel, load_model
from engine.messages import EngineReady, EngineStats, Request, RequestOutput, TokenLogprob
from engine.options import EngineOptions
from engine.row_batch import LogitRow
from engine.runner import StepLogits
from engine.sampler import Draw, KnownToken, Sample, SamplingState, sample_step
from engine.sampling_params import (
    check_context_length,
    check_num_loops,
    check_sampling_params,
    check_token_ids,
)
from scheduler.scheduler import Scheduler
from scheduler.sequence import Sequence
from scheduler.step_plan import StepPlan

logger = logging.getLogger(__name__)


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


class EngineCore:
    """Scheduler, runner and sampler of one model."""

    def __init__(self, model: LoadedModel, grammars: GrammarCompiler | None = None) -> None:
        """An idle engine.

        Args:
            grammars: compiles requests' grammars; without it such requests are refused.
        """
        self.model = model
        self.gate = GrammarGate(grammars)
        self.scheduler: Scheduler = model.scheduler
        self.active: dict[str, ActiveRequest] = {}
        self.rows_total = [0] * model.config.loops.num_loops
        self.admitted: list[str] = []

    @classmethod
    def load(cls, options: EngineOptions, show_progress: bool) -> "EngineCore":
        """Load the model that `options` name.

        Raises:
            ModelError: the model directory or an option can't be served; the text says which and why.
        """
        model = load_model(options, show_progress)
        directory = Path(options.model_dir)
        return cls(model, BackgroundCompiler(lambda: load_vocabulary(directory, model.config)))

    @property
    def has_work(self) -> bool:
        """Whether there is something to step for.

        Raises:
            EngineDeadError: a process that holds a part of the model is gone; an idle engine must notice, too.
        """
        self.model.runner.followers.check()
        return self.scheduler.has_work or self.gate.any_ready

    @property
    def compiling(self) -> bool:
        """Whether a request waits for its grammar, whose end no message tells."""
        return len(self.gate) > 0

    def ready(self) -> EngineReady:
        """What clients need to know about the loaded model."""
        return self.model.ready

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            InvalidRequestError: it can never be served; nothing was queued.
        """
        if request.request_id in self.active or request.request_id in self.gate:
            raise InvalidRequestError(f"request id {request.request_id!r} is in use", param="request_id")
        prompt, params = request.prompt_token_ids, request.params
        check_token_ids("prompt", prompt, self.model.config.vocab_size)
        check_sampling_params(params, self.model.config.vocab_size)
        check_context_length(len(prompt), params.max_tokens, self.model.max_model_len, "prompt")
        check_num_loops(request.num_loops, self.scheduler.layout.num_loops)
        if params.grammar is None or params.max_tokens == 0:
            self._begin(request, None)
        else:
            self.gate.hold(request, params.grammar)

    def _begin(self, request: Request, grammar: GrammarState | None) -> None:
        """Hand a checked request to the scheduler."""
        prompt, params, layout = request.prompt_token_ids, request.params, self.scheduler.layout
        sequence = Sequence(
            request.request_id,
            list(prompt),
            len(prompt),
            layout if request.num_loops is None else replace(layout, num_loops=request.num_loops),
            tenant=request.tenant,
            cache_salt=request.cache_salt,
            priority=request.priority,
            every_position=params.prompt_logprobs is not None,
            every_loop=params.loop_logprobs,
        )
        sampling = SamplingState.begin(
            params, prompt, self.model.config.vocab_size, self.model.runner.staging.device, grammar
        )
        self.active[request.request_id] = ActiveRequest(request, sequence, sampling, [None] * len(prompt))
        self.scheduler.add(sequence)

    def abort(self, request_id: str) -> None:
        """Forget a request; unknown and finished ids are ignored."""
        self.gate.drop(request_id)
        active = self.active.pop(request_id, None)
        if active is not None:
            self.scheduler.finish(active.sequence)

    def step(self) -> list[RequestOutput]:
        """Compute one pass; returns what it gave to whom, [] if there was nothing to do."""
        refused = self._begin_compiled()
        plan = self.scheduler.schedule()
        self.admitted = [s.sequence_id for s in plan.admitted if s.num_preemptions == 0]
        for sequence in plan.preempted:
            self.active[sequence.sequence_id].loop_logits.clear()
        if not plan.segments:
            return refused
        result = self.model.runner.run(plan)
        self._count_rows(plan)
        sampled = self._sample(result)
        new_tokens = {
            sequence: s.token for sequence, s in sampled.items() if s is not None and s.token is not None
        }
        self.scheduler.commit(plan, new_tokens)
        return refused + [self._output(sequence, sample) for sequence, sample in sampled.items()]

    def _begin_compiled(self) -> list[RequestOutput]:
        """Begin the requests whose grammar is ready; returns the ends of those whose grammar is no good."""
        refused = []
        for compiled in self.gate.take():
            if isinstance(compiled.result, GrammarState):
                self._begin(compiled.request, compiled.result)
            else:
                refused.append(compiled.result)
        return refused

    def stats(self) -> EngineStats:
        """Counts after the last step."""
        scheduler = self.scheduler
        pool, totals = scheduler.blocks, scheduler.totals
        tables = [sequence.tables for sequence in scheduler.running]
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + len(self.gate),
            blocks_total=pool.num_blocks,
            blocks_used=pool.used,
            blocks_cached=len(pool.evictable),
            shared_blocks_used=len({block for group in tables for block in group[0].blocks}),
            window_blocks_used=len(
                {block for group in tables for table in group[1:] for block in table.blocks}
            ),
            preemptions_total=totals.preemptions,
            prefix_query_tokens_total=totals.prefix_query_tokens,
            prefix_hit_tokens_total=totals.prefix_hit_tokens,
            steps_total=totals.steps,
            rows_total=list(self.rows_total),
            admitted=self.admitted,
        )

    def _count_rows(self, plan: StepPlan) -> None:
        for segment in plan.segments:
            self.rows_total[segment.loop] += segment.num_rows

    def _sample(self, result: StepLogits) -> dict[Sequence, Sample | None]:
        """What each sequence gets that the step brought to its newest token; None if it wants or may get none."""
        newest = {
            row.sequence: i
            for i, row in enumerate(result.rows)
            if row.is_last_loop and row.position == len(row.sequence) - 1
        }
        self._keep_earlier_loops(result)
        states = {sequence: self.active[sequence.sequence_id].sampling for sequence in newest}
        drawing = [
            sequence for sequence, state in states.items() if state.params.max_tokens > 0 and state.may_draw()
        ]
        owed = [
            (row, known) for i, row in enumerate(result.rows) if (known := self._owed(i, row)) is not None
        ]
        samples, logprobs = sample_step(
            result.logits,
            [self.active[s.sequence_id].draw(newest[s], result.logits) for s in drawing],
            [known for _, known in owed],
        )
        # a preempted prompt overwrites its own with the same values
        for (row, _), logprob in zip(owed, logprobs, strict=True):
            self.active[row.sequence.sequence_id].prompt_logprobs[row.position + 1] = logprob
        for sequence, sample in zip(drawing, samples, strict=True):
            if sample.token is not None:
                states[sequence].count(sample.token)
        given = dict(zip(drawing, samples, strict=True))
        return {sequence: given.get(sequence) for sequence in newest}

    def _keep_earlier_loops(self, result: StepLogits) -> None:
        for i, row in enumerate(result.rows):
            if not row.is_last_loop:
                self.active[row.sequence.sequence_id].loop_logits[row.loop] = result.logits[i].clone()

    def _owed(self, index: int, row: LogitRow) -> KnownToken | None:
        """The prompt token after `row`, number `index` of the step's logits, if its logprob was asked for."""
        sequence, target = row.sequence, row.position + 1
        wanted = self.active[sequence.sequence_id].request.params.prompt_logprobs
        if wanted is None or not sequence.every_position or target >= sequence.num_prompt_tokens:
            return None  # so an earlier loop's row, which is at the newest position, is none
        return KnownToken(index, sequence.tokens[target], wanted)

    def _output(self, sequence: Sequence, sample: Sample | None) -> RequestOutput:
        """Report a sequence's step and end the sequence if this was its last."""
        active = self.active[sequence.sequence_id]
        grammar = active.sampling.grammar
        token = None if sample is None else sample.token
        error = None if grammar is None else grammar.error
        finish_reason: str | None
        if error is not None:
            finish_reason = "error"
        elif sample is not None and token is None:
            error = "The model produced values that are not numbers for this request."
            finish_reason = "error"
        else:
            finish_reason = self._finish_reason(active, token)
        output = RequestOutput(
            request_id=sequence.sequence_id,
            token_ids=[] if token is None else [token],
            logprobs=None if sample is None or sample.logprob is None else [sample.logprob],
            prompt_logprobs=active.prompt_logprobs if sequence.every_position else None,
            finish_reason=finish_reason,
            stop_token_id=token if finish_reason == "stop" and token in _ends(active) else None,
            cached_tokens=sequence.cached_tokens,
            error=error,
            loop_logprobs=None if sample is None or sample.loop_logprobs is None else [sample.loop_logprobs],
            num_loops=sequence.layout.num_loops,
            invalid=grammar is not None and grammar.error is not None,
        )
        sequence.every_position = False
        if finish_reason is not None:
            self.abort(sequence.sequence_id)
        return output

    def _finish_reason(self, active: ActiveRequest, token: int | None) -> str | None:
        params, sampling = active.request.params, active.sampling
        if token in params.stop_token_ids and sampling.num_outputs >= params.min_tokens:
            return "stop"
        if sampling.grammar is not None and sampling.grammar.complete:
            return "stop"
        return "length" if sampling.num_outputs >= params.max_tokens else None


def _ends(active: ActiveRequest) -> tuple[int, ...]:
    """Tokens that, as the last one, are no part of the answer's text."""
    grammar = active.sampling.grammar
    return active.request.params.stop_token_ids + (() if grammar is None else grammar.end_ids)
