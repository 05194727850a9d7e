"""A tokenizer of a few words, framed like BERT's or CLIP's, or bare like a language model's."""

from __future__ import annotations

from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]
WORDS = [*SPECIALS, "a", "red", "blue", "dog", "cat", "on", "the", "left", "of", "big", ",", "street"]
PAD, BEGIN, END, UNKNOWN = range(4)


def few_words(*, frame: bool, begin: bool = True, end: bool = True) -> PreTrainedTokenizerFast:
    """One token a word; `frame` puts begin and end around every text."""
    core = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    if frame:
        core.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
            single="<s> $A </s>", special_tokens=[("<s>", BEGIN), ("</s>", END)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>" if begin else None,
        eos_token="</s>" if end else None,
        clean_up_tokenization_spaces=False,
    )
