from pathlib import Path

import pytest
from control_plane.settings import ServerSettings, is_loopback, settings_or_exit
from pydantic import Field, ValidationError


class Settings(ServerSettings):
    host: str = Field(default="127.0.0.1", validation_alias="TEST_HOST")
    port: int = Field(default=8000, validation_alias="TEST_PORT")
    admin_secret: int = 0


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("ESPALIER_HOME", "DATA_DIRS", "LOG_LEVEL", "CORS", "TLS_CERTIFICATE", "TLS_KEY", "HOST", "PORT", "BODY_LIMIT_BYTES")
    for name in names:
        monkeypatch.delenv(name, raising=False)


def test_without_any_setting_it_listens_on_loopback_and_lets_no_foreign_page_in() -> None:
    settings = Settings()
    assert (settings.host, settings.cors, settings.tls_certificate) == ("127.0.0.1", [], None)
    assert settings.espalier_home == Path.home() / ".local/state/espalier"


def test_data_are_looked_for_in_the_home_and_where_debian_puts_them_or_in_folders_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ESPALIER_HOME", "/var/espalier")
    monkeypatch.setenv("DATA_DIRS", "")
    assert Settings().handed_on == {"ESPALIER_DATA_DIRS": "/var/espalier/data:/usr/share/datasets"}
    monkeypatch.setenv("DATA_DIRS", "~/images::scans")
    assert Settings().data_dirs == [Path.home() / "images", tmp_path / "scans"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "hospital.example"])
def test_beyond_loopback_it_needs_tls(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_HOST", host)
    with pytest.raises(ValidationError, match=f"listening on {host} needs TLS"):
        Settings()
    monkeypatch.setenv("TLS_CERTIFICATE", "a.crt")
    with pytest.raises(ValidationError, match="go together"):
        Settings()
    monkeypatch.setenv("TLS_KEY", "a.key")
    assert Settings().host == host


def test_loopback_is_known_by_name_and_by_number() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.8.8.8", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "localhost.example", ""]))


def test_origins_are_split_at_commas_and_a_wildcard_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS", "https://a.example/, http://localhost:5173")
    assert Settings().cors == ["https://a.example", "http://localhost:5173"]
    monkeypatch.setenv("CORS", "*")
    with pytest.raises(ValidationError, match="wildcard"):
        Settings()


def test_the_home_may_begin_with_a_tilde_and_levels_may_be_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_HOME", "~/elsewhere")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    assert Settings().espalier_home == Path.home() / "elsewhere"
    assert Settings().log_level == "DEBUG"


def test_a_wrong_setting_is_a_sentence_and_exit_code_2_and_its_value_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADMIN_SECRET", "hunter2")
    monkeypatch.setenv("TEST_PORT", "70000")
    monkeypatch.setenv("BODY_LIMIT_BYTES", "1")
    with pytest.raises(SystemExit) as exit_:
        settings_or_exit(Settings)
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert "ADMIN_SECRET: Input should be a valid integer" in said
    assert "BODY_LIMIT_BYTES: Input should be greater than or equal to 1024" in said
    assert "hunter2" not in said


def test_the_rule_of_two_settings_is_said_as_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEST_HOST", "0.0.0.0")
    with pytest.raises(SystemExit):
        settings_or_exit(Settings)
    assert capsys.readouterr().err.startswith("listening on 0.0.0.0 needs TLS: set TLS_CERTIFICATE and TLS_KEY")
