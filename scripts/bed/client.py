"""A client of its own, so that its cable can be pulled: it asks for one answer and says on a line each how far it has come.

usage: client.py ADDRESS KEY MODEL TOKENS HOW; HOW it takes the answer is one of
  streamed  as it comes
  whole     in one piece
  slowly    as it comes, with a small buffer and a long pause each time that it is empty, then the rest at once
"""

import http.client
import json
import socket
import sys
import time

BUFFER_BYTES, PAUSE_S, SLOWLY_S = 48 << 10, 3, 20


def opened(address):
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port))
    connection.sock = socket.socket()
    # Before it is connected, or the other end is told of more.
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    connection.sock.connect((host, int(port)))
    return connection


def main():
    address, key, model, tokens, how = sys.argv[1:]
    connection = opened(address)
    messages = [{"role": "user", "content": "hi"}]
    body = {"model": model, "seed": 1, "max_tokens": int(tokens), "messages": messages, "stream": how != "whole"}
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    print("asked", flush=True)
    answer = connection.getresponse()
    begun, text, paused_at = time.monotonic(), b"", 0
    while piece := answer.read1(BUFFER_BYTES):
        if not text:
            print("begun", flush=True)
        text += piece
        if how == "slowly" and len(text) > paused_at + BUFFER_BYTES and time.monotonic() - begun < SLOWLY_S:
            paused_at = len(text)
            time.sleep(PAUSE_S)
    lines = [line for line in text.split(b"\n\n") if line]
    print(f"{answer.status} {len(lines)} {lines[-1].decode() if lines else ''}", flush=True)


if __name__ == "__main__":
    main()
