"""The REST API: who may ask, what is refused before anything changes, and what is kept."""

from pathlib import Path
from typing import Any

import pytest
from client_server.settings import Settings
from control_plane.settings import settings_or_exit

from tests.client_server.conftest import OpenSite, SiteMaker, eventually
from tests.client_server.stand_ins import AdminStandIn, Listener, appeared, make_certificate, superlink

ROUTES = [
    ("POST", "/enrolment"),
    ("POST", "/supernode/start"),
    ("POST", "/supernode/stop"),
    ("GET", "/supernode"),
    ("GET", "/supernode/logs"),
    ("GET", "/inventory"),
    ("PUT", "/inventory"),
]


async def test_every_route_but_health_wants_the_site_token(sites: SiteMaker, subtests: pytest.Subtests) -> None:
    async with sites.open() as site:
        del site.client.headers["Authorization"]
        for method, path in ROUTES:
            for header in (None, "Bearer wrong", "Basic dXNlcjpwYXNz", "Bearer "):
                with subtests.test(path, method=method, header=header):
                    headers = {} if header is None else {"Authorization": header}
                    answer = await site.client.request(method, path, headers=headers)
                    assert answer.status_code == 401
                    assert answer.headers["content-type"] == "application/problem+json"
                    assert answer.headers["www-authenticate"] == "Bearer"


async def test_the_routes_are_those_that_are_tested_for_their_token(sites: SiteMaker) -> None:
    async with sites.open() as site:
        paths = site.app.openapi()["paths"]
    assert {(method.upper(), path) for path, methods in paths.items() for method in methods} == {*ROUTES, ("GET", "/health")}


async def test_health_says_little_without_a_token_and_more_with_it(site: OpenSite) -> None:
    await site.start()
    full = await site.get("/health")
    assert full["supernode"]["state"] == "running"
    assert full["log_path"] == str(site.folder / "supernode" / "supernode.log")
    assert full["project_slug"] == "fed-project"
    await eventually(lambda: site.site.coordinator.state == "connected")
    wrong = await site.client.get("/health", headers={"Authorization": "Bearer wrong"})
    assert wrong.status_code == 401
    del site.client.headers["Authorization"]
    assert set(await site.get("/health")) == {"status", "version"}


async def test_the_site_token_is_for_its_owner_alone(sites: SiteMaker) -> None:
    async with sites.open() as site:
        assert (site.folder / "site.token").stat().st_mode & 0o777 == 0o600
        assert site.folder.stat().st_mode & 0o777 == 0o700


def the_file(folder: Path) -> str:
    path = folder / "no-certificate"
    path.write_text("hello")
    return str(path)


REFUSED_STARTS: list[tuple[dict[str, Any], str]] = [
    ({"partition_id": -1, "num_partitions": 3}, "partition_id"),
    ({"partition_id": 3, "num_partitions": 3}, "partition_id 3 is not below num_partitions 3"),
    ({"partition_id": 0}, "partition_id and num_partitions go together"),
    ({"partition_id": 0, "num_partitions": 0}, "num_partitions"),
    ({"partition_id": "0", "num_partitions": 3}, "partition_id"),
    ({"partition": 0}, "partition"),
    ({"node_config": {"partition-id": 7}}, "partition-id is set by partition_id"),
    ({"node_config": {"node-name": "another"}}, "node-name is set by PARTICIPANT_NODE_NAME"),
    ({"node_config": {"a b": 1}}, "'a b'"),
    ({"node_config": {"a": [1]}}, "node_config"),
    ({"node_config": {"a": "both ' and \""}}, "both kinds of quotes"),
    ({"node_config": {"a": "line\nbreak"}}, "do not print"),
    ({"node_config": {"a": 2**63}}, "64 bits"),
    ({"superlink_address": "nowhere"}, "is not host:port"),
    ({"superlink_address": "127.0.0.1:70000"}, "is not host:port"),
    ({"superlink_address": "https://127.0.0.1:9092"}, "is not host:port"),
    ({"insecure": True, "superlink_address": "192.0.2.1:9093"}, "loopback only"),
    ({"insecure": True, "certificates_path": "/etc"}, "exclude each other"),
    ({"certificates_path": "/nowhere/ca.crt"}, "there is no file /nowhere/ca.crt"),
    ({"clientappio_api_address": "0.0.0.0:9094"}, "stays on 127.0.0.1"),
    ({"extra_args": ["--insecure"]}, "'--insecure' is not allowed"),
    ({"extra_args": ["--max-retries", "3", "--isolation", "subprocess"]}, "'--isolation' is not allowed"),
    ({"extra_args": ["--root-certificates=/tmp/ca.crt"]}, "'--root-certificates' is not allowed"),
    ({"extra_args": ["--max-retries"]}, "--max-retries needs a value of type int"),
    ({"extra_args": ["--max-retries", "--max-wait-time"]}, "--max-retries needs a value of type int"),
    ({"extra_args": ["--max-wait-time", "soon"]}, "--max-wait-time needs a value of type float"),
    ({"extra_args": ["--trusted-entities", "/nowhere"]}, "names a file that is not there"),
    ({"extra_args": ["3"]}, "'3' is not allowed"),
]


