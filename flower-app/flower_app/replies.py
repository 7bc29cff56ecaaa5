"""Reading a node's reply: an update that may be counted, or the reason why not."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from flower_app.blocks import in_blocks, is_finite
from flower_app.products import NoProduct, Products, in_full_rank
from flower_app.text import cleaned
from flower_app.wire import NotAnArray, records_of, size_bytes, to_arrays
from flower_app.workloads.interface import Arrays, Metrics

ARRAYS, METRICS, FACTS, TIMINGS, CONFIG, ANSWERS = "arrays", "metrics", "facts", "timings", "config", "answers"
"""Names of the records in a message and its reply."""

NUM_EXAMPLES, ROUND, MODEL_SHA256 = "num-examples", "round", "model-sha256"
"""What a reply has to say: how much it weighs, which round it answers, and which model it started from (wire.digest)."""

NAME_LIMIT, FACTS_LIMIT, METRICS_LIMIT = 200, 50, 200
EXAMPLES_LIMIT, METRIC_LIMIT = 10**12, 1e100  # so that no sum over nodes leaves int64 or float64


class Refused(ValueError):
    """An update that must not be aggregated."""


@dataclass(frozen=True)
class ValidUpdate:
    """A reply that passed every check; arrays lie on the message's own bytes, but for factors that were filled up."""

    arrays: Arrays
    num_examples: int
    metrics: Metrics


@dataclass(frozen=True)
class Asked:
    """What a reply has to answer: the round, and the digest of the model that was sent in it.

    max_norm: how far from that model an update may be; 0: anywhere. model: that model, where an answer may be read later than in
    its round; None: it is the `like` that the answer is read with. metrics: those that the strategy computes with. products:
    pairs of arrays that may come in a smaller rank.
    """

    round: int
    sha256: str
    max_norm: float = 0.0
    model: Arrays | None = None
    metrics: tuple[str, ...] = ()
    products: Products = ()


def read_update(reply: Message, like: Arrays, asked: Asked, node_id: int) -> ValidUpdate:
    """Check a reply against the model that was sent, which has the form of `like`, to the node node_id.

    Raises Refused with the first thing that is wrong: node, records, round, model, num-examples < 1, a metric that the strategy
    computes with and that is missing or below 0, ranks, names, shapes, dtypes, NaN or Inf, norm of its difference to the model.
    """
    answers_what_was_asked(reply, asked, node_id)
    records = list(records_of(reply.content, ArrayRecord).values())
    if len(records) != 1:
        raise Refused(f"needs one ArrayRecord, has {len(records)}")
    metric_records = list(records_of(reply.content, MetricRecord).values())
    if len(metric_records) != 1:
        raise Refused(f"needs one MetricRecord, has {len(metric_records)}")
    num_examples, metrics = _counted(metric_records[0])
    for name in asked.metrics:
        if not metrics.get(name, -1.0) >= 0:
            raise Refused(f"the strategy computes with metric {name}, which needs to be at least 0, is {metrics.get(name)!r}")
    try:
        arrays = in_full_rank(to_arrays(records[0]), like, asked.products)
    except (NotAnArray, NoProduct) as error:
        raise Refused(str(error)) from error
    _same_form(arrays, like)
    for name, values in arrays.items():
        if values.dtype.kind == "f" and not is_finite(values):
            raise Refused(f"array {name} holds NaN or Inf")
    if asked.max_norm:
        norm = _distance(arrays, like if asked.model is None else asked.model)
        if not norm <= asked.max_norm:
            raise Refused(f"its difference to the model has norm {norm:.6g}, more than max-update-norm {asked.max_norm:g}")
    return ValidUpdate({name: arrays[name] for name in like}, num_examples, metrics)


def read_score(reply: Message, like: Arrays, asked: Asked, node_id: int) -> ValidUpdate:
    """Check the answer to an evaluate message; it brings no arrays. Raises Refused as read_update does."""
    metric_records = list(records_of(reply.content, MetricRecord).values())
    if len(metric_records) != 1:
        raise Refused(f"needs one MetricRecord, has {len(metric_records)}")
    answers_what_was_asked(reply, asked, node_id)
    num_examples, metrics = _counted(metric_records[0])
    return ValidUpdate({}, num_examples, metrics)


