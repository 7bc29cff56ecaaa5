"""Federated rounds in one process: the workload's own training at each site, the engine's own aggregation, its own scores."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from flower_app.accumulate import Contribution, WeightedMean
from flower_app.config import ConfigValue
from flower_app.products import ProductMean
from flower_app.workloads.interface import Arrays, derived_seed
from numpy.typing import NDArray

from benchmarks.lora_cases.costs import SITE, workload

SITES = 4


@dataclass
class Learned:
    """accuracy: of the rounds that were scored. errors: by rule, of each round. aggregate_s: the median time of aggregation."""

    accuracy: dict[int, float]
    errors: dict[str, list[float]]
    aggregate_s: float


def learn(sites: int, rounds: int, run_config: Mapping[str, ConfigValue], scored: Collection[int]) -> Learned:
    """Do some rounds, in which all sites see equally many examples; the accuracy is the mean over the domains' test splits."""
    torch.set_num_threads(1)
    made = workload(None, run_config)
    arrays, products = made.initial_arrays(), made.products()
    both = workload(None, {**run_config, "lora-aggregation": "svd"})
    first, pairs = both.initial_arrays(), both.products()  # under ffa A is the first model's, at every site
    found, took = Learned({}, {"avg": [], "svd": []}, 0.0), []
    for number in range(1, rounds + 1):
        updates = []
        for site in range(sites):
            seed = derived_seed(made.config.seed, site, number)
            env = replace(SITE, node_name=f"site-{site}", partition_id=site, num_partitions=sites, round=number, seed=seed)
            trained = made.train(arrays, {}, env)
            updates.append(Contribution(site, trained.arrays, trained.num_examples, {}, float(trained.num_examples)))
        rules = {"avg": WeightedMean(arrays), **({"svd": ProductMean(arrays, products)} if products else {})}
        means: dict[str, Arrays] = {}
        for name, rule in rules.items():
            started = time.perf_counter()
            for update in updates:
                rule.add(update)
            means[name] = rule.hand_over()
            seconds = time.perf_counter() - started
            found.errors[name].append(error_of(first | means[name], [first | each.arrays for each in updates], pairs))
        took.append(seconds)
        arrays = means["svd" if products else "avg"]
        if number in scored:
            found.accuracy[number] = made.server_evaluate(arrays)["accuracy"]
    return replace(found, aggregate_s=sorted(took)[len(took) // 2])


def error_of(mean: Arrays, updates: Sequence[Arrays], pairs: Sequence[tuple[str, str]]) -> float:
    """Give how far a mean's products are from the mean of the products: Frobenius norms, relative, the mean over all layers."""
    errors = []
    for b, a in pairs:
        exact = np.mean([_product(update[b], update[a]) for update in updates], axis=0)
        errors.append(float(np.linalg.norm(_product(mean[b], mean[a]) - exact) / np.linalg.norm(exact)))
    return float(np.mean(errors))


def _product(b: NDArray[np.float32], a: NDArray[np.float32]) -> NDArray[np.float64]:
    return b.astype(np.float64) @ a.astype(np.float64)
