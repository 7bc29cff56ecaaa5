"""Each name inside Flower that we call or replace, by the part that does."""

from typing import Literal

from flower_runtime.selfcheck import Pin

Part = Literal["superlink", "executor", "serverapp", "supernode", "clientapp", "deactivate"]

_BACKOFF = ("initial_backoff", "backoff_cap", "max_tries_per_object")
_PUSH_MENTIONS = ("get_messages_legacy", "get_object_tree", "get", "delete_messages", "time", "sleep")
_SUPERLINK = "flwr.superlink.cli.flower_superlink"
_LINK_STATE = "flwr.server.superlink.linkstate.sql_linkstate"
_FLEET, _RUNTIME = "flwr.superlink.servicer.fleet.fleet_handlers", "flwr.superlink.servicer.runtime.runtime_handlers"
_SERVERAPP = "flwr.superlink.cli.flwr_serverapp"
_CLIENTAPP = "flwr.supernode.runtime.run_clientapp"
_LOOP = "flwr.supernode.start_client_internal"
_NODE_STATE = "flwr.supernode.nodestate.in_memory_nodestate"
_CORE_STATE = "flwr.supercore.corestate.in_memory_corestate"
_HTTP_LOGGING = "flwr.supercore.http_logging"
_INTERCEPTORS = "flwr.supercore.interceptors"

_LOGS = (Pin("flwr.supercore.logger", "update_console_handler", ("colored",)),)
_RETRY = (
    Pin("flwr.supercore.retry.http_retry", "MAX_RETRY_DELAY"),
    Pin("flwr.supercore.retry.http_retry", "make_simple_http_retry_invoker", mentions=("MAX_RETRY_DELAY",)),
    Pin("flwr.supercore.heartbeat", "exponential", ("max_delay",)),
    Pin("flwr.supercore.heartbeat", "HeartbeatSender.__init__", ("heartbeat_fn",), mentions=("exponential",)),
)
_PUSHED = (
    Pin("flwr.supercore.inflatable.inflatable_protobuf_utils", "make_push_object_fn_protobuf", mentions=("stored",)),
    Pin("flwr.proto.message_pb2", "PullObjectRequest"),
)
_OF_A_TASK = ("request", "state", "task")

