"""Slurm's commands, as far as submitit uses them, for one machine: ``fake_slurm.py COMMAND ...``.

Jobs are processes; what is known of them are files in the folder FAKE_SLURM: JOB.pid, and JOB.rc or
JOB.cancelled once they have ended; FAKE_SLURM_FAILED is what a job that failed is said to be. It
imports no third-party package, so that it starts at once.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ["FAKE_SLURM"])


def sbatch(script):
    """Start the tasks of a job or an array."""
    text = Path(script).read_text()
    (STATE / "submissions").open("a").write(text)
    if "--partition=closed" in text:
        sys.exit("sbatch: error: invalid partition specified: closed")
    array = re.search(r"^#SBATCH --array=0-(\d+)", text, re.MULTILINE)
    job = str(os.getpid())
    for index in range(int(array.group(1)) + 1) if array else [None]:
        name = job if index is None else f"{job}_{index}"
        own = {"SLURM_JOB_ID": job, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
        if index is not None:
            own |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(index)}
        ending = shlex.quote(str(STATE / f"{name}.rc"))
        errors = re.search(r"^#SBATCH --error=(\S+)", text, re.MULTILINE).group(1)
        for pattern, given in (("%j", job), ("%A", job), ("%a", str(index))):
            errors = errors.replace(pattern, given)
        last_words = f"echo 'slurmstepd: error: *** JOB {job} ON node1 CANCELLED ***' >> {errors}"
        process = subprocess.Popen(
            [
                "sh",
                "-c",
                f"bash {shlex.quote(script)}; code=$?; [ $code = 0 ] || {last_words}; "
                f"echo $code > {ending}",
            ],
            env=os.environ | own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        (STATE / f"{name}.pid").write_text(str(process.pid))
    print(f"Submitted batch job {job}")


def srun(*words):
    """Become the task, its output in the files that it names."""
    words = list(words)
    streams = {}
    while words[0].startswith("--"):
        flag = words.pop(0)
        if flag in ("--output", "--error"):
            streams[flag] = words.pop(0)
    array, index = (os.environ.get(f"SLURM_ARRAY_{name}", "") for name in ("JOB_ID", "TASK_ID"))
    named = {"%j": os.environ["SLURM_JOB_ID"], "%A": array, "%a": index, "%t": "0"}
    for flag, descriptor in (("--output", 1), ("--error", 2)):
        path = streams[flag]
        for pattern, text in named.items():
            path = path.replace(pattern, text)
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), descriptor)
    os.environ |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    os.execvp(words[0], words)


def sacct(*_):
    """List every job there has been."""
    print("JobID|State|NodeList")
    for file in STATE.glob("*.pid"):
        print(f"{file.stem}|{state_of(file)}|node1")


def state_of(file):
    if file.with_suffix(".cancelled").exists():
        return "CANCELLED by 0"
    if file.with_suffix(".rc").exists():
        code = file.with_suffix(".rc").read_text().strip()
        return "COMPLETED" if code == "0" else os.environ.get("FAKE_SLURM_FAILED", "FAILED")
    return "RUNNING"


def scancel(job):
    """Ask a job to end, and make sure a little later."""
    (STATE / f"{job}.cancelled").touch()
    group = (STATE / f"{job}.pid").read_text()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(int(group), signal.SIGTERM)
    subprocess.Popen(
        ["sh", "-c", f"sleep 3; kill -KILL -- -{group} 2>/dev/null"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


{"sbatch": sbatch, "srun": srun, "sacct": sacct, "scancel": scancel}[sys.argv[1]](*sys.argv[2:])
