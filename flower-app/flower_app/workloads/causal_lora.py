"""`causal-lora`: any causal language model of the Hugging Face world, with adapters, on a site's own texts.

The model is `base-model`: a folder below a data folder, or `organisation/name` of the hub. The texts are `dataset`: a file or a
folder below a data folder, of `.txt` (an example a paragraph) and `.jsonl` (`text`, or `prompt` and `completion`, a line).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from flower_app.config import ConfigError, ConfigValue, RunConfig
from flower_app.workloads.data_dirs import data_dirs, find_data, see_that_it_stays_below
from flower_app.workloads.language import LanguageModel
from flower_app.workloads.text_files import read_texts
from flower_app.workloads.texts import IGNORED, Texts, Tokens

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


class CausalLora(LanguageModel):
    """The next token, of texts that each site has; the loss counts completions where a text has a prompt, else all of it."""

    name = "causal-lora"
    kind = AutoModelForCausalLM
    task = "CAUSAL_LM"
    length = 256
    has_labels = False
    classes = 1
    how_to_get = "put the model's folder there, or name organisation/name of the hub"
    defaults: ClassVar[Mapping[str, ConfigValue]] = {
        "lr": 1e-3,
        "optimizer": "adamw",
        "batch-size": 8,
        "local-steps": 20,
        "partitioner": "natural",
    }

    def __init__(self, config: RunConfig) -> None:
        """Raises ConfigError."""
        super().__init__(config)
        if not self.config.base_model:
            raise ConfigError("base-model is empty: causal-lora needs a folder below DATA_DIRS, or organisation/name of the hub")
        if not self.config.dataset:
            raise ConfigError("dataset is empty: causal-lora needs a file or folder of .txt or .jsonl below DATA_DIRS")
        see_that_it_stays_below(self.config.dataset)

    def texts(self) -> Texts:
        """Give all texts, grouped by the file that they come from. Raises DataMissing, DataUnfit."""
        return read_texts(find_data(self.config.dataset, data_dirs(), "put the site's texts there, as .txt or .jsonl files"))

    def tokens(self, texts: Texts) -> Tokens:
        """Cut each text into tokens, with the end's token behind; a prompt's tokens are not counted."""
        tokenizer = self.pretrained.tokenizer
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        ids, counted_from = [], []
        for prompt, text in zip(texts.prompts or [None] * len(texts), texts.texts, strict=True):
            start = [] if prompt is None else tokenizer(prompt)["input_ids"]
            rest = tokenizer(text, add_special_tokens=prompt is None)["input_ids"]
            ids.append([*start, *rest, *end][: self.pretrained.max_length])
            counted_from.append(len(start))
        return Tokens(ids, tokenizer.pad_token_id or 0, counted_from)

    def targets(self, base: torch.nn.Module) -> Sequence[str] | None:
        """Adapt the attention's four projections, where the model names them as Llama does; else what peft knows of it."""
        names = {name.rpartition(".")[2] for name, _ in base.named_modules()}
        return ATTENTION if names.issuperset(ATTENTION) else None

    def loss(
        self, model: torch.nn.Module, batch: dict[str, torch.Tensor], labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Give the cross-entropy of each next token that counts, in nats a token; 0 where none does."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
        following = batch["labels"][:, 1:]
        counts = following != IGNORED
        count = int(counts.sum())
        loss = cross_entropy(logits.flatten(0, 1), following.flatten(), ignore_index=IGNORED, reduction="sum") / max(count, 1)
        return loss, ((logits.argmax(-1) == following) & counts).sum(), count
