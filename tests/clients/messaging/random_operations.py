"""The consumers of docs/messaging.md against the real service and a real broker, under random operations.

While persons are written, the service, the broker and the consumers are killed, the broker is away for longer than change
events are kept, its stream is purged, deleted or put back from earlier, and so is the database. After each round, each
consumer has to have printed what GET answers, and nothing that GET has never answered; and the stream
alone has to have the same document.

    random_operations.py OPERATIONS BINARY NATS_SERVER NAME=COMMAND…
"""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nats

ROOT = Path(__file__).parents[3]
# Seconds in which everything has to be as it should be.
DEADLINE = 60
# How long change events are kept: longer than a broker takes to start.
RETENTION = 3
# Seconds between two operations, in the mean, so that faults come in between.
PAUSE = 0.015
# Operations of a round, and the fewest rounds: one for each kind of fault at least.
ROUND, FEWEST_ROUNDS = 100, 10
CITIES = ["St. Gallen", "a/b", "a.b", "*", ">", "_", "100%", "\U0001f600", "é" * 256, "__", "Rome"]
MOST_PERSONS = 25


def free_port():
    """Outside the ephemeral range, so that nobody gets it while its owner is down."""
    for port in random.sample(range(20000, 32000), 100):
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            return port
    raise OSError("no port is free")


def within(seconds, what, condition):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.02)


def digest(document):
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).digest()


class Program:
    """A process that can be killed and started again."""

    def __init__(self, name, command, directory):
        self.name, self.command = name, command
        self.output, self.errors = directory / f"{name}.out", directory / f"{name}.log"
        self.process = None

    def start(self):
        with open(self.output, "ab") as output, open(self.errors, "ab") as errors:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()


class Service(Program):
    """The service, with its database."""

    def __init__(self, binary, directory, broker):
        self.port, self.binary = free_port(), binary
        self.database, self.backup = directory / "shop.db", directory / "backup.db"
        command = [binary, "--listen", f"127.0.0.1:{self.port}", "--database", self.database, "--retention", f"{RETENTION}s"]
        super().__init__("service", command + ["--prune-interval", "200ms", "--publish", broker.url], directory)
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self):
        super().start()
        within(DEADLINE, "the service answers", lambda: self.request("GET", "/persons"))

    def request(self, method, path, body=None):
        """The status, the headers and the body; None if there is no answer."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()
        except (OSError, ValueError):
            return None

    def document(self):
        answer = self.request("GET", "/aggregates")
        return json.loads(answer[2]) if answer and answer[0] == 200 else None

    def run(self, command, *arguments):
        subprocess.run([self.binary, command, *arguments, "--database", self.database], check=True, capture_output=True)

    def save(self):
        self.run("backup", "--force", self.backup)

    def put_back(self):
        self.run("restore", self.backup)

    def path_of_later_events(self):
        """Answers 410 when the events after now are not there any more."""
        _, headers, _ = self.request("GET", "/persons")
        return f"/events?strict=true&limit=1&lastEventId={headers['X-Epoch']}.{headers['X-Revision']}"


class Broker(Program):
    """A NATS server, with its directory."""

    def __init__(self, server, directory):
        self.port, self.store, self.copy = free_port(), directory / "jetstream", directory / "jetstream-copy"
        super().__init__("broker", [server, "-js", "-a", "127.0.0.1", "-p", str(self.port), "-sd", self.store], directory)
        self.url = f"nats://127.0.0.1:{self.port}"

    def start(self):
        super().start()
        within(DEADLINE, "the broker answers", self.answers)

    def answers(self):
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
            return True
        except OSError:
            return False

    def save(self):
        """Keeps a copy of the directory. The broker must not be running."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.store, self.copy)

    def put_back(self):
        shutil.rmtree(self.store)
        shutil.copytree(self.copy, self.store)

    def ask(self, question):
        """Asks JetStream something, as an operator would."""

        async def asked():
            async with await nats.connect(self.url) as connection:
                with contextlib.suppress(nats.js.errors.NotFoundError):
                    await question(connection.jetstream())

        asyncio.run(asked())

    def purge(self):
        self.ask(lambda stream: stream.purge_stream("duality"))

    def delete(self):
        self.ask(lambda stream: stream.delete_stream("duality"))


