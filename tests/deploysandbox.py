"""Runs a program as confined as a unit of systemd's has it, as far as the kernel alone can: no new privileges, the
unit's system calls and address families, and no memory that is both written and run.

    python deploysandbox.py UNIT COMMAND...

It is a program of its own, as what it forbids itself it cannot take back. Linux on x86-64 and aarch64.
"""

import ctypes
import os
import platform
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

# linux/audit.h, asm/unistd_64.h (where there is one of its own, else asm-generic), and the number of socket(2)
MACHINES = {"x86_64": (0xC000003E, "x86_64-linux-gnu/asm/unistd_64.h", 41),
            "aarch64": (0xC00000B7, "asm-generic/unistd.h", 198)}
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000  # linux/seccomp.h
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h: BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
NUMBER, MACHINE, FIRST_ARGUMENT = 0, 4, 16  # struct seccomp_data
EPERM, EAFNOSUPPORT = 1, 97
NO_NEW_PRIVS, SET_SECCOMP, SET_MDWE = 38, 22, 65  # linux/prctl.h


def options(unit):
    """[(name, value)] of a unit's section [Service], in their order."""
    found, section = [], ""
    for line in Path(unit).read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and line[0] not in "#;":
            found.append(tuple(line.split("=", 1)))
    return found


def calls_of(groups):
    """The names of the system calls in groups (@...) of systemd's, and of such that stand alone."""
    names = set()
    for group in groups:
        if not group.startswith("@"):
            names.add(group)
            continue
        listed = subprocess.run(["systemd-analyze", "syscall-filter", group], check=True, stdout=subprocess.PIPE,
                                text=True).stdout.split("\n")[1:]
        names |= calls_of(word for line in listed if (word := line.strip()) and word[0] != "#")
    return names


def allowed_calls(unit):
    """As systemd.exec(5) puts the lines together: the first allows, those with ~ take away; @default is always in."""
    names = set()
    for name, value in options(unit):
        if name == "SystemCallFilter":
            calls = calls_of(value.lstrip("~").split())
            names = names - calls if value.startswith("~") else names | calls
    return names | calls_of(["@default"])


def numbers(header):
    text = (Path("/usr/include") / header).read_text()
    return {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}


def step(code, value, yes=0, no=0):
    return struct.pack("=HBBI", code, yes, no, value)


def confine(steps, libc):
    code = b"".join(steps)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("@HP", len(steps), ctypes.addressof(buffer))
    do(libc.prctl(SET_SECCOMP, 2, program, 0, 0))


def do(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main(unit, *command):
    libc = ctypes.CDLL(None, use_errno=True)
    machine, header, number_of_socket = MACHINES[platform.machine()]
    known = numbers(header)
    families = dict(options(unit))["RestrictAddressFamilies"].split()
    calls = sorted({known[name] for name in allowed_calls(unit) if name in known})
    do(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0))
    do(libc.prctl(SET_MDWE, 1, 0, 0, 0))
    start = [step(LOAD, MACHINE), step(EQUAL, machine, 1), step(RETURN, KILL), step(LOAD, NUMBER)]
    confine([*start, step(EQUAL, number_of_socket, 1), step(RETURN, ALLOW), step(LOAD, FIRST_ARGUMENT),
             *(one for family in families for one in (step(EQUAL, getattr(socket, family), 0, 1), step(RETURN, ALLOW))),
             step(RETURN, ERRNO | EAFNOSUPPORT)], libc)
    confine([*start, *(one for call in calls for one in (step(EQUAL, call, 0, 1), step(RETURN, ALLOW))),
             step(RETURN, ERRNO | EPERM)], libc)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
