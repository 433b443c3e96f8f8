"""Logits → tokens and log-probabilities, for all rows of a step at once and on the logits' device.

A step reads the device once, at its end (`to_host`); nothing before that waits for it. A row's result doesn't depend
on its neighbours: sums over the vocabulary are taken either by a softmax, whose order of additions is a matter of the
row's length and alignment only, or in fixed point, where order doesn't matter.

Randomness is counter-based: the uniform number behind a request's n-th token is Philox (Salmon et al., SC'11) keyed by
the request's seed with counter n. It depends on nothing else, so a seeded request draws the same tokens in any crowd
and after preemption.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from engine.grammar_mask import apply_masks
from engine.grammar_state import GrammarState
from engine.messages import TokenLogprob
from engine.philox import uniform
from engine.sampling_params import MAX_LOGPROBS, SamplingParams

ALIGNED_COLUMNS = 4
"""A float32 row of a multiple of so many columns starts at 16 bytes."""

SCORED_ROWS = 64
"""Rows whose log-probabilities are in memory at once; a long prompt's would double the memory of its logits."""


@dataclass(slots=True)
class SamplingState:
    """What sampling one sequence needs to remember; tensors are on the logits' device.

    Attributes:
        output_counts: float32 ``[vocab]``, how often each token was generated; None without penalties.
        repetition: float32 ``[vocab]``, the penalty at tokens of the prompt and the answer, 1 elsewhere; None without.
        bias: int64 ids and float32 values to add; None without logit bias.
        stop_ids: int64, masked until `min_tokens` exist; None if there are none.
        grammar: what the answer must conform to; its mask is put on last, so nothing else can break it.
    """

    params: SamplingParams
    num_outputs: int = 0
    output_counts: torch.Tensor | None = None
    repetition: torch.Tensor | None = None
    bias: tuple[torch.Tensor, torch.Tensor] | None = None
    stop_ids: torch.Tensor | None = None
    grammar: GrammarState | None = None

    @classmethod
    def begin(
        cls,
        params: SamplingParams,
        prompt: list[int],
        vocab_size: int,
        device: torch.device,
        grammar: GrammarState | None = None,
    ) -> "SamplingState":
        """State before the first token."""
        state = cls(params, grammar=grammar)
        if params.presence_penalty or params.frequency_penalty:
            state.output_counts = torch.zeros(vocab_size, device=device)
        if params.repetition_penalty != 1.0:
            state.repetition = torch.ones(vocab_size, device=device)
            state.repetition.index_fill_(0, _upload(prompt, torch.int64, device), params.repetition_penalty)
        if params.logit_bias:
            ids = _upload(list(params.logit_bias), torch.int64, device)
            state.bias = ids, _upload(list(params.logit_bias.values()), torch.float32, device)
        if params.min_tokens and params.stop_token_ids:
            state.stop_ids = _upload(params.stop_token_ids, torch.int64, device)
        return state

    @property
    def masks_stops(self) -> bool:
        """Whether stop tokens are barred; a grammar's mask sees to that itself, where it can."""
        return (
            self.stop_ids is not None and self.grammar is None and self.num_outputs < self.params.min_tokens
        )

    @property
    def adjusts(self) -> bool:
        """Whether logits are changed before the choice."""
        return (
            self.output_counts is not None
            or self.repetition is not None
            or self.bias is not None
            or self.masks_stops
            or self.grammar is not None
        )

    def may_draw(self) -> bool:
        """Whether a token can come next; if not, the grammar is complete or has failed.

        End tokens that don't stop this request (`ignore_eos`), and all stop tokens before `min_tokens`, are left out
        as long as the grammar allows anything else.
        """
        if self.grammar is None:
            return True
        stops = self.params.stop_token_ids
        unwanted = [token for token in self.grammar.end_ids if token not in stops]
        if self.num_outputs < self.params.min_tokens:
            unwanted += stops
        return self.grammar.allow(unwanted)

    def count(self, token: int) -> None:
        """Note a generated token."""
        self.num_outputs += 1
        if self.output_counts is not None:
            self.output_counts[token].add_(1)
        if self.repetition is not None:
            self.repetition[token].fill_(self.params.repetition_penalty)
        if self.grammar is not None:
            self.grammar.accept(token)


