import getpass
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retbench.machine import host, memory, provenance


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    command = [sys.executable, "-m", "retbench", "run", "--out", str(Path.home() / "runs" / "x")]
    return provenance.provenance("cpu", 2, command, seed=7)


def test_provenance_says_what_a_reader_needs(found: dict[str, Any]) -> None:
    assert found["processor"]["name"]
    assert found["processor"]["physical_cores"] >= 1
    assert found["memory"]["total_bytes"] > 2**28
    assert found["versions"]["pandas"].count(".") >= 1
    assert found["threads"] == 2
    assert found["seed"] == 7
    assert len(found["load_average"]) == 3
    assert found["time"].endswith("+00:00")
    assert found["gpu"] is None


def test_provenance_can_be_kept_as_json(found: dict[str, Any]) -> None:
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_provenance_names_neither_host_nor_user_nor_folder(found: dict[str, Any]) -> None:
    text = json.dumps(found)
    for private in (str(Path.home()), str(provenance.PROJECT_ROOT), sys.prefix):
        assert private not in text
    assert f'"{socket.gethostname()}"' not in text
    assert f'"{getpass.getuser()}"' not in text
    assert found["command"].split()[1:] == ["-m", "retbench", "run", "--out", "x"]


def test_provenance_does_not_import_torch() -> None:
    program = (
        "import sys; from retbench.machine.provenance import provenance;"
        "provenance('cpu', 1, []); sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=provenance.PROJECT_ROOT).returncode == 0
    )


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package",))
    assert provenance.provenance("cpu", 1, [])["versions"] == {"no-such-package": None}


def test_the_machine_id_is_stable(found: dict[str, Any]) -> None:
    assert provenance.provenance("cpu", 1, ["other"])["machine_id"] == found["machine_id"]


@pytest.mark.parametrize(
    "change",
    [
        {"processor": {"name": "Another", "logical_cores": 2}},
        {"gpu": {"name": "Another"}},
        {"memory": {"total_bytes": 2**40}},
    ],
)
def test_the_machine_id_tells_machines_apart(found: dict[str, Any], change: Any) -> None:
    assert provenance.machine_id(found | change) != found["machine_id"]


def test_a_machine_without_the_gpu_asked_for_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "output", lambda *_, **__: "")
    found = provenance.provenance("cuda", 1, [])
    assert found["gpu"] is None and found["energy_counter"] is None


def test_a_gpu_is_described_by_torch_and_by_the_driver_of_the_same_one(
    monkeypatch: pytest.MonkeyPatch, driver: Callable[..., None]
) -> None:
    told = {"uuid": "b-2", "name": "H100", "memory_bytes": 2**36}
    monkeypatch.setattr(host, "output", lambda *_, **__: json.dumps(told))
    driver(uuids=("GPU-a-1", "GPU-b-2"))
    gpu = provenance.gpu()
    assert gpu is not None and "uuid" not in json.dumps(gpu)
    assert (gpu["name"], gpu["memory_bytes"]) == ("H100", 2**36)
    assert gpu["driver"]["name"] == "GPU 1" and gpu["driver"]["power_limit_w"] == 700.0
    assert provenance.provenance("cuda", 1, [])["energy_counter"] == "nvml"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/usr/bin/python -m retbench", "python -m retbench"),
        ("--out=/home/anna/runs/x", "--out=x"),
        ("~/runs/x", "x"),
        ('File "/home/anna/lib/torch/nn.py", line 3', 'File "nn.py", line 3'),
        (f"{provenance.PROJECT_ROOT}/retbench/runner.py:3", "retbench/runner.py:3"),
        ("8 tokens/s at 3 GiB/s", "8 tokens/s at 3 GiB/s"),
        ("see https://pytorch.org/docs/notes", "see https://pytorch.org/docs/notes"),
        ("results/cpu", "results/cpu"),
    ],
)
def test_absolute_paths_are_shortened(text: str, shown: str) -> None:
    assert provenance.anonymous(text) == shown


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_the_commit_and_whether_the_tree_was_changed(tmp_path: Path) -> None:
    git(tmp_path, "init")
    assert provenance._commit(tmp_path) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETBENCH_COMMIT", "0f" * 20)
        assert provenance._commit(tmp_path) == {"hash": "0f" * 20, "dirty": None}
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = provenance._commit(tmp_path)
    assert commit is not None
    assert len(commit["hash"]) == 40
    assert commit["dirty"] is False
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run.json").write_text("{}")
    assert provenance._commit(tmp_path) == commit
    (tmp_path / "code.py").write_text("2")
    assert provenance._commit(tmp_path) == commit | {"dirty": True}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "checkout")
    (tmp_path / "checkout" / "code.py").write_text("1")
    git(tmp_path / "checkout", "add", ".")
    git(tmp_path / "checkout", "commit", "-m", "first")
    return tmp_path / "checkout"


def dirty(checkout: Path) -> bool | None:
    commit = provenance._commit(checkout)
    assert commit is not None
    known: bool | None = commit["dirty"]
    return known


