"""Flower's strategies by name: how each is made of the run config, what it needs of a round, and what it remembers.

A rule that is a weighted mean and something on top streams: it needs the mean of a round's updates and not the updates. Every
other rule needs them all at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)

from flower_app.config import ConfigError, RunConfig

ASK_ALL: dict[str, Any] = {"fraction_evaluate": 0.0, "min_train_nodes": 1, "min_available_nodes": 1}
"""Each strategy asks all nodes that the engine offers it, to train alone."""


@dataclass(frozen=True)
class Copies:
    """What a rule has in memory at its peak, beside the updates that it holds; as measured of Flower, with models in float32.

    matrices: copies of all updates, each flattened in one dtype for all arrays.
    layers: copies of one array of all updates, where the one before it is as large.
    models: what else, in models: the one that is made, as arrays and as npy bytes, and sums on the way.
    """

    matrices: int = 0
    layers: int = 0
    models: int = 1


@dataclass(frozen=True)
class Rule:
    """One of Flower's strategies.

    streams: it is made of the weighted mean of the updates.
    is_mean: its model is that mean and nothing else. Flower's aggregate of one reply is the reply, bit for bit, and costs four
    more models in memory, so it is not asked.
    reads: metrics that it computes with; an update has to bring each of them, 0 or more.
    memory: its attributes that a commit carries beside the model, each a dict or a list of arrays, once it is set.
    least: the fewest updates that it can make a model of.
    copies: what it takes beside the updates where it holds them.
    """

    make: Callable[[RunConfig], Strategy]
    streams: bool = True
    is_mean: bool = False
    reads: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()
    least: Callable[[RunConfig], int] = lambda config: 1
    copies: Copies = Copies()


def _opt(kind: type[FedAdam] | type[FedYogi], server_lr: float) -> Callable[[RunConfig], Strategy]:
    def make(config: RunConfig) -> Strategy:
        eta = config.server_lr or server_lr
        return kind(eta=eta, beta_1=config.beta_1, beta_2=config.beta_2, tau=config.tau, **ASK_ALL)

    return make


def _fed_adagrad(config: RunConfig) -> Strategy:
    return FedAdagrad(eta=config.server_lr or 0.1, tau=config.tau, **ASK_ALL)


def _fed_avg_m(config: RunConfig) -> Strategy:
    return FedAvgM(server_learning_rate=config.server_lr or 1.0, server_momentum=config.server_momentum, **ASK_ALL)


def _multi_krum(config: RunConfig) -> Strategy:
    chosen = config.krum_select
    return MultiKrum(num_malicious_nodes=config.malicious_nodes, num_nodes_to_select=chosen, **ASK_ALL)


def _krum_least(config: RunConfig) -> int:
    return max(2 * config.malicious_nodes + 3, config.krum_select if config.strategy == "multikrum" else 1)


RULES = {
    "bulyan": Rule(
        lambda config: Bulyan(num_malicious_nodes=config.malicious_nodes, **ASK_ALL),
        streams=False,
        least=lambda config: 4 * config.malicious_nodes + 3,
        copies=Copies(matrices=2, layers=7, models=2),
    ),
    "fedadagrad": Rule(_fed_adagrad, memory=("m_t", "v_t")),
    "fedadam": Rule(_opt(FedAdam, 0.1), memory=("m_t", "v_t")),
    "fedavg": Rule(lambda config: FedAvg(**ASK_ALL), is_mean=True),
    "fedavgm": Rule(_fed_avg_m, memory=("momentum_vector",)),
    "fedmedian": Rule(lambda config: FedMedian(**ASK_ALL), streams=False, copies=Copies(layers=2, models=3)),
    "fedprox": Rule(lambda config: FedProx(proximal_mu=config.proximal_mu, **ASK_ALL), is_mean=True),
    "fedtrimmedavg": Rule(
        lambda config: FedTrimmedAvg(beta=config.trim_share, **ASK_ALL), streams=False, copies=Copies(layers=2, models=2)
    ),
    "fedyogi": Rule(_opt(FedYogi, 0.01), memory=("m_t", "v_t")),
    "krum": Rule(
        lambda config: Krum(num_malicious_nodes=config.malicious_nodes, **ASK_ALL),
        streams=False,
        least=_krum_least,
        copies=Copies(matrices=2),
    ),
    "multikrum": Rule(_multi_krum, streams=False, least=_krum_least, copies=Copies(matrices=2)),
    "qfedavg": Rule(
        lambda config: QFedAvg(client_learning_rate=config.lr, q=config.fair_q, **ASK_ALL),
        streams=False,
        reads=("train_loss",),
        copies=Copies(models=6),
    ),
}
"""Sources: Reddi et al. 2021 (arXiv:2003.00295) for fedadam, fedyogi, fedadagrad; Hsu et al. 2019 (arXiv:1909.06335) fedavgm;
Li et al. 2020 (arXiv:1812.06127) fedprox; Yin et al. 2018 (arXiv:1803.01498) fedmedian, fedtrimmedavg; Blanchard et al. 2017
(arXiv:1703.02757) krum, multikrum; El Mhamdi et al. 2018 (arXiv:1802.07927) bulyan; Li et al. 2020 (arXiv:1905.10497) qfedavg."""


def rule_of(config: RunConfig) -> Rule:
    """Find the strategy's rule, and see that the rest of the config can go with it.

    Raises ConfigError, naming the key.
    """
    if config.strategy not in RULES:
        raise ConfigError(f'strategy "{config.strategy}" is unknown; choose one of {", ".join(sorted(RULES))}')
    rule = RULES[config.strategy]
    least = rule.least(config)
    if 0 < config.k_of_n < least:
        raise ConfigError(f"k-of-n is {config.k_of_n}, and {config.strategy} needs at least {least} updates a round")
    if 0 < config.k_of_n < config.min_updates:
        raise ConfigError(
            f"k-of-n is {config.k_of_n}, and min-updates is {config.min_updates}: a round would close before it has enough"
        )
    if config.late == "carry" and not rule.streams:
        raise ConfigError(f"late = carry discounts an update's weight, and {config.strategy} has no weights: choose late = drop")
    return rule


def see_that_products_may_be_averaged(config: RunConfig, rule: Rule) -> None:
    """Refuse lora-aggregation = svd with a strategy whose model is not the mean itself. Raises ConfigError."""
    if rule.is_mean:
        return
    if rule.streams:
        why = "steps along the difference of two models, which says nothing where both factors were made anew"
    else:
        why = "works on the numbers of each factor, of which only the product counts"
    means = " or ".join(name for name, each in RULES.items() if each.is_mean)
    raise ConfigError(
        f"lora-aggregation = svd averages the products of factors, and strategy = {config.strategy} {why}: "
        f"choose lora-aggregation = avg or ffa, or strategy = {means}"
    )
