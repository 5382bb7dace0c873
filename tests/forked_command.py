"""Runs a module in a process that the fork server of the tests starts, for commands in shell scripts.

Started as `python tests/forked_command.py FD MODULE ARGUMENTS`, FD being the inherited socket of the fork server. Ends
with the exit status of that process, and forwards SIGTERM and SIGINT to it. It imports little, so that it starts fast.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

FORWARDED = (signal.SIGTERM, signal.SIGINT)


def main(server: int, module: str, *arguments: str) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # until there is a process to forward them to
    request = {"module": module, "arguments": arguments, "environ": dict(os.environ), "folder": os.getcwd()}
    ours, theirs = os.pipe()
    socket.send_fds(socket.socket(fileno=server), [json.dumps(request).encode()], [1, 2, theirs])
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        pid = int(pipe.readline())
        for number in FORWARDED:
            signal.signal(number, lambda number, _: os.kill(pid, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        status = int(pipe.readline())
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
