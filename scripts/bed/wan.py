"""A wide network on one machine: a namespace for each end, a router between them, lines with delays, and what can go wrong on them.

Everything lives in namespaces of this process, made by `alone`: the machine's own interfaces and routes are out of reach, and all of
it is gone with the process, however that ends.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG = 1
ROUTER = "wan"


class Unable(Exception):
    """This machine does not let us do that."""


def alone(test):
    """Runs `test()` in a child with network, processes and mounts of its own, and gives its exit code.

    The child and all that it has started die with this process.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def unshare(what):
        if libc.unshare(what) != 0:
            raise Unable(f"namespaces: {os.strerror(ctypes.get_errno())}")

    unshare(CLONE_NEWPID)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            unshare(CLONE_NEWNS | CLONE_NEWNET)
            run("mount", "--make-rprivate", "/")
            run("mount", "-t", "proc", "proc", "/proc")
            # Where `ip` keeps the names of namespaces.
            run("mount", "-t", "tmpfs", "tmpfs", "/run")
            code = test()
        except Unable as error:
            print(f"skipped: {error}")
            code = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise


def run(*command):
    command = [str(part) for part in command]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if ran.returncode != 0:
        raise Unable(f"{' '.join(command)}: {ran.stderr.strip()}")


class Wan:
    """A router, this namespace as one end of it, and further ends by their names."""

    # The address of this end.
    here = "10.77.0.2"

    def __init__(self, processes):
        self.processes = processes
        self.sites, self.ways = {}, {}
        run("ip", "netns", "add", ROUTER)
        for key in ("ip_forward=1", "conf/all/rp_filter=0", "conf/default/rp_filter=0",
                    "conf/all/send_redirects=0", "conf/default/send_redirects=0"):
            name, value = key.split("=")
            run("ip", "netns", "exec", ROUTER, "sh", "-c", f"echo {value} > /proc/sys/net/ipv4/{name}")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", ROUTER, "type", "veth", "peer", "name", "edge", "netns", ROUTER)
        self.join("edge", 0, [])

    def add(self, site):
        """A namespace on a cable of its own; gives its address."""
        number = len(self.sites) + 1
        self.sites[site] = f"10.77.{number}.2"
        run("ip", "netns", "add", site)
        run("ip", "-n", site, "link", "set", "lo", "up")
        run("ip", "link", "add", site, "netns", ROUTER, "type", "veth", "peer", "name", ROUTER, "netns", site)
        self.join(site, number, ["-n", site])
        return self.sites[site]

    def join(self, name, number, there):
        run("ip", "-n", ROUTER, "address", "add", f"10.77.{number}.1/24", "dev", name)
        run("ip", "-n", ROUTER, "link", "set", name, "up")
        run("ip", *there, "address", "add", f"10.77.{number}.2/24", "dev", ROUTER)
        run("ip", *there, "link", "set", ROUTER, "up")
        run("ip", *there, "route", "add", "default", "via", f"10.77.{number}.1")

    def within(self, site):
        return ["ip", "netns", "exec", site]

    def stretch(self):
        """Makes delays possible, by the kernel or by a line of our own; says by which. Without either there are none."""
        site = next(iter(self.sites))
        try:
            run("tc", "-n", ROUTER, "qdisc", "replace", "dev", site, "root", "netem", "delay", "1ms")
            self.shaper = Netem()
        except (Unable, OSError):
            try:
                self.shaper = Tun(self)
            except (Unable, OSError) as error:
                self.shaper = Nothing(error)
        return self.shaper.what

    def way(self, site, **changes):
        """How the way to a site is: rtt_ms, jitter_ms, loss_percent, bytes_max, rate_kbit (None for a wide one)."""
        usual = {"rtt_ms": 0, "jitter_ms": 0, "loss_percent": 0, "bytes_max": 65_535, "rate_kbit": None}
        self.ways[site] = {**usual, **self.ways.get(site, {}), **changes}
        self.shaper.shape(site, self.sites[site], self.ways[site])

    def pull(self, site):
        """Pulls the cable of a site, at its end: the router goes on sending, and nothing comes back, no reset either."""
        run("ip", "-n", site, "link", "set", ROUTER, "down")

    def plug(self, site):
        run("ip", "-n", site, "link", "set", ROUTER, "up")
        # The kernel forgets routes over a line that is down.
        gateway = self.sites[site].rsplit(".", 1)[0] + ".1"
        run("ip", "-n", site, "route", "replace", "default", "via", gateway)

    def swallow(self, site, end="to"):
        """Loses what goes `to` a site, or comes `from` it, without a word."""
        run("ip", "-n", ROUTER, *self.swallowing("add", site, end))

    def spit(self, site, end="to"):
        run("ip", "-n", ROUTER, *self.swallowing("delete", site, end))

    def swallowing(self, verb, site, end):
        if end == "to":
            return ["route", verb, "blackhole", f"{self.sites[site]}/32"]
        return ["rule", verb, "iif", site, "priority", "100", "blackhole"]

    def forbid(self, site):
        """Answers whatever goes to a site with ICMP's "host unreachable"."""
        run("ip", "-n", ROUTER, "route", "add", "unreachable", f"{self.sites[site]}/32")

    def permit(self, site):
        run("ip", "-n", ROUTER, "route", "delete", "unreachable", f"{self.sites[site]}/32")


