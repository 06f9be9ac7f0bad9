"""NVIDIA GPUs through NVML: the driver's energy counter, or its power where the GPU is older than Volta."""

import importlib
import os
from typing import Any

from common.metering.rails import Rail
from common.metering.source import Reading, SensorError


class Nvml:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves, or all.

    Args:
        api: the module ``pynvml`` of nvidia-ml-py; a test gives another.
        visible: of ``CUDA_VISIBLE_DEVICES``: numbers or UUIDs.
    """

    def __init__(self, api: Any = None, visible: str | None = None) -> None:
        self._api = api or _module()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
        try:
            self._api.nvmlInit()
            self._handles = {f"gpu{name}": handle for name, handle in self._visible(visible)}
            names = [_text(self._api.nvmlDeviceGetName(handle)) for handle in self._handles.values()]
            self.rails = tuple(self._rail(name, handle) for name, handle in self._handles.items())
        except self._api.NVMLError as error:
            raise SensorError(f"NVML: {error}; is the NVIDIA driver loaded?") from None
        if not self.rails:
            raise SensorError("NVML sees no GPU")
        self.name = f"NVML ({', '.join(names)})"

    def read(self) -> Reading:
        values, faults = {}, {}
        for rail in self.rails:
            try:
                values[rail.name] = self._value(rail)
            except self._api.NVMLError as error:
                faults[rail.name] = str(error)
        return Reading(values, faults)

    def close(self) -> None:
        self._api.nvmlShutdown()

    def _visible(self, visible: str | None) -> list[tuple[str, Any]]:
        if visible is None:
            return [
                (str(index), self._api.nvmlDeviceGetHandleByIndex(index))
                for index in range(self._api.nvmlDeviceGetCount())
            ]
        words = [word.strip() for word in visible.split(",") if word.strip()]
        return [
            (word, self._api.nvmlDeviceGetHandleByIndex(int(word)))
            if word.isdigit()
            else (f"-{word[-8:]}", self._api.nvmlDeviceGetHandleByUUID(word))
            for word in words
            if word != "-1"
        ]

    def _rail(self, name: str, handle: Any) -> Rail:
        try:
            self._api.nvmlDeviceGetTotalEnergyConsumption(handle)
        except self._api.NVMLError:
            self._api.nvmlDeviceGetPowerUsage(handle)
            return Rail(name, "gpu")
        return Rail(name, "gpu", counter=True)

    def _value(self, rail: Rail) -> float:
        """Joules since the driver was loaded, or watts."""
        handle = self._handles[rail.name]
        if rail.counter:
            return float(self._api.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
        return float(self._api.nvmlDeviceGetPowerUsage(handle)) / 1e3


def _module() -> Any:
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        raise SensorError("no module pynvml; for NVIDIA GPUs: pip install 'tandem[nvml]'") from None


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
