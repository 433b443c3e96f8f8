"""The engine: requests in, tokens out, one step at a time.

`EngineCore` is synchronous and single-threaded, does no I/O after loading and has no clock. Whoever drives it (a
thread, a process, a test, a simulation) calls `add` and `abort` between steps.
"""

import logging
import traceback
from dataclasses import replace
from pathlib import Path

from engine.active_request import ActiveRequest
from engine.baseline.baseline import Baseline
from engine.cache_report import blocks_by_group, cache_map, cache_use
from engine.errors import InvalidRequestError, LoopserveError, RequestFailedError
from engine.grammar_compiler import BackgroundCompiler, GrammarCompiler, load_vocabulary
from engine.grammar_gate import GrammarGate
from engine.grammar_state import GrammarState
from engine.isolated_pass import Pass, engine_works, run_pass
from engine.isolation import Boundary, Failure, Stage, failure_text, is_fatal
from engine.loading import LoadedModel, load_model
from engine.loop_signals import SignalSampler
from engine.messages import (
    CacheMap,
    Calibrated,
    DecodeTimes,
    EngineReady,
    EngineStats,
    LoopSignals,
    Request,
    RequestOutput,
    StepShape,
)
from engine.options import EngineOptions
from engine.sampler import Sample, SamplingState
from engine.sampling_params import (
    check_context_length,
    check_num_loops,
    check_sampling_params,
    check_token_ids,
)
from engine.step_sampling import sample_sequences
from scheduler.scheduler import Scheduler
from scheduler.sequence import Sequence
from scheduler.step_plan import StepPlan

logger = logging.getLogger(__name__)

MAX_FAILED_STEPS = 3
"""Steps in a row that fail for everybody in them, after which the engine itself is tried."""


