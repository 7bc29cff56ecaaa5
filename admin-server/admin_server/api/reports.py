"""What a site's client server says and asks, with its node token and for itself alone."""

from fastapi import APIRouter

from admin_server.api.documented import problems
from admin_server.deps import OwnNode, TheIntake, TheNodes, TheWanted
from admin_server.errors import NodeNotFound, OtherNode
from admin_server.schemas import Heartbeat, HeartbeatAnswer, Reports, ReportsAnswer, Wanted

router = APIRouter(prefix="/nodes/{node_id}", tags=["sites"])


@router.post("/heartbeat", responses=problems(OtherNode))
async def beat(node_id: OwnNode, nodes: TheNodes, request: Heartbeat) -> HeartbeatAnswer:
    """Take a sign of life; answer with the number of the newest wish."""
    return HeartbeatAnswer(wanted_seq=await nodes.beat(node_id, request))


@router.post("/reports", responses=problems(OtherNode))
async def report(node_id: OwnNode, intake: TheIntake, request: Reports) -> ReportsAnswer:
    """Apply spooled lines in order, each once; answer how far the sender may forget."""
    return ReportsAnswer(applied_seq=await intake.accept(node_id, request))


@router.get("/wanted", responses=problems(OtherNode, NodeNotFound))
async def wanted(node_id: OwnNode, nodes: TheNodes, board: TheWanted, after: int = 0) -> Wanted:
    """Answer as soon as there is a wish newer than `after`, at the latest in 25 s."""
    row = await nodes.one(node_id)
    return Wanted.model_validate(await board.wait(node_id, row["flower_node_id"], after))
