"""Requests of the usual kinds, many at once: short ones, streams, long prompts, what the simulated model answers, and mistakes."""

import json
import socket
import threading

from bed.instant import read_message

CONNECTIONS = 8
# How many of each kind a connection sends. Mistakes are few: code that seldom runs must not look as if it ran often.
SHORT, STREAMS, LONG, SIMULATED, MISTAKES = 1_200, 300, 120, 150, 5
LONG_WORDS, CODE_LINES = 20_000, 2_000
CODE = '\tif city in league:\n\t\tprint("member", city)\n'


def question(model, words=40, text="word ", **more):
    history = [{"role": "system", "content": "You answer in few words."}] if words > 100 else []
    return {"model": model, "messages": [*history, {"role": "user", "content": text * words}], "max_tokens": 64, **more}


class Traffic:
    """What clients with `key` send to the gateway at `address`."""

    def __init__(self, address, key):
        host, port = address.rsplit(":", 1)
        self.server, self.key = (host, int(port)), key
        self.troubles = []

    def run(self):
        clients = [threading.Thread(target=self.client) for _ in range(CONNECTIONS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        if self.troubles:
            raise RuntimeError(self.troubles[0])

    def client(self):
        try:
            connection = socket.create_connection(self.server, timeout=60)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            file = connection.makefile("rb")
            for number, body, expected in self.kinds():
                request = self.request(body)
                for _ in range(number):
                    connection.sendall(request)
                    line = (read_message(file) or (b"nothing",))[0]
                    if expected not in line:
                        raise RuntimeError(f"expected {expected.decode()} and got {line.decode()}")
        except (OSError, RuntimeError) as error:
            self.troubles.append(error)

    @staticmethod
    def kinds():
        good, bad = b"200", b"400"
        yield SHORT, question("instant"), good
        yield STREAMS, question("instant", stream=True), good
        yield LONG, question("instant", words=LONG_WORDS), good
        yield LONG, question("instant", words=CODE_LINES, text=CODE), good
        yield SIMULATED, question("sim", stream=True), good
        yield SIMULATED, question("sim"), good
        yield MISTAKES, question("instant", temperature=-1), bad

    def request(self, body):
        body = json.dumps(body, separators=(",", ":")).encode()
        head = ["POST /v1/chat/completions HTTP/1.1", "host: gateway", f"authorization: Bearer {self.key}"]
        head += ["content-type: application/json", f"content-length: {len(body)}", "", ""]
        return "\r\n".join(head).encode() + body
