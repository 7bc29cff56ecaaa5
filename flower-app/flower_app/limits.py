"""What a run may use: time in all, and the server's memory for updates that are held."""

from bisect import bisect_right
from datetime import datetime

from flower_app.clock import Clock
from flower_app.config import RunConfig
from flower_app.measures import memory_bytes
from flower_app.products import Products
from flower_app.rules import Rule
from flower_app.workloads.interface import Arrays

MB = 10**6
FLOAT64 = 8

COPIES_OF_FACTORS = 4
"""What ProductMean has at its peak of one pair of all updates, in float64: the factors, and what QR makes of them."""


class RunTimeout(RuntimeError):
    """The run has used up run-timeout-s."""


class UpdatesDoNotFit(RuntimeError):
    """The updates that have to be held at once, and what is computed on them, are larger than the memory that they may take."""


class RunClock:
    """The time that a run has in all, counted from its first attempt's opening."""

    def __init__(self, timeout_s: float, opened_at: datetime | None, clock: Clock) -> None:
        """timeout_s: 0 for as long as it takes. opened_at: None for a run that begins now."""
        self._clock, self._timeout_s = clock, timeout_s
        used_s = (clock.now() - opened_at).total_seconds() if opened_at else 0.0
        self._end = clock.monotonic() + timeout_s - used_s if timeout_s else None

    def deadline(self, wanted: float) -> float:
        """Give the earlier one of a wanted deadline and the run's end (monotonic s)."""
        return wanted if self._end is None else min(wanted, self._end)

    def check(self) -> None:
        """Raise RunTimeout after the end."""
        if self._end is not None and self._clock.monotonic() > self._end:
            raise RunTimeout(f"the run took longer than run-timeout-s = {self._timeout_s:g}")


def see_that_updates_fit(config: RunConfig, rule: Rule, model: Arrays, count: int, products: Products = ()) -> None:
    """Refuse a run whose rounds ask `count` nodes at least, where what they hold of their updates does not fit.

    Raises UpdatesDoNotFit, to be asked before anybody is waited for.
    """
    needed, limit = _bytes_held(config, rule, model, count, products), _limit_bytes(config)
    if needed <= limit:
        return
    why, choices = _told(config, rule, count, products)
    raise UpdatesDoNotFit(f"{why}, {needed / MB:,.0f} MB here, and {limit / MB:,.0f} MB may be used: {choices}")


def _told(config: RunConfig, rule: Rule, count: int, products: Products) -> tuple[str, str]:
    """Say what takes the memory, and what can be done."""
    turns = "lower k-of-n or min-available, raise server-memory-limit-mb"
    if not rule.streams:
        why = f"{config.strategy} holds all updates of a round and works on copies of them"
        return why, f"{turns}, or choose a strategy that is a weighted mean"
    reasons, choices = [], []
    if config.late == "carry" and _late(config, count):
        models = " and the models that they started from" if config.max_update_norm else ""
        reasons.append(f"late = carry may have to hold {_late(config, count)} late updates{models}")
        choices.append("late = drop")
        turns = "raise k-of-n or server-memory-limit-mb, lower min-available"
    if products:
        reasons.append("lora-aggregation = svd holds the factors of all updates of a round and works on copies of them")
        choices.append("lora-aggregation = avg or ffa")
    return ", and ".join(reasons), f"{turns}, or choose {' or '.join(choices)}"


def most_that_fit(config: RunConfig, rule: Rule, model: Arrays, count: int, products: Products = ()) -> int:
    """Say how many of `count` nodes may have messages at once, so that what is held of their updates fits."""
    limit = _limit_bytes(config)
    return bisect_right(range(1, count + 1), limit, key=lambda nodes: _bytes_held(config, rule, model, nodes, products))


def _limit_bytes(config: RunConfig) -> int:
    """Give server-memory-limit-mb, or half of the memory that there is."""
    return config.server_memory_limit_mb * MB or memory_bytes() // 2


def _bytes_held(config: RunConfig, rule: Rule, model: Arrays, count: int, products: Products) -> int:
    """Count what is held of the updates of a round that asks `count` nodes.

    A rule that holds its updates has k-of-n of them at most. One that streams has none, but under late = carry a late one of each
    node that k-of-n does not wait for (k-of-n 0: of each, since a deadline may make any of them late), and where max-update-norm
    measures it, the model that it started from. On top come the factors of products, of each update that may count.
    """
    closing = min(config.k_of_n or count, count)
    if not rule.streams:
        return bytes_of_aggregating(rule, model, closing)
    if config.late == "carry":
        models = 2 if config.max_update_norm else 1
        late = _late(config, count) * models * sum(values.nbytes for values in model.values())
        return late + bytes_of_products(products, model, count)
    return bytes_of_products(products, model, closing)


def _late(config: RunConfig, count: int) -> int:
    return max(0, count - config.k_of_n)


def bytes_of_aggregating(rule: Rule, model: Arrays, count: int) -> int:
    """Count what a rule that holds `count` updates has of them in memory, at its peak.

    Each update is there once: it becomes Flower's, with whole numbers as float64, and is let go before the next one does. On top
    come the rule's copies of them all, or its copies of their largest array where that is more, and its models.
    """
    widths = {name: values.itemsize if values.dtype.kind == "f" else FLOAT64 for name, values in model.items()}
    sizes = [values.size * widths[name] for name, values in model.items()]
    matrix = sum(values.size for values in model.values()) * max(widths.values(), default=0)
    each = sum(sizes) + max(rule.copies.matrices * matrix, rule.copies.layers * max(sizes, default=0))
    return count * each + rule.copies.models * sum(sizes)


def bytes_of_products(products: Products, model: Arrays, count: int) -> int:
    """Count what ProductMean has of `count` updates in memory, at its peak: their factors, and its copies of the largest pair."""
    pairs = [[model[name] for name in pair] for pair in products]
    held = sum(values.nbytes for pair in pairs for values in pair)
    largest = max((sum(values.size for values in pair) for pair in pairs), default=0)
    return count * (held + COPIES_OF_FACTORS * FLOAT64 * largest)
