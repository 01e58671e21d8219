"""Numbers of Linux' system calls that a process which decodes hostile bytes does not need, and their filter.

The kernel has them in `asm/unistd.h`: for x86-64 numbers of its own, for ARM and others the generic ones. Calls that
are newer than the table are denied as unknown ones: glibc has a way without each of them.
"""

from typing import Final, NamedTuple

#: NAME X86-64 ARM; "-" where the processor has no such call.
_DENIED: Final = """
# network
socket 41 198, socketpair 53 199, connect 42 203, bind 49 200, listen 50 201, accept 43 202, accept4 288 242,
sendto 44 206, sendmsg 46 211, sendmmsg 307 269, recvfrom 45 207, recvmsg 47 212, recvmmsg 299 243,
# programs and other processes
execve 59 221, execveat 322 281, fork 57 -, vfork 58 -, ptrace 101 117, process_vm_readv 310 270,
process_vm_writev 311 271, kcmp 312 272, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240, setpgid 109 154,
setsid 112 157, setpriority 141 140, ioprio_set 251 30, sched_setaffinity 203 122, sched_setscheduler 144 119,
sched_setparam 142 118, sched_setattr 314 274, migrate_pages 256 238, move_pages 279 239, prctl 157 167,
seccomp 317 277, setrlimit 160 164,
# changes of files
creat 85 -, truncate 76 45, ftruncate 77 46, fallocate 285 47, rename 82 -, renameat 264 38, renameat2 316 276,
link 86 -, linkat 265 37, symlink 88 -, symlinkat 266 36, unlink 87 -, unlinkat 263 35, mkdir 83 -,
mkdirat 258 34, rmdir 84 -, mknod 133 -, mknodat 259 33, chmod 90 -, fchmod 91 52, fchmodat 268 53, chown 92 -,
lchown 94 -, fchown 93 55, fchownat 260 54, utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88,
setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7, removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16,
name_to_handle_at 303 264, open_by_handle_at 304 265, memfd_create 319 279,
# messages between processes
shmget 29 194, shmat 30 196, shmctl 31 195, semget 64 190, semop 65 193, semctl 66 191, msgget 68 186,
msgsnd 69 189, msgrcv 70 188, msgctl 71 187, mq_open 240 180, mq_unlink 241 181, mq_timedsend 242 182,
mq_timedreceive 243 183, mq_notify 244 184, mq_getsetattr 245 185,
# the kernel
bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, add_key 248 217, request_key 249 218,
keyctl 250 219, unshare 272 97, setns 308 268, mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51,
personality 135 92, init_module 175 105, finit_module 313 273, delete_module 176 106, kexec_load 246 104,
kexec_file_load 320 294, reboot 169 142, swapon 167 224, swapoff 168 225, quotactl 179 60, acct 163 89,
syslog 103 116, ioperm 173 -, iopl 172 -, modify_ldt 154 -, settimeofday 164 170, clock_settime 227 112,
adjtimex 159 171, clock_adjtime 305 266, sethostname 170 161, setdomainname 171 162, setuid 105 146,
setgid 106 144, setreuid 113 145, setregid 114 143, setresuid 117 147, setresgid 119 149, setfsuid 122 151,
setfsgid 123 152, setgroups 116 159, capset 126 91, fanotify_init 300 262, io_setup 206 0, io_submit 209 2,
"""


class Processor(NamedTuple):
    """Numbers of one kind of processor.

    Attributes:
        audit: as the filter sees it.
        seccomp: system call that loads a filter.
        denied: system calls by name.
        opens: system calls that open a file by name, with the place of their flags.
        signals: system calls that send a signal; they take a process id first.
        clone: creates a thread or a process.
        ioctl: controls a device.
        limits: sets limits of the process that its first argument names; 0 is the own one.
    """

    audit: int
    seccomp: int
    denied: dict[str, int]
    opens: tuple[tuple[int, int], ...]
    signals: tuple[int, ...]
    clone: int
    ioctl: int
    limits: int


def _read_table(column: int) -> dict[str, int]:
    lines = (line for line in _DENIED.splitlines() if not line.startswith("#"))
    rows = (row.split() for line in lines for row in line.split(",") if row.strip())
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


#: By the name that `platform.machine` has for them.
PROCESSORS: Final = {
    "x86_64": Processor(0xC000003E, 317, _read_table(1), ((2, 1), (257, 2)), (62, 200, 234), 56, 16, 302),
    "aarch64": Processor(0xC00000B7, 277, _read_table(2), ((56, 2),), (129, 130, 131), 220, 29, 261),
}

# Classic BPF: load a word of the call, jump if equal, at least or any bit, return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _PROCESSOR_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOWED, _ERROR = 0x7FFF0000, 0x00050000
_NO_PERMISSION, _UNKNOWN_CALL = _ERROR | 1, _ERROR | 38
#: The first of the calls that came later than glibc requires; x86-64's other numbers, for 32-bit pointers, are larger.
_NEW_CALLS: Final = 424
#: CLONE_THREAD: without it, `clone` makes a process.
_THREAD: Final = 0x00010000
#: O_WRONLY, O_RDWR, O_CREAT, O_TRUNC.
_CHANGES: Final = 0o1 | 0o2 | 0o100 | 0o1000
#: TIOCSTI and TIOCLINUX type into the operator's terminal.
_TYPING: Final = (0x5412, 0x541C)


def write_filter(processor: Processor, pid: int) -> list[tuple[int, int, int, int]]:
    """Return the filter of a process as instructions of classic BPF: (code, steps if true, steps if false, value).

    Args:
        processor: of this machine.
        pid: of the process, the only one that it may send signals to.
    """
    number, deny, allow = (_LOAD, 0, 0, _NUMBER_AT), (_RETURN, 0, 0, _NO_PERMISSION), (_RETURN, 0, 0, _ALLOWED)

    def load(place: int) -> tuple[int, int, int, int]:
        return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * place)  # the lower half; both kinds of processors store it first

    program = [
        (_LOAD, 0, 0, _PROCESSOR_AT), (_EQUAL, 1, 0, processor.audit), deny,  # such as 32-bit calls
        number, (_AT_LEAST, 0, 1, _NEW_CALLS), (_RETURN, 0, 0, _UNKNOWN_CALL),
    ]  # fmt: skip
    for call, flags in processor.opens:
        program += [(_EQUAL, 0, 4, call), load(flags), (_ANY_BIT, 0, 1, _CHANGES), deny, allow]
    for call in processor.signals:
        program += [(_EQUAL, 0, 4, call), load(0), (_EQUAL, 1, 0, pid), deny, allow]
    program += [(_EQUAL, 0, 4, processor.clone), load(0), (_ANY_BIT, 1, 0, _THREAD), deny, allow]
    program += [(_EQUAL, 0, 4, processor.limits), load(0), (_EQUAL, 1, 0, 0), deny, allow]
    program += [(_EQUAL, 0, 5, processor.ioctl), load(1)]
    program += [(_EQUAL, 1, 0, _TYPING[0]), (_EQUAL, 0, 1, _TYPING[1]), deny, allow]
    for call in processor.denied.values():
        program += [(_EQUAL, 0, 1, call), deny]
    return [*program, allow]
