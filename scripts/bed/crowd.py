"""Clients that ask for one stream after the other and note what each of them saw."""

import statistics
import threading
import time

from .common import chat, expected_text, post, texts

# Tokens of the streams, in turn: some end soon, some live through whatever happens.
TOKENS = [40, 160, 80, 240, 60, 120]
SILENCE_MAX_S = 60
# Pauses that are remembered: tokens come every few hundredths of a second.
PAUSE_S = 0.1
# Bytes that every third prompt has: a few packets.
LONG_PROMPT_BYTES = 6_000


class Stream:
    """One request and what its client saw."""

    def __init__(self, seed):
        self.seed, self.tokens = seed, TOKENS[seed % len(TOKENS)]
        self.begun, self.first, self.last, self.ended = time.monotonic(), None, None, None
        self.id, self.site, self.text, self.trouble = None, None, "", None
        # When a token came after a pause worth a word, and how long that was.
        self.pauses = []

    def follow(self, address):
        try:
            with post(address, "/v1/chat/completions", self.body(), SILENCE_MAX_S) as answer:
                self.id = answer.headers["x-request-id"]
                self.site = answer.headers["x-hansa-site"].split("/")[0]
                for text in texts(answer):
                    if text:
                        self.hear(text, time.monotonic())
            if self.text != expected_text(self.tokens, self.seed):
                self.trouble = f"of {len(self.text)} bytes some are not what one server would have sent"
        except (OSError, RuntimeError, ValueError) as error:
            told = getattr(error, "read", lambda: b"")()
            self.trouble = f"{error} {told.decode(errors='replace')}"
        self.ended = time.monotonic()

    def body(self):
        body = chat(self.tokens, self.seed, stream=True)
        if self.seed % 3 == 0:
            body["messages"][0]["content"] = "hi" * (LONG_PROMPT_BYTES // 2)
        return body

    def hear(self, text, now):
        if self.first is None:
            self.first = now
        elif now - self.last > PAUSE_S:
            self.pauses.append((now, now - self.last))
        self.text += text
        self.last = now

    def pause_s(self, since):
        """The longest pause between two tokens that ended after `since`, or has not yet."""
        last = time.monotonic() - self.last if self.is_live() else 0
        return max([pause for at, pause in self.pauses if at >= since] + [last])

    def is_live(self):
        return self.first is not None and self.ended is None

    def first_s(self):
        return (self.first or time.monotonic()) - self.begun


class Crowd:
    """So many clients at once, each with one stream after the other."""

    def __init__(self, address, size):
        self.address = address
        self.lock, self.streams, self.over = threading.Lock(), [], threading.Event()
        self.threads = [threading.Thread(target=self.client, daemon=True) for _ in range(size)]
        for thread in self.threads:
            thread.start()

    def client(self):
        while not self.over.is_set():
            with self.lock:
                stream = Stream(len(self.streams))
                self.streams.append(stream)
            stream.follow(self.address)
            if stream.trouble:
                # A gateway that refuses everything must not be asked in a tight loop.
                time.sleep(0.2)

    def all(self):
        with self.lock:
            return list(self.streams)

    def live_at(self, sites, ever=False):
        """Streams with a token that began at one of `sites`, and have not ended but where `ever`."""
        streams = [stream for stream in self.all() if stream.site in sites and stream.first]
        return [stream for stream in streams if ever or not stream.ended]

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()


def first_tokens(streams):
    """Median and worst time to the first token of `streams`, in words."""
    times = [stream.first_s() for stream in streams] or [0]
    return f"{statistics.median(times):.2f} s (worst {max(times):.2f} s)"
