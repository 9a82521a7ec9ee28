"""A wide line in user space, for kernels without netem: reads packets from a TUN device and gives them back later, or never.

usage: line.py DEVICE, in the network namespace of a router that sends through the device what goes between two of its
networks. Each line of stdin says how the way to and from one address is: {"address": "10.77.1.2", "delay_ms": 3.5,
"jitter_ms": 0.3, "loss_percent": 0, "bytes_max": 65535}; what goes between two such addresses has the delays of both.
It ends with its stdin. It must not know what is in a packet beyond the two addresses.
"""

import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
PACKET_BYTES_MAX = 65_536
# Packets on their way at once; more are lost, as in any router.
PACKETS_MAX = 20_000


class Line:
    def __init__(self):
        self.ways = {}
        self.packets = []
        self.count = 0
        # When the last packet between two addresses comes out: none overtakes another.
        self.last = {}

    def describe(self, way):
        self.ways[socket.inet_aton(way["address"])] = way

    def take(self, packet, now):
        ends = (packet[12:16], packet[16:20])
        ways = [self.ways[end] for end in ends if end in self.ways]
        lost = any(random.random() * 100 < way["loss_percent"] for way in ways)
        large = any(len(packet) > way["bytes_max"] for way in ways)
        if lost or large or len(self.packets) >= PACKETS_MAX:
            return
        delay_ms = sum(way["delay_ms"] + random.uniform(-1, 1) * way["jitter_ms"] for way in ways)
        due = max(now + max(delay_ms, 0) / 1_000, self.last.get(ends, 0))
        self.last[ends] = due
        self.count += 1
        heapq.heappush(self.packets, (due, self.count, packet))

    def due(self, now):
        while self.packets and self.packets[0][0] <= now:
            yield heapq.heappop(self.packets)[2]

    def wait_s(self, now):
        return max(self.packets[0][0] - now, 0) if self.packets else None


def carry(tun, line):
    while True:
        ready, _, _ = select.select([tun, sys.stdin], [], [], line.wait_s(time.monotonic()))
        now = time.monotonic()
        if tun in ready:
            line.take(os.read(tun, PACKET_BYTES_MAX), now)
        if sys.stdin in ready:
            told = sys.stdin.readline()
            if not told:
                return
            line.describe(json.loads(told))
        for packet in line.due(now):
            try:
                os.write(tun, packet)
            except OSError:
                # What the router does not want is lost.
                pass


def main():
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", sys.argv[1].encode(), IFF_TUN | IFF_NO_PI))
    print("ready", flush=True)
    carry(tun, Line())


main()