async def test_a_start_request_that_cannot_be_is_refused_and_starts_nothing(site: OpenSite, subtests: pytest.Subtests) -> None:
    for body, words in REFUSED_STARTS:
        with subtests.test(words, body=body):
            answer = await site.post("/supernode/start", body)
            assert answer.status_code == 422, answer.text
            assert words in answer.json()["detail"]
            assert site.site.supernode.state == "stopped"
            assert not (site.folder / "supernode.json").exists()
            assert not (site.folder / "supernode" / "supernode.log").exists()


async def test_a_file_that_is_no_certificate_is_refused(site: OpenSite, tmp_path: Path) -> None:
    answer = await site.post("/supernode/start", {"certificates_path": the_file(tmp_path)})
    assert answer.status_code == 422
    assert "holds no PEM certificate" in answer.json()["detail"]


async def test_a_site_that_is_not_enrolled_starts_nothing(sites: SiteMaker) -> None:
    async with sites.open() as site:
        answer = await site.post("/supernode/start")
        assert answer.status_code == 409
        assert answer.json()["type"].endswith("#not-enrolled")


@pytest.mark.parametrize(
    ("insecure", "to_tls", "words"),
    [
        (False, None, "Nothing answers at 127.0.0.1:1"),
        (False, False, "does not speak TLS"),
        (True, True, "it may want TLS"),
    ],
)
async def test_an_unreachable_superlink_is_a_precise_problem_and_changes_nothing(
    site: OpenSite, superlink_there: Listener, insecure: bool, to_tls: bool | None, words: str
) -> None:
    async with appeared(superlink()) as plain:
        port = {None: 1, True: superlink_there.port, False: plain.port}[to_tls]
        body = {"superlink_address": f"127.0.0.1:{port}", "insecure": insecure}
        answer = await site.post("/supernode/start", body)
    assert answer.status_code == 424, answer.text
    assert answer.json()["type"].endswith("#superlink-unreachable")
    assert words in answer.json()["detail"]
    assert not (site.folder / "supernode.json").exists()


async def test_a_superlink_with_another_ca_is_refused(site: OpenSite, tmp_path: Path) -> None:
    async with appeared(superlink(*make_certificate(tmp_path))) as stranger:
        answer = await site.post("/supernode/start", {"superlink_address": f"127.0.0.1:{stranger.port}"})
    assert answer.status_code == 424
    assert "is not one of the CA" in answer.json()["detail"]


async def test_an_insecure_supernode_has_no_key_and_is_not_deactivated(site: OpenSite, sites: SiteMaker) -> None:
    async with appeared(superlink()) as plain:
        await site.start(superlink_address=f"127.0.0.1:{plain.port}", insecure=True)
        started = (site.folder / "supernode" / "started-with.json").read_text()
        assert "--insecure" in started
        assert "--auth-supernode-private-key" not in started
        pid = site.record().pid
        site.tell_supernode("exit 1")
        await site.running(not_pid=pid)
    assert sites.deactivated() == []


async def test_a_coordinator_without_tls_is_gone_along_with_only_when_asked_to(sites: SiteMaker, admin: AdminStandIn) -> None:
    admin.ca_certificate = None
    async with appeared(superlink()) as plain, sites.open() as site:
        admin.superlink_address = f"127.0.0.1:{plain.port}"
        await site.enrol(admin.invitation())
        refused = await site.post("/supernode/start", {})
        assert refused.status_code == 422
        assert "say insecure: true" in refused.json()["detail"]
        await site.start(insecure=True)


async def test_the_supernode_keeps_its_own_port(site: OpenSite, unused_tcp_port: int) -> None:
    await site.start(clientappio_api_address=f"127.0.0.1:{unused_tcp_port}", extra_args=["--max-retries", "3"])
    pid = site.record().pid
    site.tell_supernode("exit 1")
    await site.running(not_pid=pid)
    started = (site.folder / "supernode" / "started-with.json").read_text()
    assert f'"--port", "{unused_tcp_port}", "--max-retries", "3"' in started


async def test_the_inventory_is_kept_and_reported(sites: SiteMaker, admin: AdminStandIn) -> None:
    dataset = {
        "id": "chest-xray",
        "tags": ["image"],
        "suitable_models": ["cnn"],
        "num_items": 12,
        "label_distribution": {"a": 5, "b": 7},
    }
    async with sites.open() as site:
        await site.enrol(admin.invitation())
        answer = await site.client.put("/inventory", json={"datasets": [dataset]})
        assert answer.status_code == 200
        await eventually(lambda: admin.of_kind("inventory") and admin.of_kind("inventory")[-1]["datasets"] == [dataset])
        hardware = admin.of_kind("inventory")[-1]["hardware"]
        assert hardware["cores"] >= 1
        assert hardware["memory_bytes"] > 2**20
        assert {"arch", "gpus", "os", "python"} <= set(hardware)
    async with sites.open(share_label_distribution=False) as site:
        kept = await site.get("/inventory")
        assert kept["datasets"] == [dataset]
        assert kept["label_distribution_shared"] is False
        said = {key: value for key, value in dataset.items() if key != "label_distribution"}
        await eventually(lambda: admin.of_kind("inventory")[-1]["datasets"] == [said])


