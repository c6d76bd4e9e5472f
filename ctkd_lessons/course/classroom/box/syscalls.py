"""A filter of system calls, as bytes for ``bwrap --seccomp``: what would get round the limits or reach the host.

Memory that no process holds for itself is counted nowhere: anonymous shared memory, and file systems mounted in
a user namespace of one's own. Keyrings are inherited from whoever started the grader. The rest gives a hold on
other processes, or on parts of the kernel that no notebook needs.
"""

import errno
import platform
import struct
from collections.abc import Iterator

# Machine: its name in the kernel's audit.h, then the numbers of the calls.
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED = {  # call: number on x86_64, on aarch64
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "unshare": (272, 97),
    "setns": (308, 268),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
}
CLONE, CLONE3, MMAP = (56, 220), (435, 435), (9, 222)
NEW_USER, SHARED_ANONYMOUS = 0x10000000, 0x21  # flags of clone and of mmap
LOAD, EQUAL, AT_LEAST, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
NUMBER, MACHINE, ARGUMENTS = 0, 4, 16  # where they stand in struct seccomp_data
ALLOW, ERROR, KILL = 0x7FFF0000, 0x00050000, 0x80000000


def is_known(machine: str = "") -> bool:
    """Whether there is a filter for a machine, by default this one."""
    return (machine or platform.machine()) in MACHINES


def program(machine: str = "") -> bytes:
    """Return the filter for a machine, by default this one; raise ``ValueError`` where the calls' numbers are unknown.

    A refused call fails with EPERM; ``clone3`` with ENOSYS, so that libraries take ``clone``, whose flags can be seen.
    """
    machine = machine or platform.machine()
    if not is_known(machine):
        raise ValueError(f"machine: expected one of {', '.join(MACHINES)}, got {machine!r}")
    return b"".join(struct.pack("=HBBI", *step) for step in _steps(machine, list(MACHINES).index(machine)))


def _steps(machine: str, column: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield instructions: what to do, steps to skip if true, if false, a number."""
    refuse = RETURN, 0, 0, ERROR | errno.EPERM
    yield LOAD, 0, 0, MACHINE
    yield EQUAL, 1, 0, MACHINES[machine]
    yield RETURN, 0, 0, KILL  # another machine's calls have other numbers
    yield LOAD, 0, 0, NUMBER
    yield AT_LEAST, 0, 1, 0x40000000  # the same calls in another guise (x32)
    yield refuse
    for numbers in REFUSED.values():
        yield EQUAL, 0, 1, numbers[column]
        yield refuse
    yield EQUAL, 0, 1, CLONE3[column]
    yield RETURN, 0, 0, ERROR | errno.ENOSYS
    yield EQUAL, 0, 4, CLONE[column]
    yield LOAD, 0, 0, ARGUMENTS
    yield ANY_BIT, 0, 1, NEW_USER
    yield refuse
    yield RETURN, 0, 0, ALLOW
    yield EQUAL, 0, 4, MMAP[column]
    yield LOAD, 0, 0, ARGUMENTS + 3 * 8
    yield AND, 0, 0, SHARED_ANONYMOUS
    yield EQUAL, 0, 1, SHARED_ANONYMOUS
    yield refuse
    yield RETURN, 0, 0, ALLOW
