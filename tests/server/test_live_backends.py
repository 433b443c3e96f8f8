"""A server on the Triton kernels, in the interpreter, gives the tokens of one on the reference backend."""

from tests.make_checkpoint import make_checkpoint, random_config
from tests.server.live import live_server


def test_triton_and_reference_servers_agree(tmp_path):
    make_checkpoint(tmp_path, random_config(plt_num_loops=3), seed=3)
    answers = {}
    for backend in ("reference", "triton"):
        with live_server(tmp_path, "--attention-backend", backend, "--max-num-seqs", "4") as server:
            completions = server.client().completions
            choices = [
                completions.create(
                    model=tmp_path.name,
                    prompt=prompt,
                    max_tokens=6,
                    temperature=temperature,
                    seed=7,
                    logprobs=1,
                ).choices[0]
                for prompt in ([5, 6, 7], list(range(40, 75)))
                for temperature in (0.0, 1.0)
            ]
            answers[backend] = [choice.logprobs.tokens for choice in choices]
    assert answers["triton"] == answers["reference"]
    assert all(answers["triton"])
