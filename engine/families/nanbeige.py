"""Nanbeige 4.2: Llama's layers run `num_loops` times, each loop with keys and values of its own.

Its config class has many more ideas than the released models use (LoopSplit, hyper-connections, depth attention,
n-gram embeddings); a config that switches one on is refused.
"""

from engine.config_fields import Fields, shown
from engine.errors import ConfigError
from engine.families.family import MAX_LOOPS, ROTARY_BUFFERS, Family, LoopSpec, llama_layers
from scheduler.loop_layout import LoopCache


def _loops(fields: Fields) -> LoopSpec:
    return LoopSpec(
        num_loops=_num_loops(fields),
        offset=0,
        window=0,
        emb_scale=0.0,
        hidden_scale=1.0,
        normalize_per_loop=not fields.boolean("skip_loop_final_norm", False),
        gate_on_hidden=False,
        cache=LoopCache.OWN,
    )


def _num_loops(fields: Fields) -> int:
    """Training's loss weights, one for every loop but the last, win over `num_loops`, as in the released class."""
    weights = fields.values.get("loop_loss_weights")
    if weights is None or weights == []:
        return fields.optional_integer("num_loops", 1, MAX_LOOPS) or 1
    if not isinstance(weights, list) or len(weights) >= MAX_LOOPS:
        raise ConfigError(
            f"config.json: loop_loss_weights must be a list of at most {MAX_LOOPS - 1} numbers, "
            f"got {shown(weights)}."
        )
    return len(weights) + 1


_OFF = (None, False)
FAMILY = Family(
    model_types=("nanbeige",),
    parse_loops=_loops,
    parse_layers=llama_layers,
    keys=frozenset(
        [
            *("attention_bias", "mlp_bias", "num_loops", "loop_loss_weights", "skip_loop_final_norm"),
            # How what `off` switches off would work.
            *("emb_split_num", "emb_tp_num", "skip_ngram_for_input", "ngram_vocab_size_ratio"),
            *("ngram_mod_force_prime", "ngram_embedding_hidden_size", "ngram_fused_mode"),
            *("ngram_compressed_tokenizer", "ngram_layer_downproject_size", "loop_middle_layers"),
            *("num_residual_streams", "mhc_sinkhorn_iterations", "mhc_init_gating_factor"),
            *("depth_attention_stride", "depth_attention_recent_window"),
            "depth_attention_static_anchor_once",
        ]
    ),
    off={
        "emb_neighbor_num": (None,),
        "insert_ngram_layer_idx": (None, []),
        "ngram_insert_all_layers": _OFF,
        "enable_double_loop_split": _OFF,
        "loop_share_kv": _OFF,
        "enable_hyper_connection": _OFF,
        "enable_mhc": _OFF,
        "enable_h_res_identity": _OFF,
        "mhc_identity_nohresparam": _OFF,
        "mhc_diff_for_loop": _OFF,
        "mhc_double_stream_position_for_loop": (None,),
        "enable_depth_attention": _OFF,
    },
    rope_theta=10_000.0,
    unused_tensors=ROTARY_BUFFERS,
)
