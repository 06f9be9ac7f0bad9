"""Rails of a Jetson through jtop's service, for where /sys is not readable, as in a container."""

import importlib
from collections.abc import Mapping
from typing import Any

from common.metering.rails import jetson_rail
from common.metering.source import Reading, SensorError

INTERVAL_S = 0.5
"""How often jtop's service is asked to measure. It then reads the whole board: more often would itself cost energy."""


class Jtop:
    """The rails that jtop shows.

    Args:
        api: the module ``jtop`` of jetson-stats 4; a test gives another.
    """

    name = "jtop"

    def __init__(self, api: Any = None) -> None:
        self._api = api or _module()
        self._client = self._api.jtop(interval=INTERVAL_S)
        try:
            self._client.start()
            self._client.ok()  # waits for the first data
            labels = list(self._watts())
        except (self._api.JtopException, OSError) as error:
            raise SensorError(f"jtop: {error}; is its service running (sudo systemctl start jtop)?") from None
        if not labels:
            self._client.close()
            raise SensorError("jtop shows no power rails on this board")
        self.rails = tuple(jetson_rail(label, labels) for label in labels)

    def read(self) -> Reading:
        try:
            alive = self._client.ok(spin=True)
            watts = self._watts()
        except (self._api.JtopException, OSError) as error:
            raise SensorError(f"jtop: {error}") from None
        if not alive:
            raise SensorError("jtop's service has ended")
        lost = {rail.name: "jtop no longer shows it" for rail in self.rails if rail.name not in watts}
        return Reading({rail.name: watts[rail.name] for rail in self.rails if rail.name in watts}, lost)

    def close(self) -> None:
        self._client.close()

    def _watts(self) -> dict[str, float]:
        """By rail. The module's input is called total there, and named only where the board has that rail."""
        power: Mapping[str, Any] = self._client.power or {}
        rails = {label: rail["power"] / 1e3 for label, rail in power.get("rail", {}).items()}
        total = power.get("tot", {})
        if total.get("name", "ALL") != "ALL":
            rails[total["name"]] = total["power"] / 1e3
        return rails


def _module() -> Any:
    try:
        return importlib.import_module("jtop")
    except ImportError:
        raise SensorError("no module jtop; on a Jetson: pip install 'tandem[jetson]'") from None
