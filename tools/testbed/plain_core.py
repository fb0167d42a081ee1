"""A process without the matrix unit of some servers' processors (AMX), which no board of this class has.

The kernel gives it to those that ask (arch_prctl(ARCH_REQ_XCOMP_PERM)); here it says no, and onnxruntime takes the
vector instructions that it takes elsewhere.
"""

import ctypes
import platform
import struct

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
_ARCH_X86_64, _ARCH_PRCTL, _REQ_XCOMP_PERM = 0xC000003E, 158, 0x1023
_LOAD, _EQUALS, _RETURN = 0x20, 0x15, 0x06  # of the kernel's packet filters (seccomp(2)): ld abs, jeq, ret
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # the latter with EPERM
_NUMBER_AT, _ARCH_AT, _ARGUMENT_AT = 0, 4, 16


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def go_without_matrix_unit() -> bool:
    """For this thread and what it starts, for good; False where nothing is refused, or the system won't let us."""
    if platform.machine() != "x86_64":
        return False
    instructions = (
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUALS, 0, 5, _ARCH_X86_64),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_EQUALS, 0, 3, _ARCH_PRCTL),
        (_LOAD, 0, 0, _ARGUMENT_AT),
        (_EQUALS, 0, 1, _REQ_XCOMP_PERM),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in instructions))
    program = _Program(len(instructions), ctypes.addressof(code))
    system = ctypes.CDLL(None)
    if system.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    return bool(system.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) == 0)
