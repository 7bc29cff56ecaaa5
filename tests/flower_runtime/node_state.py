"""A node's state without a node: Flower's own, with our handover built in."""

from typing import Any

from flower_runtime.handover import Handover
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState


class NodeState:
    """Flower's own node state with our handover built in, and no process and no network about it."""

    RUN, NODE = 11, 22

    def __init__(self) -> None:
        self.handover = Handover()
        self.handover.install()
        self.state = InMemoryNodeState(ObjectStoreFactory().store())
        self.state.set_node_id(self.NODE)

    def arrive(self, text: str) -> Any:
        """Do with a message what Flower's loop does: make its task, register its objects, store it."""
        content = RecordDict({"config": ConfigRecord({"text": text})})
        message = Message(content, dst_node_id=self.NODE, message_type="train")
        message.metadata.__dict__["_message_id"] = message.object_id
        self.state.create_task(task_type="flwr-clientapp", run_id=self.RUN, fab_hash="f" * 64)
        self.state.object_store.preregister(self.RUN, get_object_tree(message))
        self.state.store_message(message)
        return message
