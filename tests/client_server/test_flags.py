"""--node-config as Flower itself parses it."""

from typing import Any

from client_server.errors import StartRequestRefused
from client_server.flags import node_config
from client_server.schemas import SupernodeStartRequest
from flwr.common.config import parse_config_args
from hypothesis import given, settings
from hypothesis import strategies as st

VALUES = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=30)
)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,20}", fullmatch=True), VALUES, max_size=4))
def test_flower_reads_what_was_meant_or_we_refuse_it(values: dict[str, Any]) -> None:
    values = {key: value for key, value in values.items() if key not in ("partition-id", "num-partitions")}
    request = SupernodeStartRequest.model_validate({"partition_id": 1, "num_partitions": 4, "node_config": values})
    try:
        text = node_config(request, "Site A")
    except StartRequestRefused:
        refused = [value for value in values.values() if isinstance(value, str)]
        assert any(not value.isprintable() or ("'" in value and '"' in value) for value in refused)
        return
    assert parse_config_args([text]) == {"partition-id": 1, "num-partitions": 4, "node-name": "Site A"} | values
