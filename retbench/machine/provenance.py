"""Where and with what a run was made: hardware, versions, commit, load.

Runs get published: nothing in here names the host, the user or a folder of the machine. Nothing
imports torch either, for the process that asks is the one that must stay idle beside the workers;
on a GPU a short-lived child asks it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from shutil import which
from typing import Any

from retbench.machine import energy, host, memory, nvml
from retbench.machine.threads import wait_policy

PROJECT_ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = (
    "MALLOC_*", "TCMALLOC_*", "MIMALLOC_*", "_RJEM_MALLOC_CONF", "GLIBC_TUNABLES", "LD_PRELOAD",
    "LD_LIBRARY_PATH", "LD_AUDIT", "LD_BIND_NOW", "PYTHONMALLOC", "PYTHONTRACEMALLOC",
    "PYTHONDEVMODE", "PYTHONOPTIMIZE", "COVERAGE_PROCESS_START",
    "OMP_*", "GOMP_*", "KMP_*", "MKL_*", "DNNL_*", "ONEDNN_*", "OPENBLAS_*", "BLIS_*",
    "ATEN_CPU_CAPABILITY", "CUDA_*", "CUBLAS_*", "CUBLASLT_*", "CUDNN_*", "NCCL_*",
    "GLOO_*", "NVIDIA_TF32_OVERRIDE", "DISABLE_ADDMM_CUDA_LT", "HIP_*", "HIPBLASLT_*", "HSA_*",
    "ROC_*", "ROCM_*", "ROCBLAS_*", "ROCR_*", "ROCP_*", "MIOPEN_*", "AMD_*", "GPU_MAX_HW_QUEUES",
    "TORCH_*", "TORCHDYNAMO_*", "TORCHINDUCTOR_*", "TRITON_*", "PYTORCH_*", "FLA_*", "CC", "CXX",
    "PYTHON_JIT", "PYTHON_GIL", "PYTHONPERFSUPPORT", "PYTHON_PERF_JIT_SUPPORT",
    "COVERAGE_PROCESS_CONFIG", "ENABLE_PERSISTENT_TMA_MATMUL", "ENABLE_TEMPLATE_TMA_STORE",
    "ENABLE_TMA_LOAD_FOR_TEMPLATE_EPILOGUE", "CUTLASS_*", "CUTEDSL_*", "AOT_*", "INDUCTOR_*",
    "TENSORIFY_PYTHON_SCALARS",
)  # fmt: skip
"""Variables of the environment that decide how fast something computes.

