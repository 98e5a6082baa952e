"""The GPUs of this machine, and the rule of one replica a GPU."""

from __future__ import annotations

import os
from pathlib import Path


def gpus() -> int:
    """NVIDIA GPUs that a task here may use, counted without loading TensorFlow."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = len([path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit()])
    if visible is None:
        return devices
    return min(devices, len([part for part in visible.split(",") if part.strip() not in ("", "-1")]))


def skip_for_gpus(replicas: int) -> str | None:
    """The reason not to run where there are GPUs, but fewer than replicas. One replica a GPU, or all on CPUs."""
    count = gpus()
    if 0 < count < replicas:
        return (
            f"{replicas} replicas need {replicas} GPUs and there are {count}; "
            f"ask for at most {count}, or hide the GPUs with CUDA_VISIBLE_DEVICES=''"
        )
    return None


def finish() -> None:
    """Wait until the GPUs have done all that they were given. A CPU has, once an operation returns."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        tf.test.experimental.sync_devices()


def replica_devices(replicas: int) -> list[str]:
    """TensorFlow's names of one device a replica, all in this process: GPUs, else logical devices of the CPU."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return [f"/gpu:{index}" for index in range(replicas)]
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    return [f"/cpu:{index}" for index in range(replicas)]
