"""The example of a language server, spoken to as an editor does."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SERVER = Path(__file__).parents[2] / "examples" / "language_server.py"
URI = "file:///work.py"


class Editor:
    """A client that sends messages to a server and reads its answers, by the base protocol."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self._num_sent = process, 0
        self._answers: dict[int, dict[str, Any]] = {}

    def send(self, method: str, params: Any, *, number: int | None = None) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if number is None else {"id": number})
        body = json.dumps(message).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self._process.stdin.flush()

    def request(self, method: str, params: Any) -> int:
        self._num_sent += 1
        self.send(method, params, number=self._num_sent)
        return self._num_sent

    def answer(self, number: int) -> dict[str, Any]:
        """Read until the answer to a request is there; answers may come in any order."""
        assert self._process.stdout is not None
        while number not in self._answers:
            size = 0
            while line := self._process.stdout.readline().strip():
                if line.lower().startswith(b"content-length:"):
                    size = int(line.partition(b":")[2])
            message: dict[str, Any] = json.loads(self._process.stdout.read(size))
            if "id" in message and "method" not in message:
                self._answers[message["id"]] = message
        return self._answers.pop(number)

    def complete(self, line: int, character: int) -> int:
        position = {"line": line, "character": character}
        params = {"textDocument": {"uri": URI}, "position": position, "context": {"triggerKind": 2}}
        return self.request("textDocument/inlineCompletion", params)

    def drafts(self, number: int) -> list[str]:
        return [item["insertText"] for item in self.answer(number)["result"]["items"]]


@pytest.fixture
def editor() -> Iterator[Editor]:
    process = subprocess.Popen([sys.executable, SERVER, "pebble"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    watch = threading.Timer(60, process.kill)
    watch.start()
    client = Editor(process)
    answer = client.answer(client.request("initialize", {"processId": None, "rootUri": None, "capabilities": {}}))
    assert "inlineCompletionProvider" in answer["result"]["capabilities"]
    client.send("initialized", {})
    document = {"uri": URI, "languageId": "python", "version": 1, "text": "import os\nimpor\n# Überall 🦊"}
    client.send("textDocument/didOpen", {"textDocument": document})
    yield client
    client.answer(client.request("shutdown", None))
    client.send("exit", None)
    assert process.wait(30) == 0
    watch.cancel()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


def test_drafts_are_offered_and_stale_requests_given_up(editor: Editor) -> None:
    drafts = editor.drafts(editor.complete(1, 5))
    assert len(drafts) == 3 and all(text.startswith("t ") for text in drafts)
    changes = [{"range": {"start": {"line": 1, "character": 5}, "end": {"line": 1, "character": 5}}, "text": "t sy"}]
    version = {"uri": URI, "version": 2}
    editor.send("textDocument/didChange", {"textDocument": version, "contentChanges": changes})
    requests = [editor.complete(1, character) for character in (6, 7, 8, 9)]
    assert [] in [editor.drafts(number) for number in requests[:-1]]
    assert len(editor.drafts(requests[-1])) == 3


def test_a_request_that_the_editor_cancels_ends(editor: Editor) -> None:
    cancelled = editor.complete(2, 12)  # behind the fox, which is two UTF-16 units
    editor.send("$/cancelRequest", {"id": cancelled})
    assert "error" in editor.answer(cancelled)
    assert len(editor.drafts(editor.complete(2, 12))) == 3
