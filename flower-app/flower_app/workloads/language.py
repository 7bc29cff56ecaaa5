"""What workloads on pretrained language models share: which part is trained and travels, and how a model is scored.

With `lora-r` above 0 adapters and a new head are trained and travel, with 0 the whole model. A workload of this kind says its
texts, its kind of model and what is lost and won on a batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from peft import LoraConfig, PeftModel

from flower_app.config import ConfigError, ConfigValue, RunConfig
from flower_app.workloads import adapters, text_shares
from flower_app.workloads.base_models import HubUnreachable
from flower_app.workloads.data_dirs import DataMissing
from flower_app.workloads.devices import choose_device, model_at
from flower_app.workloads.guards import DataUnfit
from flower_app.workloads.interface import Arrays, EvalResult, Metrics, NodeEnv, TrainResult
from flower_app.workloads.memory import told_when_out_of_memory
from flower_app.workloads.partition import check_partitioner
from flower_app.workloads.pretrained import Pretrained
from flower_app.workloads.texts import Texts, Tokens
from flower_app.workloads.training import fit

CPU = torch.device("cpu")
TEST_TEXTS = 200
"""The most texts of each group that the server scores."""

EVALUATION_BATCH = 32
FLOAT32_BYTES = 4


class LanguageModel(ABC):
    """A pretrained transformer that is tuned on texts, by adapters or whole.

    kind: a class of transformers, AutoModelFor…; form: what its config has besides. task: peft's word for what it does.
    head: beginnings of the names of what is drawn anew. how_to_get: how the base model is got, as a clause. classes: the fewest
    labels that texts need. has_labels: is a text answered as a whole, or token by token? length: tokens of a text
    that are read where the run does not say it.
    """

    name: str
    kind: ClassVar[Any]
    form: ClassVar[Mapping[str, Any]] = {}
    task: ClassVar[str]
    head: ClassVar[tuple[str, ...]] = ()
    how_to_get: ClassVar[str]
    classes: ClassVar[int]
    has_labels: ClassVar[bool]
    length: ClassVar[int]
    defaults: ClassVar[Mapping[str, ConfigValue]]

    def __init__(self, config: RunConfig) -> None:
        """Raises ConfigError."""
        self.config = config.left_to(self.defaults)
        check_partitioner(self.config, self.name, None)
        self.pretrained = Pretrained(self.config, self.kind, self.how_to_get, self.form, self.length)
        self._built: tuple[int, Any] | None = None
        self._lacks_texts = False

    @abstractmethod
    def texts(self) -> Texts:
        """Give all texts of this machine, the test split among them. Raises DataMissing, DataUnfit."""

    @abstractmethod
    def tokens(self, texts: Texts) -> Tokens:
        """Cut texts into tokens, max-length of them at most."""

    @abstractmethod
    def targets(self, base: torch.nn.Module) -> Sequence[str] | None:
        """Name the layers to adapt where the run does not; None leaves them to peft."""

    @abstractmethod
    def loss(
        self, model: torch.nn.Module, batch: dict[str, torch.Tensor], labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Give a batch's mean loss, how many answers were right, and of how many; labels: those of the texts."""

    @cached_property
    def all_texts(self) -> Texts:
        """Give texts(), read once."""
        return self.texts()

    def initial_arrays(self) -> Arrays:
        """Draw the first adapters and head from the run's seed, without the base model's weights; or give it whole."""
        if not self.config.lora_r:
            return _state_of(self.pretrained.loaded(CPU, self.head))
        _ = self.pretrained.max_length  # refused before any site is asked
        arrays = adapters.first_arrays(self._shapes(), self.config.seed)
        return {name: values for name, values in arrays.items() if self._travels(name)}

    def products(self) -> list[tuple[str, str]]:
        """Pair the factors that travel; none where not both do."""
        if not self.config.lora_r:
            return []
        return [pair for pair in adapters.pairs_of(list(self._shapes())) if all(map(self._travels, pair))]

    def whole_model(self) -> tuple[int, int]:
        """Say how large the model is that full fine-tuning would train and send, in float32."""
        return self.pretrained.num_parameters, self.pretrained.num_parameters * FLOAT32_BYTES

    def prepare(self, env: NodeEnv) -> None:
        """Read model and texts, with this node's threads. Raises OutOfMemory and what these raise."""
        torch.set_num_threads(env.threads)
        self.own_texts(env)
        self.model(self._rank_of(env), choose_device(env.device))

    def train(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> TrainResult:
        """Train the arrived model on this site's texts but those held back."""
        device, rank = choose_device(env.device), self._rank_of(env)
        mine, _ = self.own_texts(env)
        tokens, labels = self._tokens_of(mine, env.node_name), torch.from_numpy(mine.labels)
        model = self.loaded(adapters.at_rank(arrays, rank) if rank else arrays, rank, device)

        def batch_loss(places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            loss, right, _ = self.loss(model, tokens.batch(places.tolist(), device), labels[places].to(device))
            return loss, right if self.has_labels else None

        with model_at(device, model):
            fitted = fit(model, batch_loss, len(mine), self.config, settings, env)
        with told_when_out_of_memory(CPU):
            trained = self._arrays_of(model)
        metrics = {**fitted.metrics, "trainable_share": self._share(trained), "whole_bytes": float(self.whole_model()[1])}
        return TrainResult(trained, fitted.num_examples, metrics, {**fitted.facts, "lora_r": rank})

    def evaluate(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> EvalResult:
        """Score the arrived model on texts of this site that are held back."""
        _, held = self.own_texts(env)
        scores = self._score(arrays, held, choose_device(env.device)) if len(held) else {}
        return EvalResult(len(held) if scores else 0, scores)

    def server_evaluate(self, arrays: Arrays) -> Metrics:
        """Score on the test split, TEST_TEXTS of each group at most: the mean over groups, and each one's accuracy.

        Nothing where the coordinator has no texts that can be scored, or sites have theirs to themselves.
        """
        return self._score_on_test(arrays, TEST_TEXTS)

    def quick_evaluate(self, arrays: Arrays, num_examples: int) -> Metrics:
        """Score on so many texts of the test split, as many of each group, the same ones in each round."""
        return self._score_on_test(arrays, num_examples, in_all=True)

    def own_texts(self, env: NodeEnv) -> tuple[Texts, Texts]:
        """Give this partition's texts to train on and those held back. Raises DataUnfit, DataMissing."""
        return text_shares.own_part(self.all_texts, self.config, env, self.classes)

    def export(self, arrays: Arrays, folder: Path, *, merged: bool) -> None:
        """Write adapters as peft's own files, or merged into the base model as transformers' own, with the tokenizer, in float32.

        Raises ConfigError, DataMissing, HubUnreachable, OutOfMemory.
        """
        if self.pretrained.is_cut and not merged:
            raise ConfigError("num-layers has cut the base model, which adapters alone do not tell: export it merged")
        model: Any = self.loaded(arrays, self.config.lora_r, CPU)
        if merged:
            self.pretrained.tokenizer.save_pretrained(folder)
            model.merge_and_unload().save_pretrained(folder)
        else:
            model.active_peft_config.base_model_name_or_path = self.config.base_model
            model.save_pretrained(folder, save_embedding_layers=False)

    def model(self, rank: int, device: torch.device) -> torch.nn.Module:
        """Make the model with adapters of a rank; 0: the whole model. Its weights are read once and serve each rank in turn.

        device: where it is to compute; it is made in the CPU's memory. Raises OutOfMemory, ConfigError.
        """
        with told_when_out_of_memory(CPU):
            if self._built is None or self._built[0] != rank:
                base = self.pretrained.loaded(device, self.head) if self._built is None else self._built[1].unload()
                self._built = rank, adapters.adapted(base, self._lora(base, rank)) if rank else base
        made: torch.nn.Module = self._built[1]
        return made

    def loaded(self, arrays: Arrays, rank: int, device: torch.device) -> torch.nn.Module:
        """Put arrays into the model of that rank."""
        model = self.model(rank, device)
        if isinstance(model, PeftModel):
            if self.config.lora_aggregation == "ffa":
                arrays = adapters.frozen_a(adapters.shapes_of(model)) | arrays
                adapters.freeze_a(model)
            adapters.put(model, arrays)
        else:
            left = model.load_state_dict({name: torch.from_numpy(np.array(each)) for name, each in arrays.items()}, strict=False)
            assert not left.unexpected_keys, left.unexpected_keys  # missing are those that two layers share
        return model

    def _lora(self, base: torch.nn.Module, rank: int) -> LoraConfig:
        named = [target.strip() for target in self.config.lora_targets.split(",") if target.strip()]
        return adapters.lora_config(self.config, rank, named or self.targets(base), self.task)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        base = self.pretrained.bare()
        with torch.device("meta"):
            return adapters.shapes_of(adapters.adapted(base, self._lora(base, self.config.lora_r)))

    def _travels(self, name: str) -> bool:
        return not (self.config.lora_aggregation == "ffa" and name.endswith(adapters.A))

    def _share(self, trained: Arrays) -> float:
        """Give the share of all weights that is trained, as peft counts: adapters and new head are some of them."""
        size = sum(values.size for values in trained.values())
        return size / (self.pretrained.num_parameters + size) if self.config.lora_r else 1.0

    def _rank_of(self, env: NodeEnv) -> int:
        """Give this site's rank, lora-r of its node config; the run's, where it says none. Raises ConfigError."""
        most, how = self.config.lora_r, self.config.lora_aggregation
        rank = env.node_config.get("lora-r", most)
        if rank == most:
            return most
        if not most:
            raise ConfigError(
                f'lora-r of node "{env.node_name}" is {rank!r}, and the run has lora-r 0: it trains the whole model'
            )
        if type(rank) is not int or not 1 <= rank < most:
            raise ConfigError(f'lora-r of node "{env.node_name}" needs to lie in 1..{most}, the run\'s, got {rank!r}')
        if how != "svd":
            raise ConfigError(f'lora-r of node "{env.node_name}" is {rank}, and lora-aggregation {how} needs the run\'s, {most}')
        return rank

    def _tokens_of(self, texts: Texts, where: str) -> Tokens:
        tokens = self.tokens(texts)
        if not any(start < len(ids) for start, ids in zip(tokens.counted_from, tokens.ids, strict=True)):
            raise DataUnfit(
                f'node "{where}": no token of {len(texts)} texts counts within max-length {self.pretrained.max_length}'
            )
        return tokens

    def _arrays_of(self, model: torch.nn.Module) -> Arrays:
        arrays = adapters.taken(model) if isinstance(model, PeftModel) else _state_of(model)
        return {name: values for name, values in arrays.items() if self._travels(name)}

    def _score_on_test(self, arrays: Arrays, most: int, *, in_all: bool = False) -> Metrics:
        if self._lacks_texts:
            return {}
        device = choose_device(self.config.device)
        try:
            groups = text_shares.test_groups(self.all_texts, self.config, most, in_all=in_all)
            found = {group: self._score(arrays, texts, device) for group, texts in groups.items()}
        except (DataMissing, DataUnfit, HubUnreachable) as error:
            print(f"the server scores no model: {error}", flush=True)
            self._lacks_texts = True
            return {}
        scores = {group: score for group, score in found.items() if score}
        if len(scores) < 2:
            return next(iter(scores.values()), {})
        means = {name: float(np.mean([score[name] for score in scores.values()])) for name in ("loss", "accuracy")}
        return means | {f"accuracy_{group}": score["accuracy"] for group, score in scores.items()}

    def _score(self, arrays: Arrays, texts: Texts, device: torch.device) -> Metrics:
        """Give loss and accuracy; nothing where no token counts."""
        model = self.loaded(arrays, self.config.lora_r, device).eval()
        tokens, labels = self.tokens(texts), torch.from_numpy(texts.labels)
        losses, right, count = 0.0, 0, 0
        with model_at(device, model), torch.inference_mode(), told_when_out_of_memory(device):
            for places in tokens.by_length(EVALUATION_BATCH):
                loss, hits, answers = self.loss(model, tokens.batch(places, device), labels[places].to(device))
                losses, right, count = losses + loss.item() * answers, right + int(hits), count + answers
        return {"loss": losses / count, "accuracy": right / count} if count else {}


def _state_of(model: torch.nn.Module) -> Arrays:
    """Give the whole state, float32; an array that two layers share is there once."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for name, values in model.state_dict().items():
        found.setdefault(values.data_ptr(), (name, values))
    return {
        name: values.detach().to("cpu", torch.float32 if values.is_floating_point() else None, copy=True).numpy()
        for name, values in found.values()
    }
