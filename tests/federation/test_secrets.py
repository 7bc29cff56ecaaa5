"""A FAB that dumps its environment finds no key and no token of ours."""

from __future__ import annotations

from pathlib import Path

from tests.federation.stack import Stack, wait_for

WORDS = ("TOKEN", "SECRET", "PASSWORD", "DATABASE_URL", "SUPABASE", "INVITATION", "API_KEY")
HARMLESS = ("TOKENIZERS_PARALLELISM", "HF_HUB_DISABLE_IMPLICIT_TOKEN")  # switches of libraries


def secrets_of(stack: Stack) -> list[str]:
    """Every secret that lies in this home."""
    files = [*stack.home.glob("*.token"), *stack.home.glob("sites/*/*.token"), *stack.home.glob("postgres/password*")]
    files += stack.home.glob("superlink/*.secret")
    assert len(files) >= 6, files
    return [text for file in files if (text := file.read_text().strip())]


def test_neither_server_app_nor_client_app_sees_a_secret(stack: Stack) -> None:
    run = stack.wait_end(stack.start_run("trouble", trouble="environment", num_rounds=1, min_available=2))
    assert run["status"] == "completed", run

    def dumps() -> list[str]:
        lines = [line for line in stack.admin.items(f"/runs/{run['id']}/logs") if "ENVIRONMENT" in line["text"]]
        return [line["text"] for line in lines] if {x["source"] for x in lines} == {"serverapp", "clientapp"} else []

    for text in wait_for("both environments in the log", dumps, 20):
        names = [pair.split("=", 1)[0] for pair in text.split("ENVIRONMENT ", 1)[1].split(" ") if "=" in pair]
        assert not [name for name in names if name not in HARMLESS and any(word in name.upper() for word in WORDS)]
        assert not [secret for secret in secrets_of(stack) if secret in text]


def test_no_secret_stands_in_an_argument_a_log_or_a_row(stack: Stack) -> None:
    secrets = secrets_of(stack)
    arguments = " ".join(" ".join(process.cmdline()) for process in stack.processes())
    logs = " ".join(path.read_text(errors="replace") for path in Path(stack.home).rglob("*") if path.suffix in (".log", ".out"))
    for secret in secrets:
        assert secret not in arguments
        assert secret not in logs


def test_secret_files_are_for_their_owner_alone(stack: Stack) -> None:
    for pattern in (
        "admin.token",
        "tls/*.key",
        "superlink/*.secret",
        "sites/*/*.token",
        "sites/*/node.key",
        "postgres/password*",
    ):
        found = list(stack.home.glob(pattern))
        assert found, pattern
        for file in found:
            assert file.stat().st_mode & 0o077 == 0, file
