"""Behaves as its message says: echoes, raises, dies, or never comes back."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
cache = pathlib.Path(os.environ["ESPALIER_CACHE_DIR"])


@app.train()
def train(message: Message, context: Context) -> Message:
    config = message.content.config_records["config"]
    behaviours = str(config["behaviour"]).split("+")  # of site-a, of site-b
    behaviour = behaviours[0 if context.node_config["name"] == "site-a" else -1]
    (cache / "environment.json").write_text(json.dumps(dict(os.environ)))
    print(f"client draws {random.random()} {np.random.random()}", flush=True)
    print("client says hello", flush=True)
    if behaviour == "exit":
        print("last words", flush=True)
        os._exit(3)
    if behaviour == "spoils":
        here = pathlib.Path(os.readlink("/proc/self/fd/1")).parent
        (here / "output.log").unlink()
        (here / "output.log").mkdir()
        os.mkfifo(here / "modules.json")
        (cache / "helper.pid").write_text(str(subprocess.Popen(["sleep", "600"], start_new_session=True).pid))
        os._exit(1)
    if behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "hoards":
        print(len(b"x" * 2**30), flush=True)
    if behaviour == "terminated":
        os.kill(os.getpid(), signal.SIGTERM)
    if behaviour == "raises":
        raise KeyError("no such column")
    if behaviour == "slow":
        time.sleep(1.0)
    if behaviour == "sleeps":
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (cache / "helper.pid").write_text(str(helper.pid))
        time.sleep(600)
    if behaviour == "busy":
        while True:
            sum(range(1000))
    return Message(RecordDict({"config": ConfigRecord({"round": config["round"]})}), reply_to=message)
