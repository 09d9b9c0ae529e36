"""The launcher's lines as JSON objects."""

import json
import subprocess
import sys

LINES = [
    "misotts: watermark  SilentCipher",
    "misotts: ready after 4.0 s",
    "a stage's own words",
    "error: " + 'x"' * 9000,  # a pipe takes 4096 bytes at once
    "error: " + "\x1b" * 2000,  # each takes six of them
]
SCRIPT = f"""
from misotts.serve.report import report, write_json
write_json()
for line in {LINES!r}:
    report(line)
"""


def test_each_line_is_an_object_with_its_source() -> None:
    written = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=True)
    found = [json.loads(line) for line in written.stderr.splitlines()]
    assert [(each["level"], each["source"]) for each in found] == [
        ("info", "watermark"),
        ("info", "launcher"),
        ("info", "triton"),
        ("error", "launcher"),
        ("error", "launcher"),
    ]
    assert [each["message"] for each in found[:3]] == ["SilentCipher", "ready after 4.0 s", "a stage's own words"]
    assert all(each.keys() == {"time", "level", "source", "message"} for each in found)


def test_the_error_that_ends_the_start_is_an_object_too() -> None:
    command = [sys.executable, "-m", "misotts.cli", "serve", "--log-json", "--model=/nonexistent"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    (line,) = ended.stderr.splitlines()
    assert json.loads(line)["level"] == "error"
    assert ended.returncode == 1