REFUSED_INVENTORIES: list[dict[str, Any]] = [
    {},
    {"datasets": [{"id": ""}]},
    {"datasets": [{"id": "a"}, {"id": "a"}]},
    {"datasets": [{"id": "a", "num_items": -1}]},
    {"datasets": [{"id": "a", "label_distribution": {"x": -1}}]},
    {"datasets": [{"id": "a", "colour": "red"}]},
    {"datasets": [], "hardware": {}},
]


async def test_a_wrong_inventory_is_refused_and_the_old_one_stays(sites: SiteMaker, subtests: pytest.Subtests) -> None:
    async with sites.open() as site:
        await site.client.put("/inventory", json={"datasets": [{"id": "kept"}]})
        for body in REFUSED_INVENTORIES:
            with subtests.test(str(body)):
                answer = await site.client.put("/inventory", json=body)
                assert answer.status_code == 422
                assert [one["id"] for one in (await site.get("/inventory"))["datasets"]] == ["kept"]


async def test_a_body_that_is_too_large_is_refused(sites: SiteMaker) -> None:
    async with sites.open(body_limit_bytes=2048) as site:
        answer = await site.client.put("/inventory", json={"datasets": [{"id": "x" * 3000}]})
        assert answer.status_code == 413


async def test_the_log_comes_in_pages_by_key_without_colours(site: OpenSite) -> None:
    await site.start()
    site.tell_supernode("say \x1b[92mone\x1b[0m", "say two", "say three")
    log = site.folder / "supernode" / "supernode.log"
    await eventually(lambda: "three" in log.read_text())
    first = await site.get("/supernode/logs?limit=2")
    assert [line["text"] for line in first["items"]] == ["SuperNode ID: 4711", "one"]
    rest = await site.get(f"/supernode/logs?after={first['next']}")
    assert [line["text"] for line in rest["items"]] == ["two", "three"]
    assert rest["next"] is None
    assert (await site.client.get("/supernode/logs?after=-1")).status_code == 422


async def test_the_log_can_be_followed_and_the_stream_ends_with_the_server(site: OpenSite) -> None:
    await site.start()
    site.tell_supernode("say one")
    log = site.folder / "supernode" / "supernode.log"
    await eventually(lambda: "one" in log.read_text())
    site.tell_supernode("say two")
    await eventually(lambda: "two" in log.read_text())
    site.site.leaving.set()
    answer = await site.client.get("/supernode/logs?follow=true", headers={"Last-Event-ID": "19"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text == ": open\n\n"


def test_beyond_loopback_it_refuses_without_tls(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CLIENT_HOST", "0.0.0.0")
    with pytest.raises(SystemExit) as refused:
        settings_or_exit(Settings)
    assert refused.value.code == 2
    assert "needs TLS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PARTICIPANT_NODE_ID", "../up"),
        ("PARTICIPANT_NODE_ID", ".hidden"),
        ("PARTICIPANT_NODE_NAME", "both ' and \""),
        ("FORWARD_LOGS", "some"),
        ("CLIENT_PORT", "-1"),
        ("CLIENT_THREADS", "-1"),
        ("SPOOL_CAP_BYTES", "10"),
        ("WASM_MODULES", "sha256:" + "a" * 63),
        ("CLIENT_CORS", "*"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        settings_or_exit(Settings)
    assert capsys.readouterr().err.startswith(f"{name}: ")


def test_of_a_list_of_modules_the_wrong_entry_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WASM_MODULES", f"{'a' * 64}, sha256:{'b' * 64}, {'A' * 64}")
    with pytest.raises(SystemExit):
        settings_or_exit(Settings)
    assert "entry 3 is no sha256:… with 64 digits 0-9a-f" in capsys.readouterr().err


def test_an_invitation_in_the_settings_is_not_shown() -> None:
    settings = Settings.model_validate({"invitation": "espalier1.c2VjcmV0"})
    assert "c2VjcmV0" not in repr(settings)


async def test_foreign_pages_are_let_in_only_by_name(sites: SiteMaker) -> None:
    async with sites.open(cors=["https://pages.example"]) as site:

        async def allowed(origin: str) -> str | None:
            headers = {"Origin": origin, "Access-Control-Request-Method": "GET"}
            answer = await site.client.options("/supernode", headers=headers)
            origin_allowed: str | None = answer.headers.get("access-control-allow-origin")
            return origin_allowed

        assert await allowed("https://pages.example") == "https://pages.example"
        assert await allowed("https://other.example") is None
