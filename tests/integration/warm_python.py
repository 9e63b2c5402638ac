"""A Python that has imported what a sweep's jobs import, and forks for each job: seconds less of work a start.

python -m warm_python SOCKET              serves until the end of its standard input
python -I -S warm_python.py SOCKET WORDS  stands for `python WORDS`: a fork of the server with its files, folder and
                                          environment, which gets its signals, dies with it, and whose end is its own
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
"""What is passed on. What cannot be, SIGKILL, ends the connection, and the fork with it."""
IMPORTS = (
    "torch._dynamo",
    "torch._decomp.decompositions_for_jvp",
    "h5netcdf.legacyapi",
    "submitit.core.submission",
    "sweeps._held",
)


def main() -> int:
    """Ask for a fork and wait for its end; Slurm starts this, signals it and looks at how it ends."""
    path, *words = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        asked = json.dumps({"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
        socket.send_fds(server, [len(asked).to_bytes(4, "little")], [0, 1, 2])
        server.sendall(asked)
        answers = server.makefile()
        pid = int(answers.readline())
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: passed_on(pid, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        code = int(answers.readline())
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if code != -signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    return code


def passed_on(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def serve(path: str) -> None:
    """Answer every client by a fork that minds another one, which does the work."""
    from importlib import import_module

    import torch

    torch.set_num_threads(1)
    for name in IMPORTS:
        import_module(name)
    import_module("fast_files").write_fast()
    gc.freeze()  # or every fork looks through all of it, and copies it by that
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        print("up", flush=True)
        while True:
            ready = select.select([0, listening], [], [], 1)[0]
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if 0 in ready and not os.read(0, 1024):
                return
            if listening in ready:
                client = listening.accept()[0]
                if os.fork() == 0:
                    listening.close()
                    mind(client)
                client.close()


def mind(client: socket.socket) -> None:
    """Fork for a client, and end the fork with the client."""
    try:
        size, files, _, _ = socket.recv_fds(client, 4, 3)
        asked = json.loads(client.recv(int.from_bytes(size, "little"), socket.MSG_WAITALL))
        pid = os.fork()
        if pid == 0:
            client.close()
            os.setsid()
            work(files, **asked)
        client.sendall(f"{pid}\n".encode())
        handle = os.pidfd_open(pid)
        if client in select.select([handle, client], [], [])[0]:  # it never speaks again: that is its end
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(OSError):
            client.sendall(f"{code}\n".encode())
    finally:
        os._exit(0)


def work(files: list[int], words: list[str], folder: str, environment: dict[str, str]) -> None:
    """Be `python -u -m MODULE WORDS`."""
    import runpy
    import traceback

    code = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        assert words[:2] == ["-u", "-m"], words
        sys.argv = words[2:]
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


@contextlib.contextmanager
def warm_python() -> Iterator[str]:
    """Serve; yields the command that stands for `python`."""
    import shlex
    import subprocess
    import tempfile

    here = os.path.dirname(os.path.abspath(__file__))
    modules = os.pathsep.join([here, os.path.dirname(here), os.environ.get("PYTHONPATH", "")])
    pipe, environment = subprocess.PIPE, {**os.environ, "PYTHONPATH": modules.rstrip(os.pathsep)}
    # not pytest's folder: the path of a unix socket may have 107 characters only
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        path = os.path.join(folder, "python.socket")
        command = [sys.executable, "-m", "warm_python", path]
        with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            assert server.stdout.readline() == "up\n"
            yield shlex.join([sys.executable, "-I", "-S", os.path.abspath(__file__), path])
            server.stdin.close()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        sys.exit(main())
