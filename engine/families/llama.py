"""Llama and what is spelled like it: no loops."""

from engine.families.family import ROTARY_BUFFERS, Family, llama_layers, one_loop

FAMILY = Family(
    model_types=("llama",),
    parse_loops=one_loop,
    parse_layers=llama_layers,
    keys=frozenset(["attention_bias", "mlp_bias"]),
    rope_theta=10_000.0,
    unused_tensors=ROTARY_BUFFERS,
)
