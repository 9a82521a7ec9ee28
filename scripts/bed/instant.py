"""A server of another make that answers at once, whatever it is asked: whole, or with a stream of one piece for each token."""

import json
import socket
import threading

MODEL = "instant"
TOKENS = 64
USAGE = {"prompt_tokens": 50, "completion_tokens": TOKENS, "total_tokens": 50 + TOKENS}


def read_message(file):
    """The first line, headers and body of what comes next; None at the end."""
    line = file.readline()
    if not line:
        return None
    headers = {}
    while (header := file.readline()) not in (b"\r\n", b"\n", b""):
        name, _, value = header.partition(b":")
        headers[name.strip().lower()] = value.strip().lower()
    if headers.get(b"transfer-encoding") == b"chunked":
        body = b"".join(chunks(file))
    else:
        body = file.read(int(headers.get(b"content-length", 0)))
    return line, headers, body


def chunks(file):
    while size := int(file.readline(), 16):
        yield file.read(size + 2)[:size]
    file.readline()


def answer(**more):
    return {"id": "chatcmpl-1", "created": 1, "model": MODEL, **more}


def message(kind, body, *headers):
    head = ["HTTP/1.1 200 OK", f"content-type: {kind}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def whole():
    choice = {"index": 0, "message": {"role": "assistant", "content": "Lübeck and Visby. " * 8}, "finish_reason": "stop"}
    body = json.dumps(answer(object="chat.completion", choices=[choice], usage=USAGE), ensure_ascii=False).encode()
    return message("application/json", body, f"content-length: {len(body)}")


def stream():
    def event(choices, **more):
        chunk = answer(object="chat.completion.chunk", choices=choices, **more)
        data = f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()
        return b"%x\r\n%s\r\n" % (len(data), data)

    def choice(delta, reason=None):
        return [{"index": 0, "delta": delta, "finish_reason": reason}]

    events = [event(choice({"role": "assistant", "content": "Lübeck"}))]
    events += [event(choice({"content": " and"})) for _ in range(TOKENS - 1)]
    events += [event(choice({}, "stop")), event([], usage=USAGE), b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"]
    return message("text/event-stream", b"".join(events), "transfer-encoding: chunked")


def models():
    body = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "nobody"}]})
    return message("application/json", body.encode(), f"content-length: {len(body)}")


class Instant:
    """Serves at `address` for as long as the process runs."""

    def __init__(self):
        self.whole, self.stream, self.models = whole(), stream(), models()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self.socket.getsockname())
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.socket.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        file = connection.makefile("rb")
        try:
            while asked := read_message(file):
                connection.sendall(self.answer(*asked))
        except OSError:
            pass

    def answer(self, line, _headers, body):
        if b"/chat/completions" not in line:
            return self.models
        return self.stream if b'"stream":true' in body.replace(b" ", b"") else self.whole