def both_ends(site):
    """Where packets to a site, and those from it, are queued: namespace and device."""
    return [(ROUTER, site), (site, ROUTER)]


class Netem:
    """The kernel's own."""

    what, delays, sees_sizes = "delays and loss by tc netem", True, False

    def shape(self, site, _address, way):
        for namespace, device in both_ends(site):
            command = ["netem", "delay", f"{way['rtt_ms'] / 2}ms", f"{way['jitter_ms'] / 2}ms"]
            command += ["loss", f"{way['loss_percent']}%"]
            if way["rate_kbit"]:
                command += ["rate", f"{way['rate_kbit']}kbit", "limit", "100"]
            run("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", *command)


class Narrow:
    """Narrow lines by a token bucket, which more kernels have than netem."""

    delays = sees_sizes = False

    def shape(self, site, _address, way):
        for namespace, device in both_ends(site):
            if way["rate_kbit"]:
                bucket = ["rate", f"{way['rate_kbit']}kbit", "burst", "4kb", "limit", "64kb"]
                run("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", "tbf", *bucket)
            else:
                # There is none where nothing was narrow before.
                subprocess.run(["tc", "-n", namespace, "qdisc", "del", "dev", device, "root"], capture_output=True, check=False)


class Nothing(Narrow):
    """Neither netem nor TUN."""

    def __init__(self, why):
        self.what = f"no delays and no loss: this kernel has no netem and no TUN device ({why})"


class Tun(Narrow):
    """A process of ours through which the router sends what goes between two ends."""

    what = "delays and loss by packets that wait in a process of ours, as this kernel has no netem"
    delays = sees_sizes = True

    def __init__(self, wan):
        run("ip", "-n", ROUTER, "tuntap", "add", "dev", "line", "mode", "tun")
        run("ip", "-n", ROUTER, "link", "set", "line", "up")
        line = [*wan.within(ROUTER), sys.executable, Path(__file__).with_name("line.py"), "line"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = wan.processes.start("line", *line, **pipes)
        if not self.process.stdout.readline():
            raise Unable("/dev/net/tun")
        run("ip", "-n", ROUTER, "route", "add", "default", "dev", "line", "table", "100")
        for device in ["edge", *wan.sites]:
            run("ip", "-n", ROUTER, "rule", "add", "iif", device, "priority", "200", "lookup", "100")

    def shape(self, site, address, way):
        super().shape(site, address, way)
        told = {"address": address, "delay_ms": way["rtt_ms"] / 2, "jitter_ms": way["jitter_ms"] / 2}
        told |= {"loss_percent": way["loss_percent"], "bytes_max": way["bytes_max"]}
        self.process.stdin.write(json.dumps(told).encode() + b"\n")
        self.process.stdin.flush()
