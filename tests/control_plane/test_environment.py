import pytest
from control_plane.environment import child_environment


def test_only_what_is_on_the_list_reaches_a_child() -> None:
    ours = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "PYTHONPATH": "/here",
        "CUDA_VISIBLE_DEVICES": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "DATABASE_URL": "postgres://u:p@h/d",
        "SUPABASE_KEY": "k",
        "GITHUB_TOKEN": "t",
        "INVITATION": "espalier1.x",
        "AWS_SECRET_ACCESS_KEY": "s",
        "ESPALIER_HOME": "/state",
        "SOMETHING": "else",
        "NVIDIA_API_KEY": "nvapi-1",
    }
    child = child_environment({"ESPALIER_RUN_DIR": "/runs/1"}, source=ours)
    assert set(child) == {
        *("PATH", "LC_ALL", "PYTHONPATH", "CUDA_VISIBLE_DEVICES", "TOKENIZERS_PARALLELISM", "ESPALIER_RUN_DIR"),
        *("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"),
        *("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "PYTHONUNBUFFERED"),
    }
    assert child["FLWR_TELEMETRY_ENABLED"] == "0"


@pytest.mark.parametrize("name", ["DATABASE_URL", "SUPABASE_URL", "NODE_TOKEN", "TLS_KEY", "my_password", "INVITATION_FILE"])
def test_a_name_that_says_secret_is_refused_even_when_it_is_asked_for(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        child_environment({name: "x"}, source={})


def test_what_is_asked_for_wins() -> None:
    assert child_environment({"PATH": "/mine", "OMP_NUM_THREADS": "1"}, source={"PATH": "/bin"})["PATH"] == "/mine"
