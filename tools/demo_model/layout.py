"""The JSON files around the weights, in the released LoopCoder-V2 layout."""

from __future__ import annotations

import json
from typing import Any

from tools.demo_model.network import NetworkConfig

END_ID, IM_END_ID = 0, 2  # <|endoftext|> and <|im_end|>: the order of tokenizer.SPECIAL_TOKENS
MAX_POSITIONS = 2048  # the longest training row

# ChatML. The tools part has the wording of the Hermes format, which tool-call parsers understand.
CHAT_TEMPLATE = r"""{%- set system = messages[0].content if messages and messages[0].role == 'system' else '' %}
{%- if tools is defined and tools %}
    {{- '<|im_start|>system\n' }}
    {%- if system %}{{- system + '\n\n' }}{%- endif %}
    {{- '# Tools\n\nYou may call one or more functions to assist with the user query.\n\n' }}
    {{- 'You are provided with function signatures within <tools></tools> XML tags:\n<tools>' }}
    {%- for tool in tools %}{{- '\n' + (tool | tojson) }}{%- endfor %}
    {{- '\n</tools>\n\nFor each function call, return a json object with function name and arguments within ' }}
    {{- '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": ' }}
    {{- '<args-json-object>}\n</tool_call><|im_end|>\n' }}
{%- elif system %}
    {{- '<|im_start|>system\n' + system + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- elif not (message.role == 'system' and loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + (message.content or '') }}
        {%- for call in (message.tool_calls | default([])) or [] %}
            {%- set function = call.function or call %}
            {%- set arguments = function.arguments if function.arguments is string else function.arguments | tojson %}
            {{- '\n<tool_call>\n{"name": "' + function.name + '", "arguments": ' + arguments + '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt is defined and add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""


def config_json(config: NetworkConfig) -> dict[str, Any]:
    """config.json: every key that the released config class knows."""
    return {
        "architectures": ["IQuestPLTCoderForCausalLM"],
        "model_type": "iquestpltcoder",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": [END_ID, IM_END_ID],
        "pad_token_id": END_ID,
        "plt_num_loops": config.plt_num_loops,
        "plt_window_size": [config.plt_window_left, 0],
        "plt_normalize_per_loop": True,
        "plt_emb_scale": config.plt_emb_scale,
        "plt_hidden_scale": config.plt_hidden_scale,
        "plt_gate_use_hidden_states": True,
        "torch_dtype": "bfloat16",
    }


def generation_json() -> dict[str, Any]:
    """generation_config.json: a little noise and a penalty, since greedy text of so small a model repeats itself."""
    return {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
        "eos_token_id": [END_ID, IM_END_ID],
        "pad_token_id": END_ID,
    }


def tokenizer_config_json(tokenizer_json: str) -> dict[str, Any]:
    """tokenizer_config.json for the added tokens that tokenizer.json declares."""
    added = json.loads(tokenizer_json)["added_tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added},
        "bos_token": None,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_POSITIONS,
        "chat_template": CHAT_TEMPLATE,
    }
