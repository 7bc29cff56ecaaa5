"""The demo's SuperNodes: each is started with its part of the data, and has to be online at the coordinator."""

from collections.abc import Mapping
from typing import Any

from demo_stack import Stack, Trouble

PATIENCE_S = 90.0  # a SuperLink starts in 2 to 7 s, a SuperNode that died is back in a few


def start_supernode(stack: Stack, name: str, number: int, node_config: Mapping[str, str]) -> None:
    """Start a site's SuperNode with its partition and config; one that has them goes on, that of another demo begins anew."""
    site = stack.sites[name]
    wanted = {"partition_id": number, "num_partitions": len(stack.sites), "node_config": dict(node_config)}
    state = site.get("/supernode")
    if state["state"] != "stopped":
        had = state["request"] or {}
        if all(had.get(key) == value for key, value in wanted.items()):
            return
        site.post("/supernode/stop", {})
        stack.wait(f"{name}, which had another partition", lambda: site.get("/supernode")["state"] == "stopped", PATIENCE_S)
    site.post("/supernode/start", wanted)


def all_online(stack: Stack) -> bool:
    """Does the coordinator see every site online? Raises Trouble with the cause when a site's SuperNode has failed."""
    for name, site in stack.sites.items():
        state = site.get("/supernode")
        if state["state"] == "failed":
            raise Trouble(f"the SuperNode of {name} failed: {explained(state)}")
    return all(status == "online" for status in statuses(stack).values())


def absent(stack: Stack) -> str:
    """Name the sites that are not online, each with what its own server says of its SuperNode."""
    away = {name: status for name, status in statuses(stack).items() if status != "online"}
    states = {name: stack.sites[name].get("/supernode") for name in away}
    return "; ".join(
        f"{name} is {away[name]}, its SuperNode {state['state']}: {explained(state)}" for name, state in states.items()
    )


def statuses(stack: Stack) -> dict[str, str]:
    known = {node["external_id"]: node["status"] for node in stack.admin.get("/nodes?limit=1000")["items"]}
    return {name: known.get(name, "unknown") for name in stack.sites}


def explained(state: dict[str, Any]) -> str:
    lines = state.get("last_lines") or []
    return (state["reason"] or f"it is {state['state']}") + "".join(f"\n    {line}" for line in lines)
