"""Messages that no ClientApp is started for."""

import json
from pathlib import Path
from typing import Any

from flower_runtime.clientapps import ClientApps, ForwardLogs, NodeSettings

from tests.flower_runtime.node_state import NodeState
from tests.flower_runtime.waiting import wait_for


def _settings(home: Path, forward_logs: ForwardLogs = "all") -> NodeSettings:
    return NodeSettings(home, home / "wanted.json", home / "cache", forward_logs, "site-a", "127.0.0.1:9", is_warm=False)


def _answer(node: NodeState, settings: NodeSettings) -> tuple[str, dict[str, Any]]:
    """Let the supervision take what waits; give the answer's reason and the activity's line."""
    clientapps = ClientApps(node.handover, settings)
    clientapps.start()
    (reply,) = wait_for("an answer", lambda: node.state.get_messages_legacy(is_reply=True))
    clientapps.close()
    (line,) = (settings.state_dir / "activity.jsonl").read_text().splitlines()
    return str(reply.error.reason), dict(json.loads(line))


def test_a_message_of_a_run_that_is_over_is_answered_and_not_started(node: NodeState, tmp_path: Path) -> None:
    (tmp_path / "wanted.json").write_text(json.dumps({"seq": 1, "over_runs": [str(node.RUN)]}))
    message = node.arrive("work")
    reason, line = _answer(node, _settings(tmp_path))
    assert reason == "ClientApp of site-a was not started: its run is over"
    assert (line["event"], line["message_id"], line["pid"]) == ("message.cancelled", message.metadata.message_id, None)
    assert not (tmp_path / "clientapps").exists()


def test_a_clientapp_that_cannot_be_started_is_answered_for(node: NodeState, tmp_path: Path) -> None:
    node.arrive("work")
    reason, line = _answer(node, _settings(tmp_path))
    assert reason.startswith("ClientApp of site-a could not be started: [Errno 2] No such file or directory: ")
    assert reason.endswith("cache'")
    assert line["event"] == "clientapp.died"
    assert not list(tmp_path.glob("clientapps/*/*/token"))