@pytest.mark.parametrize(
    "setting", [("status.showUntrackedFiles", "no"), ("core.excludesFile", "hidden"), None]
)
def test_a_new_file_is_a_change_whatever_the_users_settings_hide(
    checkout: Path, tmp_path: Path, setting: tuple[str, str] | None
) -> None:
    (tmp_path / "hidden").write_text("new_*.py\n")
    if setting is None:
        (checkout / ".git" / "info").mkdir(exist_ok=True)
        (tmp_path / "hidden").rename(checkout / ".git" / "info" / "exclude")
    else:
        name, value = setting
        git(checkout, "config", name, str(tmp_path / value) if value == "hidden" else value)
    assert dirty(checkout) is False
    (checkout / "new_mixer.py").write_text("1")
    assert dirty(checkout) is True


def test_what_the_checkout_itself_ignores_is_no_change(checkout: Path) -> None:
    (checkout / ".gitignore").write_text("*.pyc\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "second")
    (checkout / "code.pyc").write_text("1")
    assert dirty(checkout) is False


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_where_git_may_not_look_a_change_is_unknown(checkout: Path, flag: str) -> None:
    git(checkout, "update-index", flag, "code.py")
    (checkout / "code.py").write_text("2")
    assert dirty(checkout) is None


def test_the_commit_is_not_that_of_the_repository_whose_hook_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("own", "other"):
        git(tmp_path, "init", name)
        git(tmp_path / name, "commit", "--allow-empty", "-m", name)
    own = provenance._commit(tmp_path / "own")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other" / ".git" / "index"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "own"))
    assert own is not None and provenance._commit(tmp_path / "own") == own


def test_variables_that_decide_speed_are_recorded_without_paths() -> None:
    found = provenance.environment({
        "OMP_NUM_THREADS": "2", "HOME": "/home/me", "LD_PRELOAD": "/home/me/a.so:/home/me/b.so",
        "TORCHDYNAMO_DISABLE": "1", "MY_OMP_": "no", "CXX": "/opt/gcc/bin/g++-13", "CCACHE": "no",
        "LD_LIBRARY_PATH": "/home/me/lib64:/opt/cuda/lib", "ROCBLAS_LAYER": "0", "FLA_X": "1",
    })  # fmt: skip
    assert found == {
        "LD_PRELOAD": "a.so:b.so", "OMP_NUM_THREADS": "2", "TORCHDYNAMO_DISABLE": "1",
        "CXX": "g++-13", "LD_LIBRARY_PATH": "lib64:lib", "ROCBLAS_LAYER": "0", "FLA_X": "1",
    }  # fmt: skip


def test_neither_a_credential_nor_an_address_nor_another_programs_variable_is_recorded() -> None:
    found = provenance.environment({
        "ROCKETCHAT_PASSWORD": "x", "TORCHSERVE_X": "x", "TORCHELASTIC_RUN_ID": "x",
        "CUBLASX": "x", "TRITON_API_KEY": "x", "CUDA_AUTH_TOKEN": "x", "TRITON_REDIS_HOST": "x",
        "NCCL_COMM_ID": "10.0.0.1:5",
        "TORCHINDUCTOR_REDIS_URL": "redis://me:s3cret@cache/0 gz", "ROCM_X": "1",
        "TRITON_REDIS_KEY_FORMAT": "{k}", "CC": "gcc\n-O2\r\n", "ROC_ACTIVE_WAIT_TIMEOUT": "9",
    })  # fmt: skip
    assert found == {
        "TORCHINDUCTOR_REDIS_URL": "redis://... gz", "ROCM_X": "1", "CC": "gcc -O2",
        "TRITON_REDIS_KEY_FORMAT": "{k}", "ROC_ACTIVE_WAIT_TIMEOUT": "9",
    }  # fmt: skip


def test_a_pattern_is_a_name_or_ends_in_an_underscore() -> None:
    patterns = [pattern for pattern in provenance.ENVIRONMENT if "*" in pattern]
    assert all(pattern.endswith("_*") and pattern.count("*") == 1 for pattern in patterns)


def test_the_memory_has_the_limit_of_the_control_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "limit_bytes", lambda: 3)
    assert provenance._memory()["limit_bytes"] == 3


def test_so_are_those_of_python_the_loader_and_the_libraries() -> None:
    names = (
        "PYTHONMALLOC", "PYTHONTRACEMALLOC", "PYTHONDEVMODE", "PYTHONOPTIMIZE", "LD_AUDIT",
        "LD_BIND_NOW", "CUBLASLT_WORKSPACE_SIZE", "GPU_MAX_HW_QUEUES", "AMD_DIRECT_DISPATCH",
        "_RJEM_MALLOC_CONF", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG", "PYTHON_JIT",
        "PYTHON_GIL", "PYTHONPERFSUPPORT", "ENABLE_PERSISTENT_TMA_MATMUL",
        "CUTLASS_EPILOGUE_FUSION", "CUTEDSL_ENABLE_AUTOTUNING", "INDUCTOR_PROVENANCE",
        "AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL",
    )  # fmt: skip
    assert provenance.environment(dict.fromkeys(names, "1")) == dict.fromkeys(names, "1")


def test_a_commit_that_cannot_be_told_has_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert provenance.why_no_commit(tmp_path) == "the code is in no checkout of its own"
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(provenance, "which", lambda name: None)
    assert provenance.why_no_commit(tmp_path) == "git is not installed"


def test_a_folder_inside_another_checkout_has_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "first")
    (tmp_path / "site-packages").mkdir()
    assert provenance._commit(tmp_path / "site-packages") is None
