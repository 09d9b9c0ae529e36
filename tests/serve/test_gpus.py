"""The GPU, the cores and the ports of one server of several on a host. No test needs a GPU: nvidia-smi is a script."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from misotts.serve import gpus
from misotts.serve.gpus import NoGpuError, cores_of, use_gpu, without_mps

CORES = st.frozensets(st.integers(0, 127), min_size=1, max_size=64)


@given(st.lists(CORES, min_size=1, max_size=2, unique=True), st.lists(st.integers(0, 1), min_size=1, max_size=8))
def test_gpus_near_the_same_cores_share_them_evenly(nodes: list[frozenset[int]], where: list[int]) -> None:
    near = [nodes[node % len(nodes)] for node in where]
    shares = [cores_of(number, near) for number in range(len(near))]
    for number, share in enumerate(shares):
        assert share
        assert share <= near[number]
        together = [other for other in range(len(near)) if near[other] == near[number]]
        assert {len(shares[other]) for other in together} == {len(share)}
        if len(near[number]) >= len(together):
            assert not any(shares[other] & share for other in together if other != number)


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two GPUs, of which the second is near core 0 alone."""
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 00000000:1B:00.0\necho 00000000:9B:00.0\n")
    script.chmod(0o755)
    (tmp_path / "0000:9b:00.0").mkdir()
    (tmp_path / "0000:9b:00.0" / "local_cpulist").write_text(f"{min(os.sched_getaffinity(0))},4096-4098\n")
    monkeypatch.setattr(gpus, "_DEVICES", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")
    return tmp_path


def test_a_server_uses_its_gpu_and_the_cores_near_it(two_gpus: Path) -> None:
    before = os.sched_getaffinity(0)
    try:
        core = min(before)
        assert use_gpu(1) == f"GPU 1, cores {core}"
        assert os.sched_getaffinity(0) == {core}
        assert (os.environ["CUDA_DEVICE_ORDER"], os.environ["CUDA_VISIBLE_DEVICES"]) == ("PCI_BUS_ID", "1")
    finally:
        os.sched_setaffinity(0, before)


def test_a_gpu_that_is_missing_is_one_line(two_gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoGpuError, match="this machine has 2 GPUs"):
        use_gpu(2)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NoGpuError, match="nvidia-smi does not list"):
        use_gpu(0)


def test_mps_is_detected_by_its_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path / "none")
    assert not without_mps(), "there is no GPU"
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path)
    assert without_mps()
    (tmp_path / "control").touch()
    assert not without_mps()
