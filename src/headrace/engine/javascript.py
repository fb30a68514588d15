"""Transformations in JavaScript: V8 in a process of its own, killed when it takes too long.

The process (`python -m headrace.engine.javascript`) has an empty environment and is spoken to over
pipes, a JSON object a line: first the code and the secrets, then batches of records. V8 gives code
neither files nor network. Its memory, its time and what it prints are limited.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from headrace.domain.errors import Misconfigured
from headrace.engine.steps import code_of

START_S: Final = 20.0
RECORD_S: Final = 1.0  # one record, alone
BATCH_S: Final = 10.0
MEMORY_MAX: Final = 256 << 20  # bytes of V8's heap
LINES_MAX: Final = 100  # of console output a batch
LINE_CHARACTERS_MAX: Final = 2_000
SECRET: Final = "***"  # noqa: S105  # what stands in its place
TOO_LONG: Final = f"It took more than {RECORD_S:g} s."

_PRELUDE: Final = (
    f"""
"use strict";
const LINES_MAX = {LINES_MAX}, CHARACTERS_MAX = {LINE_CHARACTERS_MAX};
"""
    """
const __said = [];
globalThis.console = {};
for (const level of ["log", "info", "warn", "error", "debug"])
  console[level] = (...parts) => {
    if (__said.length < LINES_MAX)
      __said.push(parts.map(x => typeof x === "string" ? x : JSON.stringify(x)).join(" ")
        .slice(0, CHARACTERS_MAX));
  };
const __text = e => String(e && e.message || e).slice(0, CHARACTERS_MAX);
async function __run(text) {
  const outcomes = [];
  for (const record of JSON.parse(text)) {
    try {
      let found = await transform(record, __helper);
      found = found === undefined || found === null ? [] : Array.isArray(found) ? found : [found];
      for (const one of found)
        if (one === null || typeof one !== "object" || Array.isArray(one))
          throw new Error("transform must return an object, an array of objects, or nothing");
      outcomes.push({records: found.map(one => JSON.stringify(one))});
    } catch (e) { outcomes.push({error: __text(e)}); }
  }
  return JSON.stringify({outcomes, said: __said.splice(0)});
}
"""
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one record: records as JSON texts (none: it was dropped), or an error."""

    records: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """What a try of one record gave."""

    payloads: list[str]
    error: str | None
    said: Sequence[str] = ()


class JavaScript:
    """One transformation's code, ready to run. Close it."""

    def __init__(self, code: str, secrets: Mapping[str, Any]) -> None:
        """Start the process. Raises Misconfigured for code that cannot be used."""
        self._code = code
        self._secrets = dict(secrets)
        self.said: list[str] = []
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(  # our own interpreter
            [sys.executable, "-P", "-m", "headrace.engine.javascript"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={"PATH": "", "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._pump, args=(self._process,), daemon=True).start()
        answer = self._ask({"code": self._code, "secrets": self._secrets}, START_S)
        if answer is None or "error" in answer:
            self.close()
            raise Misconfigured(
                f"The transformation cannot be used: {(answer or {}).get('error', TOO_LONG)}",
                hint="It needs a function transform(record, helper).",
                field="code",
            )

    def _pump(self, process: subprocess.Popen[bytes]) -> None:
        answers = self._answers
        assert process.stdout is not None  # a pipe
        for line in process.stdout:
            answers.put(line)
        answers.put(b"")

    def _ask(self, message: Mapping[str, Any], limit_s: float) -> dict[str, Any] | None:
        """Send one message; None if there was no answer in time, or the process died of it."""
        assert self._process.stdin is not None  # a pipe
        try:
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=limit_s)
        except (OSError, queue.Empty):
            return None
        return msgspec.json.decode(line) if line else None

    def batch(self, records: Sequence[str]) -> list[Outcome]:
        """Transform records, given as JSON texts, in order."""
        limit_s = BATCH_S if len(records) > 1 else RECORD_S
        answer = self._ask({"records": f"[{','.join(records)}]"}, limit_s)
        if answer is not None:
            self.said += map(self._masked, answer["said"])
            return [
                Outcome(records=tuple(one["records"]))
                if "records" in one
                else Outcome(error=self._masked(one["error"]))
                for one in answer["outcomes"]
            ]
        self.close()
        self._start()
        if len(records) == 1:
            return [Outcome(error=TOO_LONG)]
        return [self._alone(record) for record in records]

    def _alone(self, record: str) -> Outcome:
        answer = self._ask({"records": f"[{record}]"}, RECORD_S)
        if answer is None:
            self.close()
            self._start()
            return Outcome(error=TOO_LONG)
        self.said += map(self._masked, answer["said"])
        (one,) = answer["outcomes"]
        if "error" in one:
            return Outcome(error=self._masked(one["error"]))
        return Outcome(records=tuple(one["records"]))

    def _masked(self, text: str) -> str:
        for value in self._secrets.values():
            if isinstance(value, str) and value:
                text = text.replace(value, SECRET)
        return text

    def close(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue


def tried(
    type_: str, given: Mapping[str, Any], secrets: Mapping[str, Any], record: Mapping[str, Any]
) -> Tried:
    """Run one record through a transformation that is not kept."""
    try:
        code = str(given["code"]) if type_ == "code" else code_of(given["steps"])
        script = JavaScript(code, secrets)
    except Misconfigured as error:
        return Tried([], str(error))
    try:
        (outcome,) = script.batch([json.dumps(record)])
    finally:
        script.close()
    return Tried(list(outcome.records), outcome.error, script.said)


def _messages() -> Iterator[dict[str, Any]]:
    for line in sys.stdin.buffer:
        yield msgspec.json.decode(line)


def main() -> None:
    """Serve one JavaScript from standard input."""
    from py_mini_racer import JSEvalException, MiniRacer

    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def say(answer: object) -> None:
        out.write(msgspec.json.encode(answer) + b"\n")

    racer: Any = None
    for message in _messages():
        if "code" in message:
            racer = MiniRacer()
            racer.set_hard_memory_limit(MEMORY_MAX)
            secrets = json.dumps({"secrets": message["secrets"]})
            try:
                racer.eval(_PRELUDE + f"const __helper = {secrets};")
                racer.eval(message["code"], timeout_sec=RECORD_S)
                fit = racer.eval("typeof transform === 'function'")
            except JSEvalException as error:
                say({"error": str(error).strip().splitlines()[-1][:LINE_CHARACTERS_MAX]})
            else:
                say({} if fit else {"error": "there is no function transform"})
            continue
        promise = racer.eval(f"__run({json.dumps(message['records'])})")
        out.write(promise.get().encode(errors="replace") + b"\n")


if __name__ == "__main__":
    main()