class Consumer(Program):
    """One of the consumers, and what it has printed."""

    def __init__(self, name, command, directory):
        super().__init__(name, command, directory)
        self.read, self.last, self.lines = 0, None, 0

    def new_documents(self):
        """What it has printed since the last call."""
        with open(self.output, "rb") as output:
            output.seek(self.read)
            text = output.read()
        # A process that was killed may have printed half a line.
        whole, _, _ = text.rpartition(b"\n")
        for line in whole.split(b"\n"):
            with contextlib.suppress(ValueError):
                self.last = json.loads(line)
                self.lines += 1
                yield self.last
        self.read += len(whole) + bool(whole)

    def start(self):
        if self.output.exists():
            with open(self.output, "ab") as output:
                output.write(b"\n")
        self.last = None
        super().start()


class Case:
    """All of them, and every document that GET has answered."""

    def __init__(self, directory, arguments):
        operations, binary, server, *consumers = arguments
        self.operations = int(operations)
        self.broker = Broker(server, directory)
        self.service = Service(binary, directory, self.broker)
        places = [self.broker.url, f"{self.service.url}/aggregates"]
        named = [consumer.split("=", 1) for consumer in consumers]
        self.consumers = [Consumer(name, shlex.split(command) + places, directory) for name, command in named]
        # Whether faults come together. A service that is killed before it has noticed that the stream was purged goes on
        # without a catch-up, so that the stream has no begin until the next one.
        self.is_mixed, self.without_begin = False, 0
        self.seen, self.written, self.faults, self.lock = set(), 0, {}, threading.Lock()

    def programs(self):
        return [self.service, self.broker, *self.consumers]

    def record(self):
        document = self.service.document()
        if document is not None:
            self.seen.add(digest(document))
        return document

    def write(self):
        document = self.record()
        if document is None:
            return
        persons = list(document["persons"])
        body = {"name": str(random.randrange(1000)), "city": random.choice([*CITIES, None])}
        kind = random.randrange(3) if len(persons) < MOST_PERSONS else 2
        if kind == 0 or not persons:
            answer = self.service.request("POST", "/persons", {name: value for name, value in body.items() if value})
        elif kind == 1:
            answer = self.service.request("PATCH", f"/persons/{random.choice(persons)}", body)
        else:
            answer = self.service.request("DELETE", f"/persons/{random.choice(persons)}")
        self.written += bool(answer and answer[0] < 300)
        assert not answer or answer[0] < 300 or answer[0] == 503, answer
        self.record()

    def operate(self, count):
        for _ in range(count):
            time.sleep(random.uniform(0, 2 * PAUSE))
            with self.lock:
                self.write()

    def kill_the_service(self):
        self.service.kill()
        self.service.start()
        self.service.save()

    def kill_the_broker(self):
        self.broker.kill()
        self.broker.save()
        self.broker.start()

    def kill_both(self):
        self.service.kill()
        self.broker.kill()
        for program in random.sample([self.service, self.broker], 2):
            program.start()

    def keep_the_broker_away(self):
        self.broker.kill()
        path = self.service.path_of_later_events()
        with self.lock:
            self.write()
        within(DEADLINE, "change events are pruned", lambda: self.service.request("GET", path)[0] == 410)
        self.broker.start()

    def purge_the_stream(self):
        self.broker.purge()

    def delete_the_stream(self):
        self.broker.delete()

    def put_the_stream_back(self):
        self.broker.kill()
        self.broker.put_back()
        self.broker.start()

    def put_the_database_back(self):
        # What is lost must have been seen: a consumer may have printed it.
        with self.lock:
            self.record()
            self.service.kill()
            self.service.put_back()
            self.service.start()
            self.record()

    def kill_a_consumer(self):
        consumer = random.choice(self.consumers)
        consumer.kill()
        time.sleep(random.random() / 2)
        consumer.start()

    FAULTS = [
        kill_the_service,
        kill_the_broker,
        kill_both,
        keep_the_broker_away,
        purge_the_stream,
        delete_the_stream,
        put_the_stream_back,
        put_the_database_back,
        kill_a_consumer,
    ]

    def round(self, faults):
        with ThreadPoolExecutor() as pool:
            written = pool.submit(self.operate, self.operations_of_a_round)
            for fault in faults:
                time.sleep(random.random() / 2)
                fault(self)
                self.faults[fault.__name__] = self.faults.get(fault.__name__, 0) + 1
            written.result()
        self.check(" and ".join(fault.__name__ for fault in faults))

    def check(self, what):
        now = self.record()
        for consumer in self.consumers:
            def is_current(consumer=consumer):
                for document in consumer.new_documents():
                    assert digest(document) in self.seen, f"{consumer.name} has printed what has never been: {document}"
                return consumer.last == now

            within(DEADLINE, f"{consumer.name} is current after {what}", is_current)
        keys = sorted(f"{collection}/{key}" for collection, aggregates in now.items() for key in aggregates)

        def has_the_document():
            lines, errors = self.ask("replay_nats.py")
            if self.is_mixed and "dropped the begin" in errors:
                self.without_begin += 1
                return True
            return [digest(json.loads(line)) for line in lines] == [digest(now)] and sorted(self.ask("keys_nats.py")[0]) == keys

        within(DEADLINE, f"the stream alone has the document and all keys after {what}", has_the_document)

    def ask(self, program):
        """The lines that a program of clients/python prints about the stream of now, and what it complains about."""
        command = [sys.executable, ROOT / "clients/python" / program, self.broker.url]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.splitlines(), done.stderr

    def run(self):
        rounds = max(FEWEST_ROUNDS, self.operations // ROUND)
        self.operations_of_a_round = -(-self.operations // rounds)
        self.broker.start()
        self.service.start()
        within(DEADLINE, "there is a stream", lambda: (self.broker.store / "jetstream/$G/streams/duality").exists())
        self.kill_the_broker()
        self.service.save()
        order = random.sample(self.FAULTS, len(self.FAULTS))
        for number in range(rounds):
            if number == 0:
                starts = [lambda _, consumer=consumer: consumer.start() for consumer in self.consumers]
                for start, consumer in zip(starts, self.consumers):
                    start.__name__ = f"start_{consumer.name}"
                self.round(starts)
                continue
            # Each of them alone first, and then one to three of them in a row.
            self.is_mixed = number > len(order)
            self.round(random.sample(self.FAULTS, random.randrange(1, 4)) if self.is_mixed else [order[number - 1]])


def main():
    seed = int(os.environ.get("DUALITY_SEED", random.randrange(1 << 32)))
    random.seed(seed)
    start = time.monotonic()
    directory = Path(tempfile.mkdtemp())
    case = Case(directory, sys.argv[1:])
    try:
        case.run()
    except BaseException:
        for program in case.programs():
            if program.errors.exists():
                print(f"-- {program.name}", *program.errors.read_text(errors="replace").splitlines()[-20:], sep="\n")
        print(f"FAILED with DUALITY_SEED={seed}, faults {case.faults}")
        raise
    finally:
        for program in case.programs():
            program.kill()
        shutil.rmtree(directory)
    faults = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in sorted(case.faults.items()))
    print(f"{case.written} writes in {time.monotonic() - start:.0f} s, with {faults}")
    print(f"after {case.without_begin} rounds, the stream had lost the begin of its last catch-up, after all others it had the document")
    for consumer in case.consumers:
        print(f"ok: {consumer.name}: each of {consumer.lines} documents was one that GET has answered, and the last one is that of now")


main()
