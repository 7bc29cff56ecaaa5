"""Sends each node one message a round, and writes down what came back and when."""

import json
import os
import pathlib
import time

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    run_dir = pathlib.Path(os.environ["ESPALIER_RUN_DIR"])
    (run_dir / "environment.json").write_text(json.dumps(dict(os.environ)))
    print("server says hello", flush=True)
    os.write(1, b"native code says hello\n")
    if config["behaviour"] == "server-raises":
        raise ValueError("the server has a bad day")
    if config["behaviour"] == "server-hoards":
        print(len(b"x" * 2**30), flush=True)
    seconds = []
    for number in range(1, int(config["rounds"]) + 1):
        begin = time.monotonic()
        nodes = list(grid.get_node_ids())
        record = RecordDict({"config": ConfigRecord({"round": number, "behaviour": str(config["behaviour"])})})
        sent = grid.push_messages([Message(record, dst_node_id=n, message_type="train", group_id=str(number)) for n in nodes])
        open_ids, deadline = set(sent), time.monotonic() + float(config["wait"])
        while open_ids and time.monotonic() < deadline:
            for reply in grid.pull_messages(list(open_ids)):
                open_ids.discard(reply.metadata.reply_to_message_id)
                error = {"code": reply.error.code, "reason": reply.error.reason} if reply.has_error() else None
                line = {"round": number, "at": time.time(), "error": error, "node": str(reply.metadata.src_node_id)}
                with open(run_dir / "replies.jsonl", "a") as file:
                    file.write(json.dumps(line) + "\n")
            time.sleep(0.1)
        seconds.append(time.monotonic() - begin)
        (run_dir / "rounds.json").write_text(json.dumps(seconds))
