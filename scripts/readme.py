#!/usr/bin/env python3
"""Runs what the README, docs/operations.md and docs/tutorial.md show, in their order, and compares what they say comes out.

A `sh` block is run; a `text` block right after it is its expected output, and a `text of WORD` block that of the earlier
command with this word, in another terminal. An epoch is any epoch, the number of a
`retry:` line any number, a uuid any uuid, a time any time. A block that begins with `# in another terminal` goes on in
the background to the end: what is shown is the beginning of its output. The service is the one that the block with `cargo run` starts.
The blocks of a guide in docs/ run in one shell, in an empty directory, with `duality` in the PATH, and with the path of this
checkout in `duality`.

    scripts/readme.py                   everything
    scripts/readme.py tutorial.md       one of them
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

# Run by scripts/check.sh itself, or by hand only.
NOT_HERE = ("cargo test", "diesel", "scripts/")
ELSEWHERE = "# in another terminal"
URL = "http://127.0.0.1:3000/persons"


def blocks(text):
    """The `sh` blocks with the `text` block that directly follows each."""
    later = dict(re.findall(r"^```text of (\S+)\n(.*?)^```\n", text, re.M | re.S))
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```\n(?=(\n```text\n)?)", text, re.M | re.S)
    for index, (language, body, followed) in enumerate(found):
        if language == "sh":
            name = next((word for word in later if word in body and body.startswith(ELSEWHERE)), None)
            yield body, later[name] if name else found[index + 1][1] if followed else None


def normal(text):
    text = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID", text)
    text = re.sub(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME", text)
    text = re.sub(r"\b[0-9a-z]{8,16}\.(\d+)\b", r"EPOCH.\1", text)
    text = re.sub(r"\bepoch [0-9a-z]{8,16}\b", "epoch EPOCH", text)
    text = re.sub(r"\b\d{8}T\d{6}\.\d{3}Z", "TIME", text)
    text = re.sub(r"\S*/shop\.db", "/shop.db", text)
    text = re.sub(r"\d+ pages\b|\b\d+(\.\d+)? KiB", "SIZE", text)
    text = re.sub(r"^(x-epoch): \S+", r"\1: EPOCH", text, flags=re.M | re.I)
    return re.sub(r"^retry: \d+", "retry: N", text, flags=re.M).strip()


def wait_for_service(process):
    for _ in range(6000):
        try:
            return urllib.request.urlopen(URL)
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None:
                sys.exit("the service did not start")
            time.sleep(0.1)
    sys.exit("the service did not start in time")


def run_guide(root, name):
    """Whether all blocks of the guide succeed, with the output that it shows. Stops at the first one that does not."""
    with open(os.path.join(root, "docs", name), encoding="utf-8") as file:
        shown = list(blocks(file.read()))
    if not shutil.which("systemctl") and any("systemctl" in block[0] for block in shown):
        print(f"systemctl is not installed: a block of {name} is NOT CHECKED")
        if os.environ.get("DUALITY_REQUIRE_CLIENTS") == "1":
            return False
        shown = [block for block in shown if "systemctl" not in block[0]]
    mark = "---- end of block"
    script = "".join(f"{command}echo; echo '{mark}'\n" for command, _ in shown)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(root, "target"))
    path = os.path.join(os.path.abspath(target), "release") + os.pathsep + os.environ["PATH"]
    # What a guide builds is built again in the next run only if it has changed.
    built = os.path.join(os.path.abspath(target), "guides")
    environment = os.environ | {"duality": os.path.abspath(root), "CARGO_TARGET_DIR": built}
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as machine:
        shutil.copy(os.path.join(root, "docs", "duality.service"), directory)
        # A file, because the service in the background would keep a pipe open.
        with open(os.path.join(directory, "output"), "w+", encoding="utf-8") as output:
            shell = ["bash", "-emc", script + "kill $(jobs -p) 2>/dev/null || true"]
            done = subprocess.run(shell, cwd=directory, env=environment | {"PATH": path, "root": machine}, stdout=output, timeout=600)
            output.seek(0)
            outputs = output.read().split(mark)[:-1]
    good = done.returncode == 0 and len(outputs) == len(shown)
    for (command, expected), output in zip(shown, outputs):
        if expected is not None and normal(output) != normal(expected):
            print(f"{name}: {command.strip()}\n--- expected\n{normal(expected)}\n--- got\n{normal(output)}")
            good = False
    if len(outputs) < len(shown):
        print(f"{name}: {shown[len(outputs)][0].strip()}\nfailed, exit code {done.returncode}")
    print(f"{name}: {len(outputs)} of {len(shown)} blocks were run")
    return good


def run_readme(root):
    """Whether all blocks of the README succeed, with the output that it shows."""
    with open(os.path.join(root, "README.md"), encoding="utf-8") as file:
        shown = list(blocks(file.read()))
    directory = tempfile.TemporaryDirectory()
    environment = os.environ | {"DUALITY_DATABASE": os.path.join(directory.name, "readme.db")}
    service, background, failed, run = None, [], False, 0

    def compare(command, expected, output):
        if expected is not None and normal(output) != normal(expected):
            print(f"README: {command.strip()}\n--- expected\n{normal(expected)}\n--- got\n{normal(output)}")
            return True
        return False

    try:
        for command, expected in shown:
            if command.startswith(NOT_HERE):
                continue
            run += 1
            if command.startswith("cargo run --release\n"):
                service = subprocess.Popen(["bash", "-c", "exec " + command], cwd=root, env=environment)
                wait_for_service(service)
            elif command.startswith(ELSEWHERE):
                pipe = subprocess.Popen(["bash", "-c", "exec " + command.split("\n", 1)[1]], cwd=root, env=environment,
                                        stdout=subprocess.PIPE, text=True)
                background.append((command, expected, pipe))
            else:
                done = subprocess.run(["bash", "-ec", command], cwd=root, env=environment, capture_output=True,
                                      text=True, timeout=600)
                failed |= done.returncode != 0 or compare(command, expected, done.stdout)
                if done.returncode != 0:
                    print(f"README: {command.strip()}\nexit code {done.returncode}\n{done.stderr}")
        time.sleep(1)
        for command, expected, pipe in background:
            pipe.terminate()
            output = normal(pipe.communicate(timeout=10)[0])
            failed |= compare(command, expected, output[: len(normal(expected))])
    finally:
        for process in [service] + [pipe for _, _, pipe in background]:
            if process and process.poll() is None:
                process.terminate()
                process.wait(timeout=20)
        directory.cleanup()
    print(f"README: {run} blocks were run")
    return not failed and run > 0


def main():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    names = sys.argv[1:] or ["README.md", "operations.md", "tutorial.md"]
    good = [run_readme(root) if name == "README.md" else run_guide(root, name) for name in names]
    sys.exit(0 if all(good) else 1)


main()
