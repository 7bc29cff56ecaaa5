"""Language models of a few thousand weights, made on the spot as the Hugging Face world has them, and texts to go with them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

GOOD, BAD = ("good", "great", "kind", "warm"), ("bad", "awful", "mean", "cold")
OTHERS = ("the", "film", "phone", "storm", "was", "is", "very", "today", "a", "and")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def tiny_bert(folder: Path) -> Path:
    """Make an encoder that has not learned anything, with its tokenizer."""
    vocabulary = _tokenizer(folder, around=("[CLS]", "[SEP]"))
    torch.manual_seed(0)
    form = BertConfig(
        vocab_size=vocabulary, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(form).save_pretrained(folder)
    return folder


def tiny_llama(folder: Path) -> Path:
    """Make a causal model that has not learned anything, with its tokenizer."""
    vocabulary = _tokenizer(folder, around=None)
    torch.manual_seed(0)
    form = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=64, max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    LlamaForCausalLM(form).save_pretrained(folder)
    return folder


def rated_sentences(folder: Path, of_each: int = 60) -> Path:
    """Write sentences of four domains as the VADER corpora have them: what is good is rated 2, what is bad -2."""
    folder.mkdir(parents=True)
    for domain, file in enumerate(("movieReviewSnippets", "nytEditorialSnippets", "tweets", "amazonReviewSnippets")):
        words = [(GOOD if number % 2 else BAD)[(number // 2 + domain) % 4] for number in range(of_each)]
        subject = OTHERS[1 + domain % 3]
        lines = [
            f"{number}\t{2.0 if word in GOOD else -2.0}\tthe {subject} was {'very ' * (number % 3)}{word} today"
            for number, word in enumerate(words)
        ]
        lines += ["900\t0.1\tthe film is a film", "901\t-0.4\tthe storm is a storm"]
        mark = "\ufeff" if domain == 3 else ""
        (folder / f"{file}_GroundTruth.txt").write_text(mark + "\n".join(lines) + "\n", "utf-8")
    return folder


def own_texts(folder: Path) -> Path:
    """Write texts of three files, one of them with prompts."""
    folder.mkdir(parents=True)
    (folder / "letters.txt").write_text("\n\n".join(f"the {word} storm was very {word}" for word in GOOD * 8))
    (folder / "notes.jsonl").write_text("".join(json.dumps({"text": f"a {word} phone today"}) + "\n" for word in BAD * 8))
    asked = [{"prompt": f"the film was {word} and", "completion": f" very {word}"} for word in GOOD * 8]
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    return folder


def _tokenizer(folder: Path, around: tuple[str, str] | None) -> int:
    words = [*SPECIAL, *GOOD, *BAD, *OTHERS]
    ids = {word: number for number, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if around:
        first, last = around
        made.post_processor = processors.TemplateProcessing(f"{first} $A {last}", None, [(each, ids[each]) for each in around])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]")
    fast.save_pretrained(folder)
    return len(words)
