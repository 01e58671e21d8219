"""The limits of this process's control group (cgroup): how a container, a Kubernetes pod or a systemd unit is limited.

Version 1 has one hierarchy for each resource, version 2 one for all. A limit of any group above counts, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

#: Version 1 writes "no limit" as the largest number of pages.
_NO_LIMIT: Final = 2**62


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of a group, in bytes.

    Attributes:
        limit: above it the kernel kills a process of the group.
        used: by all processes of the group, without files that the kernel can drop.
    """

    limit: int
    used: int


def read_core_quota(system: Path = Path("/")) -> float | None:
    """Return the processor time that the group gets, in cores; None without a quota.

    Args:
        system: root of the file system; tests have other ones.
    """
    quotas = []
    for folder in _find_folders(system, "cpu"):
        match (_read(folder / "cpu.max") or "").split():  # version 2
            case [quota, period] if quota.isdecimal():
                quotas.append(int(quota) / int(period))
        used, each = _read_number(folder / "cpu.cfs_quota_us"), _read_number(folder / "cpu.cfs_period_us")
        if used is not None and used > 0 and each:
            quotas.append(used / each)
    return min(quotas, default=None)


def read_memory(system: Path = Path("/")) -> Memory | None:
    """Return the memory of the group whose limit is the closest; None without a limit.

    Args:
        system: root of the file system; tests have other ones.
    """
    found = []
    for folder in _find_folders(system, "memory"):
        for limit_file, used_file, dropped in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _read_number(folder / limit_file), _read_number(folder / used_file)
            if limit is not None and 0 < limit < _NO_LIMIT:
                found.append(Memory(limit, max(0, (used or 0) - _read_field(folder / "memory.stat", dropped))))
    return min(found, key=lambda memory: memory.limit, default=None)


def _find_folders(system: Path, controller: str) -> Iterator[Path]:
    """Yield the folder of this process's group in the hierarchy of a controller, and the folders above it."""
    groups = _read_groups(system)
    for line in (_read(system / "proc/self/mountinfo") or "").splitlines():
        # 32 31 0:29 ROOT MOUNT_POINT OPTIONS ... - TYPE SOURCE SUPER_OPTIONS (proc(5))
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            group = groups.get("")
        elif kind[0] == "cgroup" and controller in kind[2].split(","):
            group = groups.get(controller)
        else:
            continue
        yield from _climb(system / fields[4].lstrip("/"), PurePosixPath(fields[3]), PurePosixPath(group or "/"))


def _read_groups(system: Path) -> dict[str, str]:
    """Return the path of this process's group by controller; version 2 has the name ""."""
    groups: dict[str, str] = {}
    for line in (_read(system / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        groups |= dict.fromkeys(controllers.split(","), path)
    return groups


def _climb(mount: Path, root: PurePosixPath, group: PurePosixPath) -> Iterator[Path]:
    # A container may see its own group as the root of the mount, while /proc names it from the host's root.
    inside = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()
    folder = mount / inside if (mount / inside).is_dir() else mount
    yield folder
    while folder != mount:
        folder = folder.parent
        yield folder


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _read_number(file: Path) -> int | None:
    try:
        return int(_read(file) or "")
    except ValueError:  # "max"
        return None


def _read_field(file: Path, name: str) -> int:
    for line in (_read(file) or "").splitlines():
        field, _, value = line.partition(" ")
        if field == name and value.isdecimal():
            return int(value)
    return 0
