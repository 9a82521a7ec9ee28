"""A server of another make, as far as a gateway sees it: it knows OpenAI's API, thinks for a while, then says its text.

usage: other_make.py ADDRESS PORT SECONDS; prints a line once it listens.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TEXT = ["this ", "is ", "another ", "make"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer("application/json", [json.dumps({"object": "list", "data": []})])

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(float(sys.argv[3]))
        chunks = [{"delta": {"content": text}, "finish_reason": None} for text in TEXT]
        chunks.append({"delta": {}, "finish_reason": "stop"})
        events = [self.event(choices=[{"index": 0, **chunk}]) for chunk in chunks]
        usage = {"prompt_tokens": 1, "completion_tokens": len(TEXT), "total_tokens": 1 + len(TEXT)}
        self.answer("text/event-stream", [*events, self.event(choices=[], usage=usage), "data: [DONE]\n\n"])

    def event(self, **fields):
        head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "other"}
        return f"data: {json.dumps({**head, **fields})}\n\n"

    def answer(self, kind, parts):
        body = "".join(parts).encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler)
    print("ready", flush=True)
    server.serve_forever()
