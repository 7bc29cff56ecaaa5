"""quickstart: a Flower ClientApp."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from quickstart.task import load_data, loss, train

app = ClientApp()


@app.train()
def train_fn(msg: Message, context: Context) -> Message:
    if context.run_config["fail-in"] == "client":
        raise KeyError("no such column: age")
    x, y = load_data(int(context.node_config["partition-id"]))
    weights = train(msg.content["arrays"].to_numpy_ndarrays()[0], x, y, float(msg.content["config"]["lr"]))
    print("trained on", len(x), "examples")
    metrics = MetricRecord({"train_loss": loss(weights, x, y), "num-examples": len(x)})
    return Message(content=RecordDict({"arrays": ArrayRecord([weights]), "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate_fn(msg: Message, context: Context) -> Message:
    x, y = load_data(int(context.node_config["partition-id"]))
    weights = msg.content["arrays"].to_numpy_ndarrays()[0]
    metrics = MetricRecord({"eval_loss": loss(weights, x, y), "num-examples": len(x)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
