"""One message's work on a node: evaluate the model that arrived, train it, answer with both."""

import os
from collections.abc import Mapping
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from flower_app.config import NodeConfig, RunConfig, device_wish
from flower_app.measures import Stopwatch, architecture, peak_rss_bytes, rss_bytes, threads
from flower_app.replies import ANSWERS, ARRAYS, CONFIG, FACTS, METRIC_LIMIT, METRICS, MODEL_SHA256, NUM_EXAMPLES, ROUND, TIMINGS
from flower_app.updates import TRAIN
from flower_app.wire import digest, records_of, to_arrays, to_record
from flower_app.workloads import make_workload, settled
from flower_app.workloads.interface import Arrays, EvalResult, Metrics, NodeEnv, derived_seed

CACHE_DIR = "ESPALIER_CACHE_DIR"


class WorkloadFault(RuntimeError):
    """A workload broke its contract."""


def take_turn(message: Message, context: Context, environment: Mapping[str, str] = os.environ) -> Message:
    """Do what a message asks (train: score the model that arrived, train it; evaluate: score it) and write the reply.

    Raises ConfigError, WorkloadFault, and whatever the workload raises.
    """
    trains = message.metadata.message_type == TRAIN
    watch, started_bytes = Stopwatch(), rss_bytes()
    with watch.part("total_s"):
        node = NodeConfig.parse(context.node_config, context.node_id)
        with watch.part("prepare_s"):
            config = settled(RunConfig.parse(context.run_config))
        settings = dict(records_of(message.content, ConfigRecord).get(CONFIG, ConfigRecord()))
        env = _env_of(node, config, int(settings["server-round"]), context, environment)  # type: ignore[arg-type]
        with watch.part("prepare_s"):
            workload = make_workload(config)
            if prepare := getattr(workload, "prepare", None):
                prepare(env)
        arrays = to_arrays(records_of(message.content, ArrayRecord)[ARRAYS])
        with watch.part("evaluate_s"):
            wanted = config.eval_share and not (trains and config.client_eval_every)
            score = workload.evaluate(arrays, settings, env) if wanted else EvalResult(0, {})
        trained = None
        if trains:
            with watch.part("train_s"):
                trained = workload.train(arrays, settings, env)
            _check(trained.arrays, arrays, trained.num_examples)
        started_from = digest(arrays)
    metrics = _named("train", trained.metrics if trained else {}) | _named("eval", _finite(score.metrics))
    own: dict[str, str | int | float] = {
        "node_name": node.name,
        "partition_id": node.partition_id,
        "num_partitions": node.num_partitions,
        "eval_examples": score.num_examples,
        "threads": env.threads,
        "architecture": architecture(),
        "rss_start_bytes": started_bytes,
        "rss_bytes": rss_bytes(),
        "rss_peak_bytes": peak_rss_bytes(),
    }
    told = {"device": env.device, **(trained.facts if trained else {})}
    records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
        **({ARRAYS: to_record(trained.arrays)} if trained else {}),
        METRICS: MetricRecord({**metrics, NUM_EXAMPLES: trained.num_examples if trained else score.num_examples}),
        ANSWERS: ConfigRecord({ROUND: env.round, MODEL_SHA256: started_from}),
        FACTS: ConfigRecord({**own, **told, **own}),  # ours come first, as the coordinator reads so many, and win
        TIMINGS: ConfigRecord({name: round(seconds, 6) for name, seconds in watch.seconds.items()}),
    }
    return Message(RecordDict(records), reply_to=message)


def _env_of(node: NodeConfig, config: RunConfig, server_round: int, context: Context, environment: Mapping[str, str]) -> NodeEnv:
    cache, own = environment.get(CACHE_DIR), context.node_config
    return NodeEnv(
        node_name=node.name,
        partition_id=node.partition_id,
        num_partitions=node.num_partitions,
        round=server_round,
        seed=derived_seed(config.seed, node.partition_id, server_round),
        threads=threads(node.num_partitions, environment),
        device=device_wish(own.get("device", config.device)),
        cache_dir=Path(cache) if cache else None,
        node_config=own,
        run_id=config.current_run_id or str(context.run_id),
    )


def _check(trained: Arrays, arrived: Arrays, num_examples: int) -> None:
    if trained.keys() != arrived.keys():
        raise WorkloadFault(f"train() gave the arrays {sorted(trained)}, the model has {sorted(arrived)}")
    if num_examples < 1:
        raise WorkloadFault(f"train() says that it saw {num_examples} examples; at least one is needed")


def _finite(metrics: Metrics) -> Metrics:
    """Leave out what a model that arrived scores beyond all numbers: it is nobody's here, and the site may be who mends it."""
    lost = [name for name, value in metrics.items() if not abs(value) <= METRIC_LIMIT]
    if lost:
        print(f"of the model that arrived there is no finite {', '.join(lost)}", flush=True)
    return {name: value for name, value in metrics.items() if name not in lost}


def _named(prefix: str, metrics: Metrics) -> Metrics:
    return {f"{prefix}_{name}": float(value) for name, value in metrics.items()}
