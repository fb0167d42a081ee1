"""Runs a command where programs of another architecture work, without changing anything on this machine.

    python -m tests.boot.foreign COMMAND...

A new user namespace has a table of binary formats of its own (Linux 6.7 and later); qemu-user is registered there
and nowhere else.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

_NEW_MOUNTS, _NEW_USERS = 0x00020000, 0x10000000  # linux/sched.h
_TABLE = "/proc/sys/fs/binfmt_misc"
# Magic and mask of an ELF file (elf.h): 64 bits, little-endian, executable or shared object, machine AArch64.
_ELF_ARM64 = (
    r":qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
    r":/usr/bin/qemu-aarch64-static:F"
)


def run(command: list[str]) -> int:
    """Run `command` as root of a namespace in which arm64 programs start; its exit code."""
    libc = ctypes.CDLL(None, use_errno=True)
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        if libc.unshare(_NEW_USERS | _NEW_MOUNTS) != 0:
            sys.stderr.write(f"no new user namespace: {os.strerror(ctypes.get_errno())}\n")
            os._exit(1)
        os.write(ready[1], b".")
        os.read(go[0], 1)
        os.setgid(0)
        os.setuid(0)
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", _TABLE], check=True)
        Path(_TABLE, "register").write_text(_ELF_ARM64, encoding="ascii")
        os.execvp(command[0], command)
    os.close(ready[1])
    if os.read(ready[0], 1):
        # Written from outside, the maps may hold more than one id.
        Path(f"/proc/{child}/uid_map").write_text("0 0 65536", encoding="ascii")
        Path(f"/proc/{child}/gid_map").write_text("0 0 65536", encoding="ascii")
        os.write(go[1], b".")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]) if len(sys.argv) > 1 else __doc__)