@dataclass(frozen=True, slots=True)
class Draw:
    """A token wanted after row `row` of the logits.

    Attributes:
        loop_logits: float32 ``[vocab]`` of every loop, the last one's equal to `row`, if the request asks what each
            loop would have given the token.
    """

    row: int
    state: SamplingState
    loop_logits: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class KnownToken:
    """A token of a prompt whose log-probability after row `row` is wanted, beside the `num_top` best."""

    row: int
    token: int
    num_top: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A drawn token, None if the logits are not numbers, and its log-probabilities if the request wants them.

    Attributes:
        loop_logprobs, loop_tokens: what each loop would have given the token, and its own most probable one.
    """

    token: int | None
    logprob: TokenLogprob | None
    loop_logprobs: list[float] | None = None
    loop_tokens: list[int] | None = None


@dataclass(frozen=True, slots=True)
class SampledBatch:
    """Choices on the device.

    Attributes:
        tokens: int64 ``[n]``; that of a broken row means nothing, but is a token id.
        broken: bool ``[n]``, rows whose logits have no finite maximum.
    """

    tokens: torch.Tensor
    broken: torch.Tensor


@torch.inference_mode()
def sample_step(
    logits: torch.Tensor, draws: list[Draw], known: list[KnownToken]
) -> tuple[list[Sample], list[TokenLogprob]]:
    """All that a step wants of its float32 ``[rows, vocab]`` logits, with one wait for the device."""
    if not draws and not known:
        return [], []
    states = [draw.state for draw in draws]
    batch = sample_batch(_select(logits, [draw.row for draw in draws]), states)
    tensors = [batch.tokens, batch.broken]
    scored = [i for i, state in enumerate(states) if state.params.logprobs is not None]
    tops = [states[i].params.logprobs or 0 for i in scored] + [token.num_top for token in known]
    if tops:
        rows = [draws[i].row for i in scored] + [token.row for token in known]
        prompt_tokens = _upload([token.token for token in known], torch.int64, logits.device)
        tensors += score(logits, rows, torch.cat([_select(batch.tokens, scored), prompt_tokens]), any(tops))
    per_loop = [i for i, draw in enumerate(draws) for _ in draw.loop_logits]
    if per_loop:
        tensors += _score_loops(draws, _select(batch.tokens, per_loop))
    tokens, broken, *scores = to_host(tensors)
    by_loop: dict[int, tuple[list[float], list[int]]] = {}
    if per_loop:
        best, logprobs = scores.pop().tolist(), scores.pop().tolist()
        for i, logprob, token in zip(per_loop, logprobs, best, strict=True):
            of_loops = by_loop.setdefault(i, ([], []))
            of_loops[0].append(logprob)
            of_loops[1].append(token)
    entries = _entries(scores, tops) if tops else []
    drawn = dict(zip(scored, entries, strict=False))
    samples = [
        Sample(None, None) if is_broken else Sample(token, drawn.get(i), *by_loop.get(i, ()))
        for i, (token, is_broken) in enumerate(zip(tokens.tolist(), broken.tolist(), strict=True))
    ]
    return samples, entries[len(scored) :]


def _score_loops(draws: list[Draw], tokens: torch.Tensor) -> list[torch.Tensor]:
    """Of each of the draws' `loop_logits`, in order: the log-probability of its one of `tokens`, and its best token."""
    logits = torch.stack([row for draw in draws for row in draw.loop_logits])
    scored = score(logits, list(range(len(logits))), tokens, with_top=False)[1]
    return [scored, logits.max(dim=1).indices]


def sample_batch(logits: torch.Tensor, states: list[SamplingState]) -> SampledBatch:
    """Choose the next token of each row of float32 ``[n, vocab]`` logits; row i belongs to ``states[i]``."""
    adjusted = adjust(logits, states)
    peaks = adjusted.max(dim=1)  # the first of equals, as argmax, but faster on a CPU
    broken = peaks.values - peaks.values != 0  # NaN - NaN and inf - inf are NaN, which differs from 0
    if all(state.params.greedy for state in states):
        return SampledBatch(peaks.indices, broken)
    groups: dict[Callable[[torch.Tensor, list[SamplingState]], torch.Tensor], list[int]] = {}
    for row, state in enumerate(states):
        groups.setdefault(_method(state.params), []).append(row)
    tokens = torch.empty(len(states), dtype=torch.int64, device=logits.device)
    for choose, rows in groups.items():
        chosen = choose(_select(adjusted, rows), [states[row] for row in rows])
        if len(groups) == 1:
            return SampledBatch(chosen, broken)
        tokens.index_copy_(0, _upload(rows, torch.int64, logits.device), chosen)
    return SampledBatch(tokens, broken)


