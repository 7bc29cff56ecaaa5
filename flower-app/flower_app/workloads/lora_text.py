"""`lora-text`: is a sentence meant kindly? MiniLM with adapters, on sentences of four domains: one for each of four sites."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification

from flower_app.config import ConfigValue
from flower_app.workloads.data_dirs import data_dirs
from flower_app.workloads.language import LanguageModel
from flower_app.workloads.sentiment import load_sentiment
from flower_app.workloads.texts import Texts, Tokens

ATTENTION = ("query", "key", "value", "attention.output.dense")


class LoraText(LanguageModel):
    """Six layers, 22.7 million parameters, of which 295 682 are trained at rank 16: the attention's adapters and the head."""

    name = "lora-text"
    kind = AutoModelForSequenceClassification
    form: ClassVar[Mapping[str, Any]] = {"num_labels": 2}
    task = "SEQ_CLS"
    head = ("classifier", "score")
    length = 64
    has_labels = True
    classes = 2
    how_to_get = "fetch it with `python -m flower_app.fetch lora-text`"
    defaults: ClassVar[Mapping[str, ConfigValue]] = {
        "base-model": "all-MiniLM-L6-v2",
        "lr": 1e-3,
        "optimizer": "adamw",
        "batch-size": 16,
        "local-steps": 15,
        "partitioner": "natural",
    }

    def texts(self) -> Texts:
        """Give the sentences, whose groups are the four domains. Raises DataMissing."""
        return load_sentiment(data_dirs())

    def tokens(self, texts: Texts) -> Tokens:
        """Cut the sentences into word pieces."""
        tokenizer = self.pretrained.tokenizer
        ids = tokenizer(list(texts.texts), truncation=True, max_length=self.pretrained.max_length)["input_ids"]
        return Tokens(ids, tokenizer.pad_token_id or 0, [0] * len(ids))

    def targets(self, base: torch.nn.Module) -> Sequence[str] | None:
        """Adapt the attention's four layers, where the model names them as BERT does."""
        names = [name for name, _ in base.named_modules()]
        return ATTENTION if all(any(name.endswith(target) for name in names) for target in ATTENTION) else None

    def loss(
        self, model: torch.nn.Module, batch: dict[str, torch.Tensor], labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Give the cross-entropy of the two classes."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
        return cross_entropy(logits, labels), (logits.argmax(1) == labels).sum(), len(labels)
