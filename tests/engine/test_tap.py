"""What a tap sees is what the oracle computes, for every row, and looking changes nothing."""

from dataclasses import dataclass, field
from functools import cache

import pytest
import torch

from engine.runner import ModelRunner, StepLogits
from engine.tap import KeyReader, Tap
from scheduler.step_plan import StepPlan
from tests import oracle
from tests.engine.harness import Checkpoint, Driver, checkpoint
from tests.engine.test_decode_graphs import graphed

ATOL = 2e-4
Row = tuple[str, int, int]  # sequence, loop, position


@dataclass
class Everything:
    """A tap that copies all it is shown."""

    residuals: list[torch.Tensor] = field(default_factory=list)
    layer_gates: list[torch.Tensor] = field(default_factory=list)
    states: list[torch.Tensor] = field(default_factory=list)

    def residual(self, x: torch.Tensor) -> None:
        self.residuals.append(x.clone())

    def gates(self, gates: torch.Tensor) -> None:
        self.layer_gates.append(gates.clone())

    def queries(self, queries: torch.Tensor, read_keys: KeyReader) -> None:
        assert len(queries) == len(self.residuals[-1])

    def hidden(self, hidden: torch.Tensor, normed: torch.Tensor) -> None:
        self.states += [hidden.clone(), normed.clone()]


@dataclass
class Seen:
    """Per row of all passes, `[layers + 1, hidden]`, `[layers, heads]` (None without gates) and `[2, hidden]`."""

    rows: dict[Row, tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]] = field(default_factory=dict)

    def watch(self, runner: ModelRunner) -> None:
        run = runner.run

        def tapped(plan: StepPlan, tap: Tap | None = None) -> StepLogits:
            assert tap is None
            everything = Everything()
            result = run(plan, everything)
            self.add(plan, everything)
            return result

        runner.run = tapped  # type: ignore[method-assign]

    def add(self, plan: StepPlan, tap: Everything) -> None:
        residuals, states = torch.stack(tap.residuals), torch.stack(tap.states)
        gates = torch.stack(tap.layer_gates) if tap.layer_gates else None
        row = 0
        for segment in plan.segments:
            for position in range(segment.start, segment.stop):
                key = segment.sequence.sequence_id, segment.loop, position
                of_row = None if gates is None else gates[:, row]
                self.rows[key] = residuals[:, row], of_row, states[:, row]
                row += 1
        assert row == residuals.shape[1] == states.shape[1]


@cache
def model_of(loops: int, shift: int = 1, normalize: bool = True, on_hidden: bool = True) -> Checkpoint:
    return checkpoint(
        seed=loops,
        plt_num_loops=loops,
        plt_clp_shift=shift,
        plt_normalize_per_loop=normalize,
        plt_hidden_scale=0.9 if normalize else 0.2,
        plt_gate_use_hidden_states=on_hidden,
        plt_window_size=[3, 0],
    )


def prompt_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(8, 320, (length,), generator=generator).tolist()


def add_crowd(driver: Driver) -> dict[str, tuple[list[int], int]]:
    """Requests whose every position is exact in every loop; returns their prompts and loops."""
    most = driver.core.scheduler.layout.num_loops
    crowd = {
        f"{loops} of {length}": (prompt_of(length), loops)
        for loops in range(1, most + 1)
        for length in (1, 33)
    }
    for name, (prompt, loops) in crowd.items():
        driver.add(name, prompt, loops=loops, max_tokens=5, prompt_logprobs=0)
    return crowd


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("on_hidden", [True, False])
@pytest.mark.parametrize(
    ("loops", "shift", "normalize", "execution"),
    [
        *((loops, 1, True, "parallel") for loops in (1, 2, 3, 4)),
        *((3, shift, normalize, "parallel") for shift, normalize in ((0, True), (1, False), (0, False))),
        (3, 1, True, "sequential"),
    ],
)
def test_a_tap_sees_what_the_oracle_computes(loops, shift, normalize, execution, on_hidden, backend):
    model = model_of(loops, shift, normalize, on_hidden)
    driver = model.driver(execution=execution, attention_backend=backend, max_rows_per_step=17)
    seen = Seen()
    seen.watch(driver.core.model.runner)
    crowd = add_crowd(driver)
    answers = driver.run()
    for name, (prompt, budget) in crowd.items():
        tokens = prompt + answers[name].tokens
        truth = oracle.trace(model.config, model.tensors, tokens, budget)
        for loop in range(budget):
            for position in range(len(tokens) - 1):
                residuals, gates, (hidden, normed) = seen.rows.pop((name, loop, position))
                torch.testing.assert_close(
                    residuals.double(),
                    torch.stack([x[position] for x in truth.residuals[loop]]),
                    atol=ATOL,
                    rtol=ATOL,
                )
                torch.testing.assert_close(
                    hidden.double(), truth.hidden[loop][position], atol=ATOL, rtol=ATOL
                )
                head = model.tensors["lm_head.weight"].double()
                torch.testing.assert_close(
                    head @ normed.double(), truth.logits[loop][position], atol=ATOL, rtol=ATOL
                )
                if loop > 0:
                    expected = torch.stack([gate[position] for gate in truth.gates[loop]])
                    torch.testing.assert_close(gates.double(), expected, atol=ATOL, rtol=ATOL)
                else:
                    assert (gates is None) == (loops == 1)
    assert not seen.rows, "a row of nobody's"


@pytest.mark.parametrize("loops", [1, 2, 3])
def test_looking_changes_no_bit(loops):
    model = model_of(loops)

    def bits(look: bool) -> list[object]:
        driver = model.driver()
        if look:
            Seen().watch(driver.core.model.runner)
        for number in range(4):
            driver.add(
                str(number),
                prompt_of(7 + 9 * number, number),
                logprobs=3,
                temperature=number / 3,
                seed=number,
            )
        return [(answer.tokens, answer.logprobs) for answer in driver.run().values()]

    assert bits(look=True) == bits(look=False)


def test_a_pass_with_a_tap_is_no_replay():
    model = model_of(2)
    driver, stand_in = graphed(model)
    plain = model.driver().one(prompt_of(20), max_tokens=30, logprobs=1)
    Seen().watch(driver.core.model.runner)
    answer = driver.one(prompt_of(20), max_tokens=30, logprobs=1)
    assert stand_in.replayed == 0
    assert (answer.tokens, answer.logprobs) == (plain.tokens, plain.logprobs)


def test_the_first_of_two_ranks_sees_all_of_h_and_its_own_heads():
    model = model_of(3)
    whole, half = model.driver(), model.driver(tensor_parallel_size=2)
    seen = []
    for driver in (whole, half):
        of_this = Seen()
        of_this.watch(driver.core.model.runner)
        driver.one(prompt_of(30), prompt_logprobs=0)
        seen.append(of_this.rows)
    half.core.model.runner.followers.close()
    assert seen[0].keys() == seen[1].keys()
    for row, (residuals, gates, states) in seen[0].items():
        others, their_gates, their_states = seen[1][row]
        torch.testing.assert_close(others, residuals, atol=ATOL, rtol=ATOL)
        torch.testing.assert_close(their_states, states, atol=ATOL, rtol=ATOL)
        if row[1] > 0:
            torch.testing.assert_close(their_gates, gates[:, : gates.shape[1] // 2], atol=ATOL, rtol=ATOL)