A pattern ends in an underscore, so that no other program's names begin as it does.
"""

_CONFIDENTIAL = re.compile(
    r"PASSW|PASSPH|SECRET|TOKEN|CREDENTIAL|AUTH|(API|ACCESS|PRIVATE)_?KEY|_HOST(ID)?$|_COMM_ID$"
)
_ADDRESS = re.compile(r"(?<=://)\S+")  # of a cache, say, and with it a password

COMMIT_VARIABLE = "RETBENCH_COMMIT"

PACKAGES = (
    "retbench", "torch", "triton", "numpy", "scipy", "pandas", "matplotlib", "tiktoken",
    "safetensors", "rich", "typer",
)  # fmt: skip

# What decides which kernels a math library picks, and whether the clock can be trusted.
_CPU_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "avx512_fp16",
    "avx_vnni", "amx_bf16", "amx_int8", "amx_tile", "asimd", "bf16", "sve", "sve2",
    "constant_tsc", "nonstop_tsc", "hypervisor",
)  # fmt: skip

_ASK_TORCH = """
import json, torch
p = torch.cuda.get_device_properties(0)
print(json.dumps({"uuid": str(p.uuid), "name": p.name, "memory_bytes": p.total_memory,
    "multiprocessors": p.multi_processor_count, "compute_capability": f"{p.major}.{p.minor}",
    "l2_bytes": p.L2_cache_size, "l2_at_each_call": "warm",
    "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}))
"""

_ABSOLUTE_PATH = re.compile(r"(?<![\w/.~])(?<!:(?=//))[/~](?:[^\s/'\":,()]*/)*([^\s/'\":,()]+)")


def provenance(
    device: str,
    threads: int,
    command: Sequence[str],
    *,
    seed: int | None = None,
    variables: Mapping[str, str] = os.environ,
) -> dict[str, Any]:
    """Everything about this machine and this moment that a reader needs to doubt a number.

    Args:
        device: ``cpu`` or ``cuda``; the GPU is looked at only for the latter.
        threads: CPU threads a worker may use.
        command: the command line, as ``sys.orig_argv`` has it.
        seed: the run's seed.
        variables: the user's environment, as far as it is in force where something is measured.

    Returns:
        A dictionary that JSON can hold. What could not be found out is None.
    """
    graphics = gpu() if device == "cuda" else None
    record: dict[str, Any] = {
        "processor": processor(),
        "gpu": graphics,
        "energy_counter": _energy_counter(device, graphics),
        "memory": _memory(),
        "system": _system(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {name: version(name) for name in PACKAGES},
        "commit": (commit := _commit()),
        "commit_unknown": None if commit else why_no_commit(),
        "environment": environment(variables),
        "command": shlex.join(anonymous(word) for word in command),
        "threads": threads,
        "wait_policy": wait_policy(),
        "seed": seed,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": _load_average(),
    }
    return record | {"machine_id": machine_id(record)}


def environment(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Those of :data:`ENVIRONMENT` that are set, by name, each value one line; paths shortened.

    It gets published: a variable whose name speaks of a credential or a host is left out, and of
    an address in a value its scheme alone is kept.
    """
    return {
        name: " ".join(anonymous(_ADDRESS.sub("...", variables[name])).split())
        for name in sorted(variables)
        if any(fnmatchcase(name, pattern) for pattern in ENVIRONMENT)
        and not _CONFIDENTIAL.search(name)
    }


def machine_id(record: dict[str, Any]) -> str:
    """A stable, anonymous name of a kind of machine: a hash of processor, GPU and memory."""
    graphics = record["gpu"] or {}
    memory_gib = round((record["memory"]["total_bytes"] or 0) / 2**30)
    parts = (
        record["processor"]["name"],
        record["processor"]["logical_cores"],
        graphics.get("name"),
        memory_gib,
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def anonymous(text: str) -> str:
    """``text`` with every absolute path shortened: relative to here, or else to its last name.

    Bytes that are not UTF-8, as a path may hold, are written as escapes.

    >>> anonymous("/usr/bin/python -m retbench run")
    'python -m retbench run'
    """
    for folder in (Path.cwd(), PROJECT_ROOT):
        if len(folder.parts) > 1:
            text = text.replace(f"{folder}/", "")
    return _ABSOLUTE_PATH.sub(r"\1", text).encode(errors="backslashreplace").decode()


def _load_average() -> list[float]:
    """Of one, five and fifteen minutes; nothing where the system does not say."""
    with contextlib.suppress(OSError):
        return [round(load, 2) for load in os.getloadavg()]
    return []


def processor() -> dict[str, Any]:
    """Name, cores, caches and notable flags of the processor.

    ``physical_cores`` and ``logical_cores`` are the machine's, ``usable_cores`` what this process
    may use, ``quota_cores`` what its control group grants (None where it sets no limit).
    """
    described = host.read("/proc/cpuinfo")
    fields = dict(re.findall(r"^([^\t:]+)\s*: (.*)$", described, re.MULTILINE))
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    cores = re.findall(r"physical id\s*: (\d+)[\s\S]*?core id\s*: (\d+)", described)
    logical = os.cpu_count()
    khz = host.max_khz(0)
    return {
        "name": fields.get("model name") or platform.processor() or platform.machine(),
        "physical_cores": len(set(cores)) or logical,
        "logical_cores": logical,
        "usable_cores": len(host.usable_cpus()),
        "quota_cores": host.quota_cores(),
        "caches": _caches(),
        "flags": [flag for flag in _CPU_FLAGS if flag in flags],
        "max_mhz": None if khz is None else khz / 1000,
        "governor": host.read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
    }


def _caches() -> dict[str, str]:
    folders = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    kinds = {"Data": "d", "Instruction": "i", "Unified": ""}
    sizes = {}
    for folder in folders:
        level = host.read(folder / "level")
        kind = kinds.get(host.read(folder / "type"), "")
        sizes[f"L{level}{kind}"] = host.read(folder / "size")
    return sizes


def gpu() -> dict[str, Any] | None:
    """What torch and the driver say of the GPU that torch takes first; None where there is none.

    torch is asked in a child process: a CUDA context in this one would hold device memory. The
    uuid, by which the driver is asked for the same GPU, is not kept, for it names the machine.
    """
    described: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        described.update(
            json.loads(host.output([sys.executable, "-P", "-c", _ASK_TORCH], timeout_s=120.0))
        )
    known = nvml.gpu(described.pop("uuid", None))
    if known is not None:
        driver = known.described()
        described = {"name": driver["name"]} | described | {"driver": driver}
    return described or None


def _energy_counter(device: str, graphics: Mapping[str, Any] | None) -> str | None:
    """What counts the energy of the device, ``nvml`` or ``rapl``; None where nothing does."""
    if device == "cuda":
        return "nvml" if (graphics or {}).get("driver", {}).get("counts_energy") else None
    counter = energy.counter(device)
    return None if counter is None else counter.source


def _memory() -> dict[str, int | None]:
    meminfo = Path("/proc/meminfo")
    return {
        "total_bytes": host.field_bytes(meminfo, "MemTotal"),
        "available_bytes": host.field_bytes(meminfo, "MemAvailable"),
        "swap_bytes": host.field_bytes(meminfo, "SwapTotal"),
        "limit_bytes": memory.limit_bytes(),
    }


def _system() -> dict[str, str | None]:
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', host.read("/etc/os-release"), re.MULTILINE)
    huge = re.search(r"\[(\w+)\]", host.read("/sys/kernel/mm/transparent_hugepage/enabled"))
    return {
        "name": name.group(1) if name else platform.system(),
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "transparent_hugepages": huge.group(1) if huge else None,
    }


def version(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit(root: Path = PROJECT_ROOT) -> dict[str, Any] | None:
    """The commit of the checkout this code is in, and whether it was changed since.

    Runs under ``results/`` do not count: the one that is being made would always be a change.
    What is ignored is for the checkout's own ``.gitignore`` to say, not for the user's settings;
    where git was told not to look at a file, whether anything was changed is unknown. So it is for
    a copy that left its history behind, of which ``RETBENCH_COMMIT`` may say the commit.
    """
    # A hook of git's, and who calls one, names another repository in GIT_DIR.
    own = {name: told for name, told in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        return host.output(["git", "--no-optional-locks", "-C", str(root), *words], environment=own)

    below_top = git("rev-parse", "--show-prefix")
    commit = git("rev-parse", "--verify", "--quiet", "HEAD")
    if not commit or below_top:
        told = os.environ.get(COMMIT_VARIABLE)
        return {"hash": told, "dirty": None} if told else None
    code = ("--", ".", ":!results")
    # The branch comes first, whatever was changed: nothing at all means that git has failed.
    told = git("status", "--porcelain", "--branch", "--untracked-files=no", *code)
    listed = git("ls-files", "-v", "-c", "-o", "--exclude-per-directory=.gitignore", *code)
    tags = {line[0] for line in listed.splitlines()}  # "?" of a new file, "H" of one looked at
    if len(told.splitlines()) > 1 or "?" in tags:
        return {"hash": commit, "dirty": True}
    return {"hash": commit, "dirty": False if told and tags == {"H"} else None}


def why_no_commit(root: Path = PROJECT_ROOT) -> str:
    """Why the commit of the code in a folder cannot be told, in a few words."""
    if not (root / ".git").exists():
        return "the code is in no checkout of its own"
    if which("git") is None:
        return "git is not installed"
    return "git cannot read the checkout"
