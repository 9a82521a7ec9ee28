"""Clients whose cable is pulled: what was held for them must be settled soon, though nobody says that they are gone."""

import hashlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from .common import ask, say, until

# Where they live: those that are lost, and one that only reads slowly.
LOST, SLOW = "lost", "slow"
# Time that an answer may lie unread. The kernel gives up after twice that, or, where nothing was sent to the client, at its third
# question (limits.rs); the rest is for what comes after, on a busy machine.
UNREAD_S, ASKED_S, MORE_S = 5, 45, 5
# By how each of them takes its answer: where it is, model, tokens, and time in which it must be settled once its cable is pulled.
CLIENTS = {
    "streamed": (LOST, "steady", 6_000, 2 * UNREAD_S + MORE_S),
    "whole": (LOST, "thinks", 500, ASKED_S + MORE_S),
    "slowly": (SLOW, "quick", 4_000, None),
}
OPERATOR = "sk-operator"


def config(address):
    """Of a server at `address`, from the middle of its section `[server]` on, with a tenant for each of the clients."""
    text = f'listen = "{address}"\nwrite_timeout_ms = {1_000 * UNREAD_S}\n'
    for model, step_us in (("quick", 10_000), ("steady", 20_000), ("thinks", 500_000)):
        text += f'[[model]]\nid = "{model}"\nrunner = "sim"\n[model.sim]\nstep_base_us = {step_us}\nprefill_token_us = 0\n'
    text += tenant("clients", OPERATOR, 'role = "operator"\n')
    for how in CLIENTS:
        text += tenant(f"clients/{how}", key(how))
        text += f'[[allocation]]\nid = "{how}"\ntenant = "clients/{how}"\namount = 1000000\nstart = 2026-01-01\n'
    return text


def tenant(name, key, more=""):
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f'[[tenant]]\nid = "{name}"\n[[key]]\nid = "{name}"\ntenant = "{name}"\nsha256 = "{digest}"\n{more}'


def key(how):
    return f"sk-{how}"


class Lost(threading.Thread):
    """The clients and what became of what was held for them, beside everything else."""

    def __init__(self, processes, wan, address, admin):
        super().__init__(daemon=True)
        self.processes, self.wan, self.address, self.admin = processes, wan, address, admin
        self.took_s, self.trouble = {}, None

    def run(self):
        try:
            self.lose()
        except (OSError, RuntimeError, ValueError) as error:
            self.trouble = error

    def lose(self):
        programs = {how: self.client(how) for how in CLIENTS}
        for how in ("streamed", "slowly"):
            # What "asked" and "begun" stand for.
            programs[how].stdout.readline()
            programs[how].stdout.readline()
        until("holds for all clients", lambda: all(self.held().values()))
        self.wan.pull(LOST)
        pulled = time.monotonic()
        for how, (_, _, _, within_s) in CLIENTS.items():
            if within_s:
                until(f"the hold of who takes it {how}", lambda how=how: not self.held()[how], within_s)
                self.took_s[how] = time.monotonic() - pulled
        said = programs["slowly"].stdout.readline().decode().strip()
        tokens = CLIENTS["slowly"][2]
        if not said.startswith("200 ") or not said.endswith("data: [DONE]") or int(said.split()[1]) < tokens:
            raise RuntimeError(f"who reads slowly got {said or 'nothing'}")

    def client(self, how):
        where, model, tokens, _ = CLIENTS[how]
        program = Path(__file__).with_name("client.py")
        command = [*self.wan.within(where), sys.executable, program, self.address, key(how), model, tokens, how]
        return self.processes.start(f"client-{how}", *command, stdout=subprocess.PIPE)

    def held(self):
        """What is held for each of them."""
        status, _, body = ask(self.admin, "/admin/v1/allocations", key=OPERATOR)
        if status != 200:
            raise RuntimeError(f"allocations: {status} {body}")
        return {one["id"]: one["reserved"] for one in json.loads(body)["data"]}

    def tell(self):
        self.join()
        if self.trouble:
            raise RuntimeError(f"lost clients: {self.trouble}")
        streamed, whole = self.took_s["streamed"], self.took_s["whole"]
        say(f"clients were lost: what was held was settled after {streamed:.1f} s (of a stream) and {whole:.1f} s (nothing sent yet)")
        say("    one that read slowly got all of its stream")
