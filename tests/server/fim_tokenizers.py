"""Byte-level tokenizers with other special tokens than the test checkpoint's."""

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Library

from engine.token_vocabularies import JsonVocabulary
from engine.tokenizer import Tokenizer

MARKERS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
REPOSITORY_MARKERS = (*MARKERS, "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
FIRST_SPECIAL = 3  # after <unk>, <s> and </s>


def tokenizer_with(*special: str) -> Tokenizer:
    """One token per byte; the special ones have ids from `FIRST_SPECIAL` on, in order."""
    texts = ("<unk>", "<s>", "</s>", *special)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {text: index for index, text in enumerate((*texts, *letters))}
    library = Library(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in texts])
    return Tokenizer(JsonVocabulary(library.to_str()), bos_token_id=1, eos_token_id=2)
