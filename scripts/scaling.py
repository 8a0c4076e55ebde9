#!/usr/bin/env python3
"""Runs what docs/scaling.md shows, in its order, on a private PostgreSQL server.

`cargo run` starts the program that the tests have built, which is `duality` for all other commands. Between them, a person
is written, and after the backup was restored, the service has that person again, in an epoch of its own.
"""

import glob
import json
import os
import pwd
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHOWN_HOST = "/var/run/postgresql"
CARGO_RUN = "cargo run --release --features postgres-bundled --"


def blocks():
    with open(os.path.join(ROOT, "docs", "scaling.md"), encoding="utf-8") as file:
        return re.findall(r"^```sh\n(.*?)^```\n", file.read(), re.M | re.S)


def server_user():
    """The user who may run the server: not root."""
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else None


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "127.0.0.1:%d" % probe.getsockname()[1]


class Server:
    """A server of its own, which is reached over a socket in its directory."""

    def __init__(self, directory):
        self.directory, self.user = directory, server_user()
        if self.user:
            os.chown(directory, self.user.pw_uid, self.user.pw_gid)
        self.run("initdb", "--pgdata=data", "--username=duality", "--auth=trust", "--locale=C", "--encoding=UTF8", "--no-sync")
        self.run("pg_ctl", "-D", "data", "-l", "log", "-w", "-o", f"-k {directory} -c listen_addresses= -c fsync=off", "start")

    def run(self, *command):
        as_user = ["runuser", "-u", self.user.pw_name, "--"] if self.user else []
        subprocess.run(as_user + list(command), cwd=self.directory, check=True, stdout=subprocess.DEVNULL)

    def stop(self):
        self.run("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")


class Service:
    """The service of a command line."""

    def __init__(self, arguments, environment, directory):
        self.address = free_address()
        command = f"exec duality {arguments}"
        environment = environment | {"DUALITY_LISTEN": self.address}
        self.process = subprocess.Popen(["bash", "-c", command], cwd=directory, env=environment)
        for _ in range(600):
            try:
                self.request("/readyz")
                return
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None:
                    sys.exit("the service did not start")
                time.sleep(0.1)
        sys.exit("the service did not start in time")

    def request(self, path, body=None):
        request = urllib.request.Request(f"http://{self.address}{path}", headers={"Content-Type": "application/json"})
        request.data = json.dumps(body).encode() if body else None
        return urllib.request.urlopen(request)

    def persons(self):
        answer = self.request("/persons")
        return json.load(answer), answer.headers["X-Epoch"]

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=20)


def run(directory):
    server = Server(directory)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    path = os.path.join(os.path.abspath(target), "debug") + os.pathsep + os.environ["PATH"]
    environment = os.environ | {"PGHOST": directory, "PGUSER": "duality", "PATH": path}
    setup, backup, *others = (block.replace(SHOWN_HOST, directory) for block in blocks())
    before, arguments = setup.split(CARGO_RUN)

    def shell(commands):
        subprocess.run(["bash", "-ec", commands], cwd=directory, env=environment, check=True)

    try:
        shell(before)
        service = Service(arguments, environment, directory)
        try:
            service.request("/persons", {"name": "Ann"})
            known = service.persons()
            dump, restore = backup.split("pg_restore", 1)
            shell(dump)
            service.request("/persons", {"name": "Bob"})
        finally:
            service.stop()
        for commands in ["pg_restore" + restore, *others]:
            shell(commands)
        service = Service(arguments, environment, directory)
        try:
            persons, epoch = service.persons()
        finally:
            service.stop()
    finally:
        server.stop()
    if persons != known[0] or epoch == known[1]:
        sys.exit(f"after the restore: {persons} in the epoch {epoch}; before it: {known}")
    print("scaling.md: all blocks were run")


# Debian keeps the programs of a server out of the PATH.
found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))
os.environ["PATH"] = os.pathsep.join(found[-1:] + [os.environ["PATH"]])
os.environ.setdefault("RUST_LOG", "warn")
with tempfile.TemporaryDirectory() as name:
    run(name)
