"""`/v1/models`, `/tokenize`, `/detokenize` and `/tokenizer_info`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from server.state import AppState
from tests.make_checkpoint import CHAT_TEMPLATE
from tests.server.fim_tokenizers import tokenizer_with
from tests.server.played import EOS, MAX_MODEL_LEN, Played, tokens

Make = Callable[..., Played]


def ask(server: Played, path: str, body: Any) -> dict[str, Any]:
    response = server.ask(path, body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_the_one_model_is_listed_with_its_length(played: Make) -> None:
    answer = played().ask("/v1/models", method="GET").json()
    (card,) = answer["data"]
    assert answer["object"] == "list"
    assert (card["id"], card["object"], card["owned_by"]) == ("tiny", "model", "loopserve")
    assert card["max_model_len"] == MAX_MODEL_LEN
    assert isinstance(card["created"], int)
    assert played().ask("/v1/models/tiny", method="GET").json()["id"] == "tiny"


def test_models_are_listed_while_loading(played: Make) -> None:
    assert played(ready=False).ask("/v1/models", method="GET").status_code == 200


def test_an_id_with_a_slash_is_found(played: Make) -> None:
    server = played()
    server.served_name = "owner/name"
    assert server.ask("/v1/models/owner/name", method="GET").json()["id"] == "owner/name"


def test_text_to_tokens_and_back(played: Make) -> None:
    text = "é <|im_end|>"
    answer = ask(played(), "/tokenize", {"prompt": text, "model": "tiny", "return_token_strs": True})
    assert answer["tokens"] == [*tokens("é "), 4]
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == MAX_MODEL_LEN
    assert answer["token_strs"][-2:] == [" ", "<|im_end|>"]
    assert ask(played(), "/detokenize", {"tokens": answer["tokens"]}) == {"prompt": text}


def test_messages_to_tokens(played: Make) -> None:
    messages = [{"role": "user", "content": "a"}]
    answer = ask(played(), "/tokenize", {"messages": messages})
    assert answer["tokens"] == [3, *tokens("user\na"), 4, *tokens("\n"), 3, *tokens("assistant\n")]
    assert "token_strs" not in answer
    bare = ask(played(), "/tokenize", {"messages": messages, "add_generation_prompt": False})
    assert bare["tokens"] == answer["tokens"][: bare["count"]]
    assert bare["count"] < answer["count"]


def test_the_count_is_what_a_completion_reports(played: Make) -> None:
    count = ask(played(), "/tokenize", {"prompt": "def f():\n"})["count"]
    usage = ask(played(), "/v1/completions", {"prompt": "def f():\n"})["usage"]
    assert usage["prompt_tokens"] == count


@pytest.mark.parametrize("body", [{}, {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}])
def test_a_text_or_messages(played: Make, body: dict[str, Any]) -> None:
    assert played().ask("/tokenize", body).status_code == 400


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_another_model_is_404(played: Make, path: str) -> None:
    response = played().ask(path, {"prompt": "a", "tokens": [9], "model": "gpt"})
    assert response.json()["error"]["code"] == "model_not_found"
    assert response.status_code == 404


def test_tokens_work_while_the_engine_loads(played: Make) -> None:
    assert ask(played(ready=False), "/tokenize", {"prompt": "abc"})["count"] == 3


def test_the_tokenizer_describes_itself(played: Make) -> None:
    info = played().ask("/tokenizer_info", method="GET").json()
    assert (info["bos_token"], info["eos_token"]) == ("<s>", "</s>")
    assert info["pad_token"] is None
    assert info["chat_template"] == CHAT_TEMPLATE
    assert (info["model_max_length"], info["fill_in_the_middle"]) == (MAX_MODEL_LEN, True)


def test_a_tokenizer_without_special_tokens_says_null(played: Make) -> None:
    def bare(state: AppState) -> AppState:
        return replace(state, tokenizer=tokenizer_with(), chat_template=None)

    def no_ends(state: AppState) -> AppState:
        state = bare(state)
        state.tokenizer.eos_token_id = None
        return state

    info = played(change=bare).ask("/tokenizer_info", method="GET").json()
    assert (info["eos_token"], info["chat_template"], info["fill_in_the_middle"]) == ("</s>", None, False)
    info = played(change=no_ends).ask("/tokenizer_info", method="GET").json()
    assert info["eos_token"] == "</s>", "the first of the model's ends"


def test_lm_evals_way_of_asking(played: Make) -> None:
    """Its remote tokenizer encodes the special tokens that it was told of."""
    server = played()
    info = server.ask("/tokenizer_info", method="GET").json()
    answer = ask(server, "/tokenize", {"prompt": info["eos_token"], "add_special_tokens": False})
    assert answer["tokens"] == [EOS]
