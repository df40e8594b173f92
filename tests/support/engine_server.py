"""A small HTTP server in a thread that answers as recorded engines did, and fails on demand."""

import json
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

from support.recordings import FIXTURES, SGLANG, VLLM, read_text

__all__ = [
    "CONTINUES",
    "CUT",
    "CUT_CHUNKS",
    "DROP",
    "ENDLESS",
    "GETS",
    "HANG",
    "HEADERS",
    "NOT_FOUND",
    "TRICKLE",
    "EngineServer",
    "error",
    "recorded",
    "reply",
    "rollouts",
    "vllm_rollouts",
]

DROP, HANG, CUT, CUT_CHUNKS, TRICKLE = "drop", "hang", "cut", "cut chunks", "trickle"
HEADERS, CONTINUES, ENDLESS = "headers", "continues", "endless"  # without an end, each
_WHOLE = (CUT, CUT_CHUNKS, TRICKLE)  # faults of an answer that is given
GETS = {
    "sglang": {"/get_model_info": SGLANG / "model_info.response.json"},
    "vllm": {
        "/version": VLLM / "version.response.json",
        "/v1/models": VLLM / "models.response.json",
    },
}
NOT_FOUND = b'{"detail":"Not Found"}'


def reply(body, status=200, kind="application/json", **headers):
    """One answer; header names with _ for -."""
    named = {name.replace("_", "-"): str(value) for name, value in headers.items()}
    return SimpleNamespace(body=body, status=status, headers={"Content-Type": kind, **named})


def error(status, message="something is wrong", **headers):
    """An error answer in OpenAI's form."""
    return reply(json.dumps({"error": {"message": message}}).encode(), status, **headers)


def recorded(folder, name):
    """A recorded answer, byte for byte."""
    return reply((folder / f"{name}.response.json").read_bytes())


def rollouts():
    """What Engine.generate of SGLang returned: (prompt ids, its four outputs), ten of them."""
    path = FIXTURES / "recordings" / "sglang-0.5.23" / "engine_outputs.qwen3_moe.bf16.json.gz"
    call = json.loads(read_text(path))[0]
    outputs = call["response"]
    return [(ids, outputs[4 * i : 4 * i + 4]) for i, ids in enumerate(call["request"]["input_ids"])]


def vllm_rollouts():
    """The four choices of a recorded vLLM completion as four answers with ids of their own."""
    document = json.loads((VLLM / "completion_ids_n4.response.json").read_text("utf-8"))
    prompt = json.loads((VLLM / "completion_ids_n4.request.json").read_text("utf-8"))["prompt"]
    answers = [
        {**document, "id": f"cmpl-{i}", "choices": [{**choice, "index": 0}]}
        for i, choice in enumerate(document["choices"])
    ]
    return prompt, answers


class EngineServer:
    """A server of an engine: GETs as recorded, then ``answers`` of POSTs.

    ``answers`` is one reply for all, or a dict of lists of outputs by prompt ids, each given once.
    ``faults`` come first, one a POST. ``posts`` holds what was asked: path, body, headers, time.
    ``gets`` are replies by path beside the recorded ones.
    ``lives`` is the number of answers after which every connection is dropped. ``port`` is that of
    a server that was there before, 0 for any.
    """

    def __init__(self, engine, answers=None, faults=(), lives=None, pace_s=0.0, gets=None, port=0):
        self.posts, self.gets, self.faults = [], [], list(faults)
        self.answers, self.lives, self.pace_s = answers, lives, pace_s
        self.given = defaultdict(int)
        self.most, self.now = 0, 0
        self.lock, self.closing = threading.Lock(), threading.Event()
        files = GETS.get(engine, {})
        known = {path: reply(file.read_bytes()) for path, file in files.items()} | (gets or {})
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                owner.gets.append(self.path)
                self._send(known.get(self.path) or reply(NOT_FOUND, 404))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.answer(self, body)

            def _send(self, answer, cut=0):
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(answer.body[: len(answer.body) - cut])
                self.close_connection = True

            def _trickle(self, answer):
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                for i in range(len(answer.body)):
                    self.wfile.write(answer.body[i : i + 1])
                    if owner.closing.wait(0.05):
                        return

            def _go_on(self, how):
                start = {CONTINUES: b"", HEADERS: b"HTTP/1.1 200 OK\r\n"}
                first = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
                more = {CONTINUES: b"HTTP/1.1 100 Continue\r\n\r\n", HEADERS: b"X: y"}
                self.wfile.write(start.get(how, first))
                while not owner.closing.wait(0 if how == ENDLESS else 0.05):
                    self.wfile.write(more.get(how, b"{" + b" " * 65536))

            def _send_chunks(self, answer):
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                half = answer.body[: len(answer.body) // 2]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(half), half))
                self.close_connection = True

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):
                pass  # clients hang up

        self.http = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def answer(self, handler, body):
        """Answer one POST on a connection."""
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.posts.append(
                SimpleNamespace(
                    path=handler.path,
                    body=body,
                    time=time.monotonic(),
                    headers=dict(handler.headers),
                )
            )
            fault = self.faults.pop(0) if self.faults else None
            if self.lives is not None:
                self.lives -= 1
                fault = DROP if self.lives < 0 else fault
            answer = self._next(body) if fault is None or fault in _WHOLE else fault
        self.closing.wait(self.pace_s)
        with self.lock:
            self.now -= 1
        if fault == HANG:
            self.closing.wait(30)
        elif fault == TRICKLE:
            handler._trickle(answer)
        elif fault == CUT_CHUNKS:
            handler._send_chunks(answer)
        elif fault in (HEADERS, CONTINUES, ENDLESS):
            handler._go_on(fault)
        elif fault != DROP:
            handler._send(answer, cut=100 if fault == CUT else 0)
        handler.close_connection = True

    def _next(self, body):
        if not isinstance(self.answers, dict):
            return self.answers
        prompt = tuple(body.get("input_ids") or body.get("prompt"))
        outputs = self.answers[prompt]
        number = self.given[prompt]
        self.given[prompt] += 1
        return reply(json.dumps(outputs[number % len(outputs)]).encode())
