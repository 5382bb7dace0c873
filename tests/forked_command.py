"""Runs a module in a process that the fork server of the tests starts, for commands in shell scripts.

Started as `python tests/forked_command.py MODULE ARGUMENTS`; the environment has the address of the fork server. Ends
with the exit status of that process, and forwards signals to it. It imports little, so that it starts fast.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def main(module: str, *arguments: str) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # until there is a process to forward them to
    request = {"module": module, "arguments": arguments, "environ": dict(os.environ), "folder": os.getcwd()}
    request["umask"] = os.umask(0)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.connect("\0" + os.environ["TESTS_FORK_SERVER"])
    ours, theirs = os.pipe()
    socket.send_fds(server, [json.dumps(request).encode()], [1, 2, theirs])
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        pid = int(pipe.readline())
        for number in FORWARDED:
            signal.signal(number, lambda number, _: os.kill(pid, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        status = int(pipe.readline())
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
