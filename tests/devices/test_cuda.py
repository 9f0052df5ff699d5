"""CUDA: what can be checked without a GPU, and the contract wherever one is found."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from processes import SharedFolders
from provider_devices import cuda

from skipstone.check import ContractBundles, check_clauses
from skipstone.device_check import contract_bundles
from skipstone.devices.cuda import cuda_device, provider_options
from skipstone.devices.nvidia import NvidiaGpu, find_gpus
from skipstone.errors import DeviceError

GPUS = [NvidiaGpu("NVIDIA A", b"0000:01:00.0"), NvidiaGpu("NVIDIA B", b"0000:02:00.0")]


def test_a_unit_behind_the_colon_is_the_number_of_a_gpu() -> None:
    assert [cuda_device(GPUS, unit=unit).name for unit in (None, "0", "1")] == ["cuda", "cuda", "cuda:1"]
    second = cuda_device(GPUS, unit="1", threads=1)
    assert (second.kind, second.index, second.threads, second.hardware.name) == ("cuda", 1, 1, "NVIDIA B")
    assert provider_options(1)["device_id"] == "1"


@pytest.mark.parametrize(
    ("gpus", "unit", "words"),
    [
        ([], None, "NVIDIA's driver shows no GPU here; look at nvidia-smi"),
        (GPUS, "2", r"cuda:2 is not there: this machine has cuda:0 to cuda:1"),
        (GPUS, "x", "cuda:x is no device: give the number of a GPU"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(gpus: list[NvidiaGpu], unit: str | None, words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        cuda_device(gpus, unit=unit)


class Driver:
    """Stands in for NVIDIA's libraries, with two GPUs."""

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:
        device._obj.value = number
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:
        name.value = f"NVIDIA {'AB'[device.value]}".encode()
        return 0

    def cuDeviceGetPCIBusId(self, address: Any, size: int, device: ctypes.c_int) -> int:
        address.value = GPUS[device.value].address
        return 0

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByPciBusId_v2(self, address: bytes, handle: Any) -> int:
        return 0 if address == GPUS[1].address else 1

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        memory[0], memory[1], memory[2] = 24, 20, 4
        return 0


def test_the_driver_tells_names_and_the_memory_that_is_left() -> None:
    assert find_gpus(Driver()) == GPUS
    assert [gpu.memory(Driver()) for gpu in GPUS] == [(None, None), (20, 24)]


@pytest.mark.cuda
def test_a_gpu_keeps_the_contract(shared_folder: SharedFolders) -> None:
    device = cuda()
    folder = shared_folder(lambda folder: contract_bundles(folder, target="cuda"), "contract bundles of cuda")
    bundles = ContractBundles.in_folder(folder, target="cuda")
    failed = {clause.name: clause.reason for clause in check_clauses(device, bundles) if clause.verdict == "failed"}
    assert failed == {}
