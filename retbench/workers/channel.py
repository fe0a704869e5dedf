"""What the ranks of one run tell each other outside their workers: JSON lines over sockets.

Rank 0 has a connection to each of the others. A socket, unlike a store, can be waited for together
with a worker's replies, in one ``poll`` without a thread or a timer; and it tells that the other
end has gone. The store that torchrun provides only says where rank 0 listens.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retbench.distributed.launch import Launch
from retbench.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

Message = dict[str, Any]

MEETING_S = 300.0
"""How long all ranks may take to meet: machines are not equally quick to import."""

_ADDRESS_KEY = "retbench/listens"
_HELLO_S = 10.0
_LOOPBACK = "127.0.0.1"
# An end whose machine has gone sends nothing: so it is asked, and given up after a minute.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


class Channel:
    """One end of a connection between two ranks.

    Args:
        connected: the socket; closed with the channel.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket, self._buffer = connected, b""
        connected.settimeout(None)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE.items():
            if hasattr(socket, name):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def fileno(self) -> int:
        """What to wait for with ``poll``."""
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Send a message; that the other end has gone is noticed when it is heard."""
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def received(self) -> list[Message]:
        """The messages that have come since the last call, without waiting.

        Raises:
            EOFError: none have, and the other end has gone.
        """
        ended = False
        try:
            while chunk := self._socket.recv(1 << 16, socket.MSG_DONTWAIT):
                self._buffer += chunk
            ended = True
        except BlockingIOError:
            pass
        except OSError:
            ended = True
        *lines, self._buffer = self._buffer.split(b"\n")
        if ended and not lines:
            raise EOFError("the other end has gone")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Let the other end know that nothing more will come."""
        self._socket.close()


def meet_store(launched: Launch) -> Store:
    """The store that torchrun's processes share; rank 0 of some launches holds it itself.

    Raises:
        UserError: it cannot be reached.
    """
    from datetime import timedelta

    from torch.distributed.rendezvous import rendezvous

    try:
        store: Store = next(rendezvous("env://", timeout=timedelta(seconds=MEETING_S)))[0]
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"rank {launched.rank} cannot reach the other processes at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: {reason}"
        ) from error
    return store


def channels_of_first(launched: Launch, store: Store) -> Mapping[int, Channel]:
    """Rank 0's connections, by the rank at the other end; waits until all have come.

    Raises:
        UserError: some do not.
    """
    token = secrets.token_hex(16)
    is_local = launched.local_size == launched.size
    found: dict[int, Channel] = {}
    deadline = time.monotonic() + MEETING_S
    with socket.create_server((_LOOPBACK if is_local else "", 0)) as server:
        place = {
            "host": _LOOPBACK if is_local else _own_address(),
            "port": server.getsockname()[1],
            "token": token,
        }
        store.set(_ADDRESS_KEY, json.dumps(place))
        while len(found) < launched.size - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connected, _ = server.accept()
            except TimeoutError:
                late = sorted(set(range(1, launched.size)) - set(found))
                raise UserError(
                    f"rank {', '.join(map(str, late))} did not come within {MEETING_S:g} s"
                ) from None
            channel = Channel(connected)
            hello = _first_message(channel)
            if hello.get("token") == token:
                found[hello["rank"]] = channel
            else:
                channel.close()  # somebody else's
    return dict(sorted(found.items()))


def channel_to_first(launched: Launch, store: Store) -> Channel:
    """The connection of another rank to rank 0.

    Raises:
        UserError: it cannot be made.
    """
    deadline = time.monotonic() + MEETING_S
    try:
        while not store.check([_ADDRESS_KEY]):  # a wait inside could not be interrupted
            if time.monotonic() > deadline:
                raise TimeoutError("it does not listen")
            time.sleep(0.05)
        place = json.loads(store.get(_ADDRESS_KEY))
        # Where rank 0 holds the store itself, by the name under which all reach that.
        host = place["host"] or os.environ["MASTER_ADDR"]
        channel = Channel(socket.create_connection((host, place["port"]), timeout=MEETING_S))
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"rank {launched.rank} cannot reach rank 0: {reason}") from error
    channel.send({"rank": launched.rank, "token": place["token"]})
    return channel


def _own_address() -> str:
    """The address of this machine as the others see it; empty where it is the store's."""
    store = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    with socket.create_connection(store, timeout=_HELLO_S) as connected:
        address = str(connected.getsockname()[0])
    return "" if address.startswith("127.") or address == "::1" else address


def _first_message(channel: Channel) -> Message:
    """What a rank says of itself; empty where nothing comes."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.poll(_HELLO_S * 1000)
    try:
        return next(iter(channel.received()), {})
    except (EOFError, ValueError):
        return {}