PINS: dict[Part, tuple[Pin, ...]] = {
    "superlink": (
        *_LOGS,
        Pin(_SUPERLINK, "flower_superlink", mentions=("_run_superlink_http_api",)),
        Pin(_SUPERLINK, "_run_superlink_http_api", mentions=("uvicorn", "run", "get_uvicorn_log_config")),
        Pin(_SUPERLINK, "uvicorn.run", ("app", "timeout_graceful_shutdown")),
        Pin("flwr.supercore.sql_mixin", "SQLITE_PRAGMAS"),
        Pin("flwr.supercore.sql_mixin", "_set_sqlite_pragmas", mentions=("SQLITE_PRAGMAS", "execute")),
        Pin(_LINK_STATE, "SqlLinkState.delete_messages", ("message_ins_ids",)),
        Pin(_LINK_STATE, "SqlLinkState.session"),
        Pin(_LINK_STATE, "SqlLinkState._claim_message_ins_rows", mentions=("delivered_at",)),
        Pin(_LINK_STATE, "SqlLinkState.get_message_res", mentions=("delivered_at",)),
        Pin(_LINK_STATE, "MessageInsModel.delivered_at"),
        Pin(_LINK_STATE, "MessageInsModel.dst_node_id"),
        Pin(_LINK_STATE, "MessageResModel.delivered_at"),
        Pin(_LINK_STATE, "MessageResModel.reply_to_message_id"),
        Pin(_LINK_STATE, "uint64_to_int64"),
        Pin("flwr.supercore.object_store", "ObjectStore.__contains__"),
        Pin(_FLEET, "pull_messages", ("request", "state", "store"), mentions=("get_message_ins", "get_object_tree")),
        Pin(_FLEET, "activate_node", ("request", "state")),
        Pin(_FLEET, "confirm_message_received", mentions=("delete",)),
        Pin(_RUNTIME, "pull_messages", _OF_A_TASK, mentions=("get_message_res", "delete_messages", "get_object_tree")),
        Pin(_RUNTIME, "confirm_message_received", _OF_A_TASK, mentions=("object_store", "delete")),
        Pin("flwr.supercore.http_logging", "ROUTINE_ACCESS_PATHS"),
        Pin(
            "flwr.supercore.http_logging",
            "RoutineAccessFilter._is_successful_routine_request",
            mentions=("ROUTINE_ACCESS_PATHS",),
        ),
    ),
    "executor": (
        Pin("flwr.supercore.runtime", "RuntimeHttpClient.AcquireTask"),
        Pin("flwr.supercore.control", "ControlHttpClient.ListRuns"),
        Pin("flwr.supercore.protobuf.client", "ProtobufClient.from_server_address", ("server_address", "interceptors")),
        Pin(_INTERCEPTORS, "RuntimeVersionHttpInterceptor", ("component_name",)),
        Pin(_INTERCEPTORS, "SuperExecAuthHttpInterceptor", ("master_secret", "protected_methods")),
        Pin("flwr.supercore.auth", "load_superexec_auth_secret", ("secret_file",)),
        Pin("flwr.supercore.constant", "TaskType.SERVER_APP"),
        Pin("flwr.proto.runtime_pb2", "AcquireTaskRequest"),
        Pin("flwr.proto.control_pb2", "ListRunsRequest"),
    ),
    "serverapp": (
        *_LOGS,
        *_RETRY,
        Pin(_SERVERAPP, "flwr_serverapp", mentions=("try_obtain_flwr_app_token", "mirror_output_to_queue", "run_serverapp")),
        Pin(_SERVERAPP, "try_obtain_flwr_app_token", ("args",)),
        Pin("flwr.superlink.grid.http_grid", "pull_objects", ("object_ids", "pull_object_fn", "max_tries_per_object")),
        Pin(
            "flwr.superlink.grid.http_grid",
            "HttpGrid.pull_messages",
            ("message_ids",),
            mentions=("PullMessages", "pull_objects", "iterate_object_tree", "ObjectPullError", "reply_to_message_id"),
        ),
        Pin("flwr.supercore.runtime", "RuntimeHttpClient.PullMessages", ("request",)),
        Pin("flwr.supercore.runtime", "RuntimeHttpClient.PushObject", ("request",)),
        Pin("flwr.supercore.runtime", "RuntimeHttpClient.PullObject", ("request",)),
        *_PUSHED,
        Pin("flwr.supercore.inflatable.inflatable_utils", "ObjectUnavailableError", ("object_id",)),
        Pin("flwr.supercore.inflatable.inflatable_utils", "ObjectPullError", ("object_id", "reason")),
    ),
    "supernode": (
        *_LOGS,
        *_RETRY,
        Pin("flwr.supernode.cli.flower_supernode", "flower_supernode", mentions=("start_client_internal",)),
        Pin(
            _LOOP,
            "start_client_internal",
            mentions=("_init_connection", "_pull_and_store_message", "_push_messages", "time", "sleep"),
        ),
        Pin(_LOOP, "_pull_and_store_message", mentions=("create_task", "store_message", "pull_objects")),
        Pin(
            _LOOP,
            "_push_messages",
            ("state", "object_store", "send", "push_object"),
            mentions=("get_messages_legacy", "get_object_tree", "get", "time", "sleep"),
        ),
        Pin(_LOOP, "_init_connection", mentions=("http_request_response",)),
        Pin(_LOOP, "http_request_response", mentions=("HeartbeatSender",)),
        Pin(_LOOP, "pull_objects", _BACKOFF),
        Pin("flwr.supernode.fleet_http_connection", "HeartbeatSender", ("heartbeat_fn",)),
        Pin(_NODE_STATE, "InMemoryNodeState.__init__", mentions=("msg_store", "lock_msg_store")),
        Pin(_NODE_STATE, "InMemoryNodeState.store_message", ("self", "message")),
        Pin(_NODE_STATE, "InMemoryNodeState.get_messages_legacy", ("run_ids", "is_reply")),
        Pin(_NODE_STATE, "InMemoryNodeState.delete_messages", ("message_ids",)),
        Pin(_NODE_STATE, "InMemoryNodeState.record_message_processing_start", ("message_id",)),
        Pin(_NODE_STATE, "InMemoryNodeState._store_error_replies", ("run_ids", "error"), mentions=("is_retrieved",)),
        Pin(_NODE_STATE, "MessageEntry", ("message", "is_retrieved")),
        Pin(_CORE_STATE, "InMemoryCoreState.finish_task", ("task_id", "sub_status", "details")),
        Pin(_CORE_STATE, "InMemoryCoreState.acknowledge_task_heartbeat", ("task_id",)),
        Pin(_CORE_STATE, "InMemoryCoreState.object_store"),
        Pin("flwr.supercore.object_store", "ObjectStore.get_object_tree", ("object_id",)),
        Pin("flwr.supercore.object_store", "ObjectStore.get", ("object_id",)),
        Pin("flwr.supercore.object_store", "ObjectStore.delete", ("object_id",)),
        Pin("flwr.supercore.object_store", "NoObjectInStoreError"),
        Pin("flwr.supercore.inflatable.inflatable_object", "iterate_object_tree"),
        Pin("flwr.supernode.fleet_http_client", "FleetHttpClient.PushObject", ("request",)),
        Pin("flwr.supernode.fleet_http_client", "FleetHttpClient.PullObject", ("request",)),
        *_PUSHED,
        Pin("flwr.supercore.servicer.runtime.runtime_handlers", "acquire_task", ("request", "state")),
        Pin("flwr.supercore.run", "RunNotRunningException"),
        Pin("flwr.supercore.constant", "TaskType.CLIENT_APP"),
        Pin("flwr.common.constant", "ErrorCode.CLIENT_APP_CRASHED"),
        Pin("flwr.common.constant", "SubStatus.FAILED"),
        Pin("flwr.proto.runtime_pb2", "AcquireTaskRequest"),
    ),
    "clientapp": (
        *_LOGS,
        *_RETRY,
        Pin(_CLIENTAPP, "run_clientapp", ("runtime_api_address", "token", "insecure", "runtime_dependency_install")),
        Pin(_CLIENTAPP, "pull_and_inflate_object_from_tree", _BACKOFF),
        Pin(_CLIENTAPP, "pull_task_input", mentions=("pull_and_inflate_object_from_tree",)),
        Pin(_CLIENTAPP, "run_clientapp", mentions=("get_load_client_app_fn",)),
        Pin("flwr.clientapp.utils", "load_app", ("module_attribute_str", "error_type", "project_dir")),
        Pin("flwr.clientapp.utils", "get_load_client_app_fn", mentions=("load_app",)),
    ),
    "deactivate": (
        Pin("flwr.supernode.fleet_http_client", "FleetHttpClient.DeactivateNode"),
        Pin("flwr.supernode.node_auth_http_interceptor", "NodeAuthHttpInterceptor", ("private_key", "public_key")),
        Pin(_INTERCEPTORS, "RuntimeVersionHttpInterceptor", ("component_name",)),
        Pin("flwr.supercore.error", "FlowerError.from_json"),
        Pin("flwr.supercore.error", "ApiErrorCode.FLEET_NODE_DEACTIVATION_FAILED"),
    ),
}
