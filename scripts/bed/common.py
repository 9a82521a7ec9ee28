"""What the scripts that try Hansa on real systems share: processes of ours, waiting for things, asking, and the text to expect."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

START = time.monotonic()
# Whatever proxy leads out of this machine: our servers are on it.
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def say(text):
    print(f"{time.monotonic() - START:5.1f} s  {text}", flush=True)


def until(what, good, seconds=60):
    """Waits until `good()` is something, and gives it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = good()
        if found:
            return found
        time.sleep(0.05)
    raise RuntimeError(f"waited {seconds} s for {what}")


def binary(root):
    """The hansa that the command line names, or one that is built without Candle from the sources at `root`."""
    named = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if named:
        return Path(named[0]).resolve()
    build = ["cargo", "build", "--locked", "-p", "hansa-gateway", "--no-default-features", "--features", "engine"]
    subprocess.run(build, check=True, cwd=root)
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    return target.resolve() / "debug" / "hansa"


def found(name):
    return shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")


def need(programs, packages):
    """Ends the script, in success and with a reason, where a program is missing: `--install` brings Debian's packages first."""
    missing = [name for name in programs if not found(name)]
    if missing and "--install" in sys.argv and os.geteuid() == 0 and found("apt-get"):
        say(f"installing {' and '.join(packages)}")
        install(packages)
        missing = [name for name in missing if not found(name)]
    if missing:
        print(f"skipped: no {', '.join(missing)} here; Debian and Ubuntu have them in {' and '.join(packages)}")
        sys.exit(0)


def install(packages):
    # Services of theirs are for a configured machine, and must not start here.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        subprocess.run(["apt-get", "-q", *arguments], check=False, env=environment, capture_output=True)


class Processes:
    """The folder of a test and the processes that it has started."""

    def __init__(self, folder, binary, environment):
        self.folder, self.binary, self.environment = folder, binary, environment
        self.processes = []

    def start(self, name, *command, **pipes):
        with open(self.folder / f"{name}.log", "ab") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, **pipes}
            command = [str(part) for part in command]
            process = subprocess.Popen(command, env=self.environment, cwd=self.folder, **options)
        self.processes.append(process)
        return process

    def hansa(self, name, command, config, *within):
        """Starts a process of ours, by the command `within`, and gives it with the addresses that it prints."""
        file = self.folder / f"{name}.toml"
        file.write_text(config)
        command = [*within, self.binary, command, "--config", file]
        process = self.start(name, *command, stdout=subprocess.PIPE)
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{name} did not start")
        return process, json.loads(line)

    def end(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def logs(self):
        for log in sorted(self.folder.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-25:]
            print(f"--- {log.name}", *lines, sep="\n", file=sys.stderr)


def post(address, path, body=None, timeout=120, key=None):
    """Opens an answer of the server at `address`: to a GET without a body, to a POST with one."""
    data = json.dumps(body).encode() if body is not None else None
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(f"http://{address}{path}", data, headers)
    return DIRECTLY.open(request, timeout=timeout)


def ask(address, path, body=None, key=None):
    """Status, headers and body of an answer; status 0 where there is none."""
    try:
        with post(address, path, body, key=key) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()
    except OSError:
        return 0, {}, ""


def chat(tokens, seed, **more):
    return {"model": "sim", "seed": seed, "max_tokens": tokens, "messages": [{"role": "user", "content": "hi"}], **more}


def texts(answer):
    """The pieces of text of a stream as they come.

    Raises RuntimeError where it tells an error, or ends without saying so.
    """
    for line in answer:
        line = line.decode().strip()
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            event = json.loads(line[len("data: ") :])
            if "error" in event:
                raise RuntimeError(f"the stream broke: {event}")
            for choice in event["choices"]:
                yield choice["delta"].get("content") or ""
    raise RuntimeError("the stream just ended")


def expected_text(tokens, seed):
    """The simulated model's published formula."""
    mask = (1 << 64) - 1

    def step(x):
        z = (x + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    choice = step(step(seed))
    return "".join(f"{step((choice + index) & mask):016x} " for index in range(tokens))