def answers_what_was_asked(reply: Message, asked: Asked, node_id: int) -> None:
    """See that a reply comes from the node that was asked, and names its round and its model. Raises Refused."""
    if reply.metadata.src_node_id != node_id:
        raise Refused(f"it comes from node {reply.metadata.src_node_id}, which was not asked")
    said = records_of(reply.content, ConfigRecord).get(ANSWERS, ConfigRecord())
    if said.get(ROUND) != asked.round:
        raise Refused(f"it answers round {said.get(ROUND)!r}, and was asked in round {asked.round}"[:NAME_LIMIT])
    if said.get(MODEL_SHA256) != asked.sha256:
        raise Refused(f"it started from another model: {said.get(MODEL_SHA256)!r}, asked was {asked.sha256}"[:NAME_LIMIT])


def facts_of(reply: Message) -> tuple[dict[str, Any], dict[str, float]]:
    """Give what the node says of itself: (facts, timings); anything that is no plain value is left out."""
    if reply.has_error():
        return {}, {}
    configs = records_of(reply.content, ConfigRecord)
    facts = _plain(configs.get(FACTS, ConfigRecord()))
    timings = {
        name: float(value)
        for name, value in _plain(configs.get(TIMINGS, ConfigRecord())).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    }
    return facts, timings


def payload_bytes(reply: Message) -> int:
    """Count what came up; an error reply has none."""
    return size_bytes(reply.content) if reply.has_content() else 0


def _counted(record: MetricRecord) -> tuple[int, Metrics]:
    count = record.get(NUM_EXAMPLES)
    if isinstance(count, float) and count.is_integer():
        count = int(count)
    if not isinstance(count, int) or not 1 <= count <= EXAMPLES_LIMIT:
        raise Refused(f"{NUM_EXAMPLES} needs to be a whole number from 1 to {EXAMPLES_LIMIT}, is {count!r}")
    if len(record) > METRICS_LIMIT:
        raise Refused(f"it has {len(record)} metrics, more than {METRICS_LIMIT}")
    metrics: Metrics = {}
    for name, value in record.items():
        if name == NUM_EXAMPLES:
            continue
        if isinstance(value, list) or not abs(value) <= METRIC_LIMIT:
            raise Refused(f"metric {name} is not one finite number of at most {METRIC_LIMIT:g}: {value!r}"[:NAME_LIMIT])
        metrics[cleaned(name, NAME_LIMIT)] = value
    return count, metrics


def _same_form(arrays: Arrays, like: Arrays) -> None:
    if arrays.keys() != like.keys():
        missing, strange = sorted(like.keys() - arrays.keys()), sorted(arrays.keys() - like.keys())
        raise Refused(f"arrays differ from the model's: missing {missing}, strange {strange}"[:NAME_LIMIT])
    for name, values in arrays.items():
        if values.shape != like[name].shape:
            raise Refused(f"array {name} has shape {values.shape}, the model's is {like[name].shape}")
        if values.dtype != like[name].dtype:
            raise Refused(f"array {name} has dtype {values.dtype}, the model's is {like[name].dtype}")


def _distance(arrays: Arrays, model: Arrays) -> float:
    """Give the L2 norm of the difference in float64, over all arrays but single whole numbers: BatchNorm counts in one."""
    total = 0.0
    for name, values in arrays.items():
        if values.ndim == 0 and values.dtype.kind in "iu":
            continue
        for part, of_model in in_blocks(values, model[name]):
            difference = np.subtract(part, of_model, dtype=np.float64)
            total += float(np.dot(difference, difference))
    return math.sqrt(total)


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        cleaned(name, NAME_LIMIT): cleaned(value, NAME_LIMIT) if isinstance(value, str) else value
        for name, value in list(record.items())[:FACTS_LIMIT]
        if isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
    }
