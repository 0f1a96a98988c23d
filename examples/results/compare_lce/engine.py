"""An engine in a process and an environment of its own, asked over a pipe: one line a question, one line of JSON an answer.

The process that asks waits for every answer, so that contestants take turns however different their environments are.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def timed(run: Callable[[], object]) -> int:
    """Nanoseconds of a run, after one for its caches."""
    run()
    start = time.perf_counter_ns()
    run()
    return time.perf_counter_ns() - start


def serve(questions: dict[str, Callable[[], object]]) -> None:
    """Answer from standard input until it ends."""
    for line in sys.stdin:
        print(json.dumps(questions[line.strip()]()), flush=True)


class Engine:
    """The other end: a program that serves."""

    def __init__(self, python: str | Path, program: Path, *arguments: str | Path) -> None:
        self.command = [str(python), str(program), *map(str, arguments)]
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, question: str):
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{question}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"`{' '.join(self.command)}` ended before it answered `{question}`: its own message stands above")
        return json.loads(answer)

    def close(self) -> None:
        self.process.communicate()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
