"""What a SuperLink may be started with, and the command line that comes of it."""

from pathlib import Path
from typing import Any

import pytest
from admin_server import tls
from admin_server.errors import AddressInvalid, ArgumentRefused, CertificatesInvalid
from admin_server.schemas import SuperlinkStart
from admin_server.settings import Settings
from admin_server.superlink_plan import SuperlinkPlan, parse_address, plan


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def planned(home: Path, **request: Any) -> SuperlinkPlan:
    return plan(SuperlinkStart(**request), Settings(espalier_home=home, apps_dir=home, superlink_port=9092))


def test_the_default_has_tls_node_keys_and_no_public_socket(home: Path) -> None:
    made = planned(home)
    argv = made.superlink_argv()
    assert argv[argv.index("--listen") + 1] == "127.0.0.1:9092"
    assert "--enable-supernode-auth" in argv
    assert "--insecure" not in argv
    assert "--public" not in argv
    assert argv[argv.index("--isolation") + 1] == "process"
    assert "--disable-runtime-dependency-installation" in argv
    assert (made.public_address, made.address_for("fed.example.org")) == (None, "127.0.0.1:9092")


def test_no_secret_stands_in_an_argument(home: Path) -> None:
    made = planned(home)
    secret = made.secret().read_text().strip()
    assert len(secret) > 30
    assert secret not in " ".join([*made.superlink_argv(), *made.executor_argv()])
    assert made.secret().stat().st_mode & 0o077 == 0


def test_a_listen_address_adds_the_fleet_socket_and_its_name_to_the_certificate(home: Path) -> None:
    made = planned(home, listen_address="fed.example.org:9500")
    argv = made.superlink_argv()
    assert argv[argv.index("--public") + 1] == "fed.example.org:9500"
    assert made.public_address == "fed.example.org:9500"
    assert made.address_for("10.0.0.9") == "10.0.0.9:9500"
    assert tls.serves(tls.ensure(home / "tls"), ["fed.example.org", "localhost", "127.0.0.1"])


def test_insecure_is_for_this_machine_alone(home: Path) -> None:
    argv = planned(home, insecure=True, listen_address="127.0.0.1:9500").superlink_argv()
    assert "--insecure" in argv
    assert "--enable-supernode-auth" not in argv
    for address in ("0.0.0.0", "10.0.0.9:9500", "fed.example.org"):
        with pytest.raises(AddressInvalid, match="for this machine only"):
            planned(home, insecure=True, listen_address=address)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0", ("0.0.0.0", 9093)),
        ("fed.example.org:80", ("fed.example.org", 80)),
        ("[::1]:9500", ("::1", 9500)),
        ("[::]", ("::", 9093)),
        ("::", ("::", 9093)),
    ],
)
def test_an_address_is_a_host_and_maybe_a_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, 9092) == address


@pytest.mark.parametrize("text", ["host:", ":9093", "host:0", "host:70000", "host:9092", "http://host", "a b", "host:port"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(AddressInvalid):
        parse_address(text, 9092)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--insecure"], "--insecure"),
        (["--host", "0.0.0.0"], "--host"),
        (["--log-rotation-backup-count", "3", "--isolation=subprocess"], "--isolation"),
        (["--database", ":memory:"], "--database"),
        (["--ssl-keyfile=x"], "--ssl-keyfile"),
        (["--log-file", "/etc/passwd"], "--log-file"),
        (["--log-file"], "--log-file"),
        (["--log-rotation-backup-count=0"], "--log-rotation-backup-count"),
        (["stray"], "stray"),
    ],
)
def test_the_first_argument_that_is_not_allowed_is_named(home: Path, arguments: list[str], named: str) -> None:
    with pytest.raises(ArgumentRefused) as refused:
        planned(home, extra_args=arguments)
    assert refused.value.facts["argument"] == named
    assert named in refused.value.detail


def test_allowed_arguments_reach_the_command_line(home: Path) -> None:
    given = [f"--log-file={home / 'x.log'}", "--log-rotation-interval-hours", "12"]
    argv = planned(home, extra_args=given).superlink_argv()
    assert argv[-4:] == ["--log-file", str(home / "x.log"), "--log-rotation-interval-hours", "12"]


def test_certificates_of_ones_own_are_used_and_checked(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    tls.ensure(folder)
    made = planned(home, certificates_path=str(folder))
    assert made.ca == folder / "ca.crt"
    assert str(folder / "server.key") in made.superlink_argv()
    (folder / "server.key").unlink()
    with pytest.raises(CertificatesInvalid, match=r"server\.key does not exist"):
        planned(home, certificates_path=str(folder))
    with pytest.raises(CertificatesInvalid, match="absolute"):
        planned(home, certificates_path="mine")
    with pytest.raises(CertificatesInvalid, match="leave one of them out"):
        planned(home, insecure=True, certificates_path=str(folder))
