"""A site's own examples from a safetensors file of its data folders, where no code of anybody's reads them."""

from pathlib import Path

from flower_app.config import ConfigError, RunConfig
from flower_app.tensor_file import read_tensors, safetensors
from flower_app.workloads.data_dirs import data_dirs, find_data, see_that_it_stays_below
from flower_app.workloads.guards import DataUnfit
from flower_app.workloads.partition import Examples
from flower_app.workloads.site_examples import SiteExamples

SUFFIX = ".safetensors"


class TensorExamples(SiteExamples):
    """`dataset` names the file: x of any float, (examples, features), y of whole numbers, (examples,), and if you like groups."""

    name = "tensors"

    def __init__(self, config: RunConfig) -> None:
        """Raises ConfigError."""
        super().__init__(config)
        see_that_it_stays_below(config.dataset)
        if not config.dataset.endswith(SUFFIX):
            raise ConfigError(f"dataset {config.dataset!r} is neither one that is built in nor the name of a {SUFFIX} file")

    def load(self, cache_dir: Path | None) -> Examples:
        """Give what the file holds. Raises DataMissing, DataUnfit; ConfigError where safetensors is not installed."""
        unreadable = safetensors().SafetensorError
        file = find_data(self.config.dataset, data_dirs(), "put the site's examples there, x and y in one safetensors file")
        if not file.is_file():  # a pipe would never end
            raise DataUnfit(f"{file} is no file")
        try:
            tensors, _ = read_tensors(file)
        except (unreadable, OSError) as error:
            raise DataUnfit(f"{file} is no safetensors file that can be read: {error}") from error
        if missing := {"x", "y"} - tensors.keys():
            raise DataUnfit(f"{file} has no {' and no '.join(sorted(missing))}: it holds {', '.join(tensors) or 'nothing'}")
        shapes = {name: tensors[name].shape for name in ("x", "y", "groups") if name in tensors}
        if len(shapes["x"]) != 2 or len(shapes["y"]) != 1:
            raise DataUnfit(
                f"{file}: x needs to be (examples, features) and y (examples,); they are {shapes['x']}, {shapes['y']}"
            )
        if len({shape[0] for shape in shapes.values()}) > 1:
            told = ", ".join(f"{name} {shape[0]}" for name, shape in shapes.items())
            raise DataUnfit(f"{file}: each has another number of examples: {told}")
        return Examples(tensors["x"], tensors["y"], tensors.get("groups"))
