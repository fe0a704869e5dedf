"""Runs programs in several connected processes each, all at once: ``forked.py JSON``.

The processes are forked from this one, which has imported what takes seconds; else they are as
torchrun starts them. JSON lists ``[count, limit_s, [program, word, ...]]``; printed is, for each
and for each of its ranks, ``[status, stdout, stderr]``. A process that has
been stopped is killed when the others of its program have ended, any at its limit.
"""

import gc
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

import functorch.compile  # noqa: F401 (torch.compile does)
import torch._dynamo  # noqa: F401 (every optimizer does at its first step)
from torch.distributed import TCPStore

import retbench.cli
import retbench.distributed.torch_group  # noqa: F401 (so that no child imports it)


def environment(rank, count, port):
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip


def child(words, changes, out, err):
    """Be one process of a program; does not return."""
    status = 1
    try:
        os.environ |= changes
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main(programs):
    gc.freeze()  # what is imported: no child need search it for garbage, and thereby copy it
    running, stopped, outcomes = {}, set(), [[None] * count for count, _, _ in programs]
    # Listened on from the beginning: a port that is only looked for may be another's when needed.
    meetings = [socket.create_server(("127.0.0.1", 0)) for _ in programs]
    ports = [meeting.getsockname()[1] for meeting in meetings]
    for number, (count, limit_s, words) in enumerate(programs):
        for rank in range(count):
            files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 (to the end)
            if (pid := os.fork()) == 0:
                for meeting in meetings:
                    meeting.close()
                child(words, environment(rank, count, ports[number]), *files)
            running[pid] = (number, rank, time.monotonic() + limit_s, files)
    # Where the ranks meet; made after the forks, for it has threads, and kept as torchrun does.
    stores = [
        TCPStore(
            "127.0.0.1", port, is_master=True, wait_for_workers=False,
            master_listen_fd=meeting.detach(),
        )
        for port, meeting in zip(ports, meetings, strict=True)
    ]  # fmt: skip
    while running:
        for pid, (number, rank, until, files) in list(running.items()):
            changed, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if changed and os.WIFSTOPPED(status):
                stopped.add(pid)
            elif changed:
                texts = [(file.seek(0), file.read())[1] for file in files]
                outcomes[number][rank] = [os.waitstatus_to_exitcode(status), *texts]
                del running[pid]
            elif time.monotonic() > until or (
                pid in stopped and [other[0] for other in running.values()].count(number) == 1
            ):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    del stores
    return outcomes


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
