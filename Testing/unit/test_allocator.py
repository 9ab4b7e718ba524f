"""The allocator's settings are best effort: never an error, nothing where there is no glibc."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from P2SAMSlicerLib.models.allocator import LARGE_VOXELS, keep_freed_memory, return_freed_memory

CHURN = """
import resource, numpy as np
from P2SAMSlicerLib.models.allocator import keep_freed_memory
{call}
for warm in range(3):
    np.ones(6_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(6_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


HOLD = """
import os
import numpy as np
from P2SAMSlicerLib.models.allocator import keep_freed_memory, return_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1])
keep_freed_memory()
large = np.ones(20_000_000)
kept = np.ones(100_000)  # lies above it, so that the heap cannot shrink
del large
before = resident()
return_freed_memory({voxels})
print((before - resident()) * os.sysconf("SC_PAGESIZE"))
"""


def loaded(monkeypatch: pytest.MonkeyPatch, library: Any) -> list[Any]:
    names: list[Any] = []

    def load(name: Any) -> Any:
        names.append(name)
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    return names


def test_on_linux_three_limits_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[int, int] = {}
    monkeypatch.setattr(sys, "platform", "linux")
    loaded(monkeypatch, SimpleNamespace(mallopt=lambda name, value: calls.update({name: value}) or 1))
    keep_freed_memory()
    # The numbers stand in glibc's malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD.
    assert calls == {-4: 0, -1: 2**31 - 1, -2: 64 << 20}


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    names = loaded(monkeypatch, SimpleNamespace())
    keep_freed_memory()
    return_freed_memory(LARGE_VOXELS)
    assert names == [None, None]


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_other_systems_are_not_asked(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    names = loaded(monkeypatch, SimpleNamespace())
    keep_freed_memory()
    return_freed_memory(LARGE_VOXELS)
    assert names == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is told only on Linux")
def test_large_blocks_are_reused_instead_of_being_cleared_again() -> None:
    """In its own process, because the setting stays."""
    if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        pytest.skip("the C library is not glibc")

    def faults(call: str) -> int:
        done = subprocess.run([sys.executable, "-c", CHURN.format(call=call)], capture_output=True, text=True, check=True)
        return int(done.stdout)

    # 48 MB is above the size up to which glibc learns by itself to keep blocks; pages may be of 4 kB or of 2 MB.
    assert faults("keep_freed_memory()") < 20
    assert faults("") > 100


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is told only on Linux")
@pytest.mark.parametrize(("voxels", "returned"), [(LARGE_VOXELS, True), (LARGE_VOXELS - 1, False)])
def test_large_freed_volumes_are_given_back_to_the_system_though_something_small_lies_above_them(
    voxels: int, returned: bool
) -> None:
    if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        pytest.skip("the C library is not glibc")
    done = subprocess.run([sys.executable, "-c", HOLD.format(voxels=voxels)], capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 150_000_000) is returned
