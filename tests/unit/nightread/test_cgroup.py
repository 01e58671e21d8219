"""Cores and memory of a container, from the files of both versions of control groups."""

import os

import pytest

from nightread import machine
from nightread.cgroup import Memory, read_core_quota, read_memory

V2 = "30 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw"
V1_CPU = "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "35 31 0:32 {root} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory"


@pytest.fixture
def system(tmp_path):
    """A function that writes the files of a system and returns its root."""

    def write(mounts, groups, **files):
        named = {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups}
        named |= {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
        for name, text in named.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")
        return tmp_path

    return write


class TestVersion2:
    def test_a_quota_in_the_container_s_own_view(self, system):
        root = system(V2, "0::/", **{"cpu.max": "150000 100000", "memory.max": f"{2**29}", "memory.current": "1000"})
        assert read_core_quota(root) == 1.5
        assert read_memory(root) == Memory(2**29, 1000)

    def test_no_limit(self, system):
        root = system(V2, "0::/", **{"cpu.max": "max 100000", "memory.max": "max"})
        assert read_core_quota(root) is None
        assert read_memory(root) is None

    def test_the_closest_limit_of_all_groups_above_counts(self, system):
        root = system(
            V2, "0::/kubepods/pod7/c1",
            **{
                "kubepods/pod7/c1/cpu.max": "400000 100000", "kubepods/pod7/cpu.max": "200000 100000",
                "kubepods/cpu.max": "max 100000", "kubepods/pod7/memory.max": f"{2**30}",
            },
        )  # fmt: skip
        assert read_core_quota(root) == 2.0
        assert read_memory(root).limit == 2**30

    def test_files_that_the_kernel_can_drop_are_not_used_memory(self, system):
        root = system(
            V2, "0::/",
            **{"memory.max": "9000", "memory.current": "5000", "memory.stat": "anon 1000\ninactive_file 3000"},
        )  # fmt: skip
        assert read_memory(root) == Memory(9000, 2000)


class TestVersion1:
    @pytest.mark.parametrize("root", ["/", "/docker/abc"])
    def test_a_quota_with_and_without_a_namespace(self, system, root):
        inside = "cpu,cpuacct/docker/abc" if root == "/" else "cpu,cpuacct"
        found = system(
            V1_CPU.format(root=root), "4:cpu,cpuacct:/docker/abc\n0::/",
            **{f"{inside}/cpu.cfs_quota_us": "100000", f"{inside}/cpu.cfs_period_us": "100000"},
        )  # fmt: skip
        assert read_core_quota(found) == 1.0

    def test_no_limit(self, system):
        root = system(
            f"{V1_CPU.format(root='/')}\n{V1_MEMORY.format(root='/')}", "4:cpu,cpuacct:/\n3:memory:/",
            **{
                "cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
        )  # fmt: skip
        assert read_core_quota(root) is None
        assert read_memory(root) is None

    def test_memory(self, system):
        root = system(
            V1_MEMORY.format(root="/"), "3:memory:/docker/abc",
            **{
                "memory/docker/abc/memory.limit_in_bytes": "600000000",
                "memory/docker/abc/memory.usage_in_bytes": "200000000",
                "memory/docker/abc/memory.stat": "total_inactive_file 50000000",
            },
        )  # fmt: skip
        assert read_memory(root) == Memory(600_000_000, 150_000_000)


def test_a_system_without_groups_has_no_limits(tmp_path):
    assert read_core_quota(tmp_path) is None
    assert read_memory(tmp_path) is None


@pytest.mark.parametrize(
    ("quota", "cores"), [(None, 64), (2.0, 2), (1.0, 1), (0.5, 1), (1.9, 1), (63.99, 63), (100.0, 64)]
)
def test_threads_fit_into_the_quota_of_a_machine_with_64_cores(monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(machine, "read_core_quota", lambda: quota)
    assert machine.count_cores() == cores
