#!/usr/bin/env python3
"""Finds turns of phrase that the project replaced by plain English.

Prints each line that has one, and fails if there is any. An exception is a line of
scripts/english-allowed.txt: `path | phrase | reason`. An exception that no line needs is an error too.
"""

import os
import re
import subprocess
import sys

PATTERN = r"\b(anew|(is|was|are|were) told|who (asks|wants|needs|writes|follows))\b"
WHERE = ("*.md", "src", "tests")
ALLOWED = "scripts/english-allowed.txt"


def exceptions():
    """The pairs of path and phrase that are allowed."""
    with open(ALLOWED, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    found = set()
    for line in lines:
        if not line or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != 3 or not all(fields):
            sys.exit(f"{ALLOWED}: {line!r} is not `path | phrase | reason`")
        found.add((fields[0], fields[1].lower()))
    return found


def main():
    os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    grep = subprocess.run(["git", "grep", "-nziE", PATTERN, "--", *WHERE], stdout=subprocess.PIPE)
    if grep.returncode > 1:
        sys.exit("git grep failed")
    allowed, used, failed = exceptions(), set(), False
    # With -z, a line is `path NUL number NUL text`.
    for line in grep.stdout.decode().splitlines():
        path, number, text = line.split("\0", 2)
        for phrase in (match.group().lower() for match in re.finditer(PATTERN, text, re.IGNORECASE)):
            if (path, phrase) in allowed:
                used.add((path, phrase))
            else:
                print(f"{path}:{number}: “{phrase}”: {text.strip()}")
                failed = True
    for path, phrase in sorted(allowed - used):
        print(f"{ALLOWED}: {path} no longer contains “{phrase}”: remove the line")
        failed = True
    sys.exit(failed)


main()