def adjust(logits: torch.Tensor, states: list[SamplingState]) -> torch.Tensor:
    """Bias, penalties, minimum lengths and grammars of the rows that have any; the caller's logits are left alone."""
    rows = [row for row, state in enumerate(states) if state.adjusts]
    if not rows:
        return logits
    adjusted = logits.clone()
    for row in rows:
        _adjust_row(adjusted[row], states[row])
    masks = {row: state.grammar.mask for row, state in enumerate(states) if state.grammar is not None}
    if masks:
        apply_masks(adjusted, list(masks), list(masks.values()))
    return adjusted


def score(
    logits: torch.Tensor, rows: list[int], tokens: torch.Tensor, with_top: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities under raw logits.

    Every row gets as many best tokens as any request may want: with fewer, which of two equal ones is listed could
    depend on what the rest of the batch wants.

    Args:
        logits: float32 ``[*, vocab]``.
        rows: the m rows of `logits` to use.
        tokens: int64 ``[m]`` on the device.

    Returns:
        `tokens`, their float32 ``[m]`` log-probabilities, and the best tokens, best first, as int64 ids and float32
        log-probabilities, each ``[m, MAX_LOGPROBS]`` (or vocab, if that is less; or 0 without `with_top`).
    """
    vocab_size = logits.shape[1]
    num_top = min(MAX_LOGPROBS, vocab_size) if with_top else 0
    index = _upload(rows, torch.int64, logits.device)
    chosen, top_ids, top = [], [], []
    for some_rows, some_tokens in zip(index.split(SCORED_ROWS), tokens.split(SCORED_ROWS), strict=True):
        logprobs = _aligned(logits.index_select(0, some_rows)).log_softmax(dim=1)
        best = logprobs[:, :vocab_size].topk(num_top)
        chosen.append(logprobs.gather(1, some_tokens.unsqueeze(1)).squeeze(1))
        top_ids.append(best.indices)
        top.append(best.values)
    return tokens, torch.cat(chosen), torch.cat(top_ids), torch.cat(top)


def to_host(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Bring tensors of one device to the CPU in one copy."""
    if tensors[0].device.type == "cpu":
        return list(tensors)
    return unpack(pack(tensors).cpu(), tensors)


def pack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """One float64 vector, which holds token ids, float32 and bool exactly."""
    return torch.cat([tensor.flatten().double() for tensor in tensors])


def unpack(packed: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Undo `pack`: tensors of the shapes and dtypes of `like`, on the device of `packed`."""
    parts = packed.split([tensor.numel() for tensor in like])
    return [part.view(t.shape).to(t.dtype) for part, t in zip(parts, like, strict=True)]


def _upload(values: Sequence[object], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """`values` on the device without waiting for it, which copying from pageable memory would do."""
    tensor = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return tensor.to(device, non_blocking=True)


def _select(rows_of: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Some rows of a tensor; no copy if that is all of them."""
    if rows == list(range(len(rows_of))):
        return rows_of
    return rows_of.index_select(0, _upload(rows, torch.int64, rows_of.device))


def _aligned(logits: torch.Tensor) -> torch.Tensor:
    """Columns of -inf added until every row starts at 16 bytes.

    CUDA's softmax adds up a row in an order that depends on the alignment of its address, and so, with an odd number
    of columns, on the number of rows before it (PyTorch, aten/src/ATen/native/cuda/SoftMax.cu, `ilpReduce`).
    """
    missing = -logits.shape[1] % ALIGNED_COLUMNS
    return functional.pad(logits, (0, missing), value=-torch.inf) if missing else logits


def _adjust_row(logits: torch.Tensor, state: SamplingState) -> None:
    """Change ``[vocab]`` logits in place: bias, penalties (as OpenAI and CTRL, arXiv 1909.05858, define them), mask."""
    params = state.params
    if state.bias is not None:
        ids, values = state.bias
        logits[ids] += values
    if state.repetition is not None:
        torch.where(logits > 0, logits / state.repetition, logits * state.repetition, out=logits)
    if state.output_counts is not None:
        logits -= params.frequency_penalty * state.output_counts
        logits -= params.presence_penalty * (state.output_counts > 0)
    if state.masks_stops:
        assert state.stop_ids is not None
        logits.index_fill_(0, state.stop_ids, -torch.inf)


def _method(params: SamplingParams) -> Callable[[torch.Tensor, list[SamplingState]], torch.Tensor]:
    """How tokens are chosen: ``[m, vocab]`` logits and m states → int64 ``[m]``."""
    if params.greedy:
        return _best
    return _draw_filtered if params.top_k or params.top_p < 1.0 or params.min_p > 0.0 else _draw


def _best(logits: torch.Tensor, states: list[SamplingState]) -> torch.Tensor:
    return logits.max(dim=1).indices


def _draw(logits: torch.Tensor, states: list[SamplingState]) -> torch.Tensor:
    """Draw from the whole vocabulary, without sorting it."""
    cumulative = _fixed_point(_probabilities(logits, states)).cumsum_(dim=1)
    return _invert(cumulative, cumulative[:, -1:], states).squeeze(1)


def _draw_filtered(logits: torch.Tensor, states: list[SamplingState]) -> torch.Tensor:
    """Draw after top-k, top-p and min-p, in that order; each keeps some of the most probable tokens."""
    probs, ids = _probabilities(logits, states).sort(dim=1, descending=True, stable=True)
    fixed = _fixed_point(probs)
    cumulative = fixed.cumsum(dim=1)
    most = [[min(state.params.top_k or logits.shape[1], logits.shape[1])] for state in states]
    top_k = _upload(most, torch.int64, logits.device)
    limits = [[state.params.top_p, state.params.min_p] for state in states]
    top_p, min_p = _upload(limits, torch.float64, logits.device).split(1, dim=1)
    enough = top_p * cumulative.gather(1, top_k - 1)
    within_p = torch.searchsorted(
        cumulative - fixed, enough
    )  # how many have less than `enough` ahead of them
    above_min = (probs >= min_p * probs[:, :1]).sum(dim=1, keepdim=True)
    kept = top_k.minimum(within_p).minimum(above_min).clamp_(min=1)  # a broken row keeps none
    return ids.gather(1, _invert(cumulative, cumulative.gather(1, kept - 1), states)).squeeze(1)


def _probabilities(logits: torch.Tensor, states: list[SamplingState]) -> torch.Tensor:
    """float64 ``[m, aligned vocab]``, after temperature."""
    scaled = _aligned(logits).double()
    temperatures = [[state.params.temperature] for state in states]
    if temperatures != [[1.0]] * len(states):  # dividing by 1 changes nothing
        scaled.div_(_upload(temperatures, torch.float64, logits.device))
    return scaled.softmax(dim=1)


def _fixed_point(probs: torch.Tensor) -> torch.Tensor:
    """Probabilities as multiples of 2**-52.

    float64 holds their sums below 2 exactly, so the order of additions can't show. CUDA's scan has another order for
    another number of rows, and for a single row one that changes from run to run (PyTorch,
    aten/src/ATen/native/cuda/ScanUtils.cuh, `scan_dim`).
    """
    return (probs + 1.0).sub_(1.0)


def _invert(cumulative: torch.Tensor, total: torch.Tensor, states: list[SamplingState]) -> torch.Tensor:
    """int64 ``[m, 1]``: index of the first entry above each row's share of `total` ``[m, 1]``."""
    shares = [[uniform(state.params.seed, state.num_outputs)] for state in states]
    target = _upload(shares, torch.float64, total.device) * total
    index = torch.searchsorted(cumulative, target, right=True)
    return index.clamp_(max=cumulative.shape[1] - 1)  # only a broken row's target lies above all entries


def _entries(scores: list[torch.Tensor], tops: list[int]) -> list[TokenLogprob]:
    """What `score` returned, now on the host, cut to the number of best tokens that each row wants."""
    columns = [tensor.tolist() for tensor in scores]
    return [
        TokenLogprob(token, logprob, list(zip(ids[:count], values[:count], strict=True)))
        for token, logprob, ids, values, count in zip(*columns, tops, strict=True)
    ]