class EngineCore:
    """Scheduler, runner and sampler of one model.

    An exception in what is done for one request ends that request with an error; see `engine.isolation`.

    Attributes:
        isolated_errors: requests that ended so.
        failed_steps: steps up to the last one, in a row, that failed for everybody in them.
    """

    def __init__(
        self,
        model: LoadedModel,
        grammars: GrammarCompiler | None = None,
        baseline: Baseline | None = None,
        signals: SignalSampler | None = None,
    ) -> None:
        """An idle engine.

        Args:
            grammars: compiles requests' grammars; without it such requests are refused.
            baseline: times passes, for which it has a clock; without it nothing is timed.
            signals: looks at some passes; without it at none.
        """
        self.model = model
        self.baseline = baseline
        self.signals = signals
        self.gate = GrammarGate(grammars)
        self.scheduler: Scheduler = model.scheduler
        self.active: dict[str, ActiveRequest] = {}
        self.rows_total = [0] * model.config.loops.num_loops
        self.admitted: list[str] = []
        self.shape = StepShape()
        self.isolated_errors = 0
        self.failed_steps = 0

    @classmethod
    def load(cls, options: EngineOptions, show_progress: bool) -> "EngineCore":
        """Load the model that `options` name.

        Raises:
            ModelError: the model directory or an option can't be served; the text says which and why.
        """
        model = load_model(options, show_progress)
        directory = Path(options.model_dir)
        baseline = Baseline(model, options)
        baseline.calibrate_at_start()
        return cls(
            model,
            BackgroundCompiler(lambda: load_vocabulary(directory, model.config)),
            baseline,
            SignalSampler.of(model.runner, options.loop_metrics_sample),
        )

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

    @property
    def calibrating(self) -> bool:
        """Whether `calibrate` has something to do or to say."""
        return self.baseline is not None and self.baseline.calibrating

    def begin_calibration(self) -> None:
        """Compare the executions again, in what `calibrate` is given between steps."""
        if self.baseline is not None:
            self.baseline.begin_calibration()

    def calibrate(self) -> Calibrated | None:
        """Measure a little in blocks that nobody holds; returns the result when that was the last of it."""
        return None if self.baseline is None else self.baseline.calibrate()

    def ready(self) -> EngineReady:
        """What clients need to know about the loaded model."""
        return self.model.ready

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            InvalidRequestError: it can never be served; nothing was queued.
            RequestFailedError: something of ours broke on it; nothing was queued.
        """
        if request.request_id in self.active or request.request_id in self.gate:
            raise InvalidRequestError(f"request id {request.request_id!r} is in use", param="request_id")
        try:
            self._check(request)
            if request.params.grammar is None or request.params.max_tokens == 0:
                self._begin(request, None)
            else:
                self.gate.hold(request, request.params.grammar)
        except InvalidRequestError:
            raise
        except BaseException as error:
            if is_fatal(error):
                raise
            raise RequestFailedError(
                self._give_up(request.request_id, "admission", error, request.label)
            ) from error

    def _check(self, request: Request) -> None:
        """Refuse what can never be served: below every front end, so none can forget a bound."""
        prompt, params = request.prompt_token_ids, request.params
        check_token_ids("prompt", prompt, self.model.config.vocab_size)
        check_sampling_params(params, self.model.config.vocab_size)
        check_context_length(len(prompt), params.max_tokens, self.model.max_model_len, "prompt")
        check_num_loops(request.num_loops, self.scheduler.layout.num_loops)

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
        active = ActiveRequest(request, sequence, sampling, [None] * len(prompt))
        self.scheduler.add(sequence)
        self.active[request.request_id] = active

    def abort(self, request_id: str) -> None:
        """Forget a request; unknown and finished ids are ignored."""
        self.gate.drop(request_id)
        active = self.active.pop(request_id, None)
        if active is not None:
            self.scheduler.finish(active.sequence)

    def step(self) -> list[RequestOutput]:
        """Compute one pass; returns what it gave to whom, [] if there was nothing to do.

        Raises:
            Exception: the engine is broken (`engine.isolation.is_fatal`), or fails whatever it is given.
        """
        outputs = self._begin_compiled()
        plan = self.scheduler.schedule()
        self.admitted = [s.sequence_id for s in plan.admitted if s.num_preemptions == 0]
        for sequence in plan.preempted:
            self.active[sequence.sequence_id].loop_logits.clear()
        if not plan.segments:
            self.shape = StepShape()
            return outputs
        computed = self._run(plan)
        sampled = sample_sequences(computed.result, self.active)
        failures = computed.failures + sampled.failures
        outputs += self._end_failed(failures)
        kept = self._without(plan, failures)
        self._count_rows(plan, kept)
        new_tokens = {
            sequence: sample.token
            for sequence, sample in sampled.samples.items()
            if sample is not None and sample.token is not None
        }
        self.scheduler.commit(kept, new_tokens)
        unreported: list[Failure] = []
        for sequence, sample in sampled.samples.items():
            with Boundary(unreported, sequence, "output"):
                outputs.append(self._output(sequence, sample))
        outputs += self._end_failed(unreported)
        self._watch(plan, failures + unreported)
        return outputs

    def _run(self, plan: StepPlan) -> Pass:
        """Compute a plan, time it, and look at what the loops do in it, each if there is something to it."""
        tap = None if self.signals is None else self.signals.tap_for(plan)
        runner, baseline = self.model.runner, self.baseline
        computed = run_pass(runner, plan, tap) if baseline is None else baseline.run(plan, tap)
        if self.signals is not None and tap is not None and not computed.failures:
            self.signals.take(plan, tap)
        return computed

    def _begin_compiled(self) -> list[RequestOutput]:
        """Begin the requests whose grammar is ready; returns the ends of those whose grammar is no good."""
        refused = []
        for compiled in self.gate.take():
            request, result = compiled.request, compiled.result
            try:
                if not isinstance(result, GrammarState):
                    raise result
                self._begin(request, result)
            except LoopserveError as error:
                invalid = isinstance(error, InvalidRequestError)
                refused.append(_refusal(request, str(error), invalid=invalid))
            except BaseException as error:
                if is_fatal(error):
                    raise
                text = self._give_up(request.request_id, "grammar", error, request.label)
                refused.append(_refusal(request, text, invalid=False))
        return refused

    def _without(self, plan: StepPlan, failures: list[Failure]) -> StepPlan:
        """The part of a plan that may be booked."""
        if not failures:
            return plan
        failed = {failure.sequence for failure in failures}
        return plan.part(sequence for sequence in plan.sequences if sequence not in failed)

    def _end_failed(self, failures: list[Failure]) -> list[RequestOutput]:
        """End sequences that can't go on; returns their last outputs."""
        return [
            RequestOutput(
                request_id=failure.sequence.sequence_id,
                finish_reason="error",
                cached_tokens=failure.sequence.cached_tokens,
                error=self._give_up(failure.sequence.sequence_id, failure.stage, failure.error),
                num_loops=failure.sequence.layout.num_loops,
            )
            for failure in failures
        ]

    def _give_up(self, request_id: str, stage: Stage, error: BaseException, label: str = "") -> str:
        """Forget a request that something broke on; returns what to tell the client."""
        self.isolated_errors += 1
        if request_id in self.active:
            label = self.active[request_id].request.label
        logger.error(
            "request %s failed alone in its %s stage",
            request_id,
            stage,
            exc_info=error,
            extra={"request_id": label or request_id},
        )
        traceback.clear_frames(error.__traceback__)  # a pass's tensors would live as long as the error
        self.abort(request_id)
        return failure_text(stage)

    def _watch(self, plan: StepPlan, failures: list[Failure]) -> None:
        """Find out whether it is the engine that fails, if everything fails.

        Failing alone, step after step, is what one client can do by sending a bad request again and again; so after
        some such steps a row of nobody's decides.
        """
        failed = {failure.sequence for failure in failures}
        if any(sequence not in failed for sequence in plan.sequences):
            self.failed_steps = 0
            return
        self.failed_steps += 1
        if self.failed_steps < MAX_FAILED_STEPS:
            return
        if not engine_works(self.scheduler, self.model.runner):
            raise failures[-1].error
        self.failed_steps = 0

    def stats(self) -> EngineStats:
        """Counts after the last step."""
        scheduler = self.scheduler
        pool, totals, use = scheduler.blocks, scheduler.totals, cache_use(scheduler)
        used = blocks_by_group(use, scheduler.layout.has_windows)
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + len(self.gate),
            blocks_total=pool.num_blocks,
            blocks_used=pool.used,
            blocks_cached=len(pool.evictable),
            shared_blocks_used=used["shared"],
            window_blocks_used=used["window"],
            own_blocks_used=used["own"],
            preemptions_total=totals.preemptions,
            prefix_query_tokens_total=totals.prefix_query_tokens,
            prefix_hit_tokens_total=totals.prefix_hit_tokens,
            steps_total=totals.steps,
            rows_total=list(self.rows_total),
            admitted=self.admitted,
            isolated_errors_total=self.isolated_errors,
            step=self.shape,
            decode=DecodeTimes() if self.baseline is None else self.baseline.times,
            cache=use,
            signals=LoopSignals() if self.signals is None else self.signals.totals,
        )

    def cache_map(self) -> CacheMap:
        """Where every block of the cache is now."""
        return cache_map(self.scheduler.blocks, self.scheduler.layout.num_loops)

    def _count_rows(self, plan: StepPlan, kept: StepPlan) -> None:
        rows = kept.rows_by_loop(len(self.rows_total))
        self.rows_total = [total + new for total, new in zip(self.rows_total, rows, strict=True)]
        self.shape = StepShape(phase=plan.phase, rows=rows)

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
            loop_tokens=None if sample is None or sample.loop_tokens is None else [sample.loop_tokens],
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


def _refusal(request: Request, text: str, *, invalid: bool) -> RequestOutput:
    return RequestOutput(request_id=request.request_id, finish_reason="error", error=text, invalid=invalid)
