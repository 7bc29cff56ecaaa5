"""A run's base model: its form, its weights and its tokenizer, each read once."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer

from flower_app.config import ConfigError, RunConfig
from flower_app.workloads.base_models import find_base_model

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

PLAIN: Mapping[str, Any] = {"trust_remote_code": False}
"""No code of a model's own is run."""


class Pretrained:
    """A model of transformers in a folder or at the hub, read as the run config says: so many layers, such a length."""

    def __init__(self, config: RunConfig, kind: Any, how_to_get: str, form: Mapping[str, Any], length: int) -> None:
        """kind: a class of transformers, AutoModelFor…. how_to_get: as a clause. form: what its config has besides.

        length: the tokens of a text that are read where the run does not say it.
        """
        self._config, self._kind, self._how, self._form, self._length = config, kind, how_to_get, form, length
        self.name = config.base_model

    @cached_property
    def form(self) -> Any:
        """Give its config. Raises ConfigError, DataMissing, HubUnreachable.

        With adapters nothing is dropped out of the layers that stay as they are: measured on MiniLM, 8 % less time a step and an
        accuracy of 0.83 instead of 0.73 after two rounds. lora-dropout is the adapters' own.
        """
        form = self._plainly(AutoConfig.from_pretrained, find_base_model(self.name, self._how, weights=False), **self._form)
        if self._config.num_layers:
            form.num_hidden_layers = min(self._config.num_layers, form.num_hidden_layers)
        if self._config.lora_r:
            for name, value in vars(form).items():
                if "drop" in name and isinstance(value, float):
                    setattr(form, name, 0.0)
        return form

    @cached_property
    def max_length(self) -> int:
        """Give the tokens of a text that are read: max-length, or where that is 0 the workload's own, as far as the model reads.

        Raises ConfigError.
        """
        wanted, longest = self._config.max_length, getattr(self.form, "max_position_embeddings", None)
        if longest and wanted > longest:
            raise ConfigError(f"max-length is {wanted}, and base-model {self.name} reads {longest} tokens at most")
        return wanted or min(self._length, longest or self._length)

    @property
    def is_cut(self) -> bool:
        """Are there layers that are left out?"""
        return self._config.num_layers > 0

    @cached_property
    def tokenizer(self) -> Any:
        """Give its tokenizer."""
        return self._plainly(AutoTokenizer.from_pretrained, find_base_model(self.name, self._how, weights=False))

    @cached_property
    def num_parameters(self) -> int:
        """Count its weights, those that two layers share once."""
        return sum(parameter.numel() for parameter in self.bare().parameters())

    def bare(self) -> torch.nn.Module:
        """Make it without weights: names and shapes."""
        with torch.device("meta"):
            bare: torch.nn.Module = self._plainly(self._kind.from_config, self.form)
        return bare

    def loaded(self, device: torch.device, new: tuple[str, ...]) -> torch.nn.Module:
        """Read its weights into the CPU's memory: float32, or as in its files where adapters are trained on a GPU with amp.

        new: beginnings of the names that are drawn anew, by the run's seed, and travel. Raises ConfigError where the files lack
        others: with adapters these would be other ones at each site, and stay so.
        """
        as_in_file = device.type == "cuda" and self._config.amp == "auto" and self._config.lora_r > 0
        how = {"use_safetensors": True, "dtype": "auto" if as_in_file else torch.float32, "output_loading_info": True}
        folder = find_base_model(self.name, self._how, weights=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._config.seed)
            model, told = self._plainly(self._kind.from_pretrained, folder, config=self.form, **how)
        lacking = sorted(name for name in told["missing_keys"] if not name.startswith(new))
        if lacking and self._config.lora_r:
            raise ConfigError(
                f"base-model {self.name} has no weights for {lacking[0]}, and what is not trained cannot be drawn at random: "
                "choose a model that has them, or lora-r = 0, which trains and sends everything"
            )
        whole: torch.nn.Module = model
        return whole

    def _plainly(self, read: Any, source: Any, **how: Any) -> Any:
        try:
            return read(source, **how, **PLAIN)
        except ValueError as error:  # of an architecture that transformers does not know, or that wants code of its own
            raise ConfigError(f"base-model {self.name} cannot be used: {str(error).strip().splitlines()[0]}") from error
