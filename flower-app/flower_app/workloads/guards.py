"""What is looked at before a site trains on its data: each fault is a sentence that names the node.

For plug-ins too: check_examples() for arrays, check_labels() where there is no x, as with texts, and check_model() for both.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flower_app.workloads.partition import Examples, Indices

if TYPE_CHECKING:
    import torch


class DataUnfit(ValueError):
    """A site's data cannot be trained on."""


def check_examples(examples: Examples, node_name: str, classes: int = 2) -> None:
    """Look at labels and values. Raises DataUnfit as check_labels() and check_values() do."""
    check_labels(examples.labels, node_name, len(examples.x), classes)
    check_values(examples.x, node_name)


def check_labels(labels: NDArray[Any], node_name: str, count: int | None = None, classes: int = 2) -> None:
    """See that there are examples, each with a whole number from 0 on, and so many classes at least.

    count: examples that the labels belong to, where that may be another number. Raises DataUnfit.
    """
    if labels.ndim != 1:
        raise _unfit(node_name, f"labels need to be one whole number for each example, and have the shape {labels.shape}")
    if count is not None and count != len(labels):
        raise _unfit(node_name, f"there are {count} examples and {len(labels)} labels")
    if not len(labels):
        raise _unfit(node_name, "there is no example")
    if labels.dtype.kind not in "iu":
        raise _unfit(node_name, f"labels need to be whole numbers, and are {labels.dtype}")
    if labels.min() < 0:
        place = int(np.argmax(labels < 0))
        raise _unfit(node_name, f"label {labels[place]} of example {place} is negative")
    if labels.max() > (most := np.iinfo(np.int64).max):  # of uint64
        place = int(np.argmax(labels > most))
        raise _unfit(node_name, f"label {labels[place]} of example {place} is more than int64 holds")
    found = np.unique(labels)
    if len(found) < classes:
        only = f"all {len(labels)} examples have the label {found[0]}" if len(found) == 1 else f"there are {len(found)} classes"
        raise _unfit(node_name, f"{only}, and at least {classes} classes are needed to tell them apart")


def check_values(x: NDArray[Any], node_name: str, places: Indices | None = None) -> None:
    """See that all values are finite numbers; places: of the examples that are looked at, else all. Raises DataUnfit."""
    if x.dtype.kind not in "fiub":
        raise _unfit(node_name, f"x needs to hold numbers, and holds {x.dtype}")
    if x.dtype.kind != "f":
        return
    _see_that_all_is_finite(x if places is None else x[places], node_name, places)


def check_inputs(x: NDArray[Any], node_name: str, places: Indices) -> None:
    """See that what the network gets is finite: a float64 may be too large for float32.

    x: of the examples at these places of the data. Raises DataUnfit.
    """
    if x.dtype.kind == "f":
        _see_that_all_is_finite(x, node_name, places, f" as {x.dtype}")


def _see_that_all_is_finite(x: NDArray[Any], node_name: str, places: Indices | None, form: str = "") -> None:
    with np.errstate(all="ignore"):
        if np.isfinite(x.sum(dtype=np.float64)):  # a sum needs no array of the size of x
            return
    wrong = ~np.isfinite(x)
    first = np.unravel_index(int(wrong.argmax()), x.shape)
    example = first[0] if places is None else places[first[0]]
    where = f"in example {example}" + (f" at {tuple(map(int, first[1:]))}" if len(first) > 1 else "")
    if count := int(wrong.sum()):
        raise _unfit(node_name, f"x has {count} values that are not finite{form}; the first is {x[first]}, {where}")


def check_model(model: "torch.nn.Module", examples: Examples, node_name: str) -> None:
    """Try a model on one example, and see that it has an output for each label.

    The model takes (1, ...) and gives (1, classes). Raises DataUnfit.
    """
    import torch

    name, weights = next(iter(model.named_parameters()))
    trained, model = model.training, model.eval()
    try:
        with torch.inference_mode():
            outputs = model(torch.from_numpy(examples.x[:1]).to(weights.device))
    except (RuntimeError, IndexError, TypeError) as error:
        told = f"an example has the shape {examples.x.shape[1:]} ({examples.x.dtype}), which the model does not take"
        first = f"its first weights, {name}, have the shape {tuple(weights.shape)}"
        raise _unfit(node_name, f"{told}: {first}; {str(error).strip().splitlines()[0]}") from error
    finally:
        model.train(trained)
    if (most := int(examples.labels.max())) >= outputs.shape[-1]:
        raise _unfit(node_name, f"label {most} needs {most + 1} outputs, and the model has {outputs.shape[-1]}")


def _unfit(node_name: str, sentence: str) -> DataUnfit:
    return DataUnfit(f'node "{node_name}": {sentence}')
