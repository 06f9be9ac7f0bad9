"""Each board's sensors, as faithful fakes of its files and interfaces: rails, roles, units, and what is refused."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.metering.battery import open_battery
from common.metering.constant import ConstantPower
from common.metering.ina3221 import open_ina3221
from common.metering.jetson import Jtop
from common.metering.nvml import Nvml
from common.metering.pmic import Pmic, parse
from common.metering.rapl import open_rapl
from common.metering.source import SensorError, Source

# The TX2's rails by chip and channel, and milliwatts; volts of the chips differ, and do not matter for in_power.
TX2_MW = {
    "40": {"VDD_SYS_GPU": 1520, "VDD_SYS_SOC": 910, "VDD_4V0_WIFI": 76},
    "41": {"VDD_IN": 5300, "VDD_SYS_CPU": 1830, "VDD_SYS_DDR": 890},
    "42": {"VDD_MUX": 7600, "VDD_5V0_IO_SYS": 1900, "VDD_3V3_SYS": 760},
    "43": {"VDD_3V3_IO_SLP": 0, "VDD_1V8_IO": 150, "VDD_3V3_SYS_M2": 30},
}
# Millivolts and milliamperes of an AGX Orin.
ORIN = {
    "40": {"VDD_GPU_SOC": (19800, 350), "VDD_CPU_CV": (19800, 120), "VIN_SYS_5V0": (5000, 900)},
    "41": {"NC": (19800, 0), "VDDQ_VDD2_1V8AO": (5000, 200), "NC ": (0, 0)},
}


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")


def tx2(sys_root: Path, *, labels: bool = True) -> Path:
    """Kernel 4.9: iio files; a device is named by the driver and its address."""
    for number, (address, rails) in enumerate(TX2_MW.items()):
        folder = sys_root / f"bus/i2c/drivers/ina3221x/{number // 2}-00{address}/iio:device{number}"
        for channel, (label, milliwatts) in enumerate(rails.items()):
            write(folder / f"in_power{channel}_input", milliwatts)
            if labels:
                write(folder / f"rail_name_{channel}", label)
    return sys_root


def orin(sys_root: Path) -> Path:
    """Kernel 5.10: hwmon below the driver's device, and the same folder by class."""
    for number, (address, rails) in enumerate(ORIN.items()):
        folder = sys_root / f"bus/i2c/drivers/ina3221/1-00{address}/hwmon/hwmon{number}"
        write(folder / "name", "ina3221")
        for channel, (label, (millivolts, milliamperes)) in enumerate(rails.items(), 1):
            write(folder / f"in{channel}_label", label.strip())
            write(folder / f"in{channel}_input", millivolts)
            write(folder / f"curr{channel}_input", milliamperes)
        write(folder / "in7_label", "sum of shunt voltages")
        write(folder / "in7_input", 123)
        (sys_root / "class/hwmon").mkdir(parents=True, exist_ok=True)
        (sys_root / f"class/hwmon/hwmon{number}").symlink_to(folder)
    return sys_root


def rapl(sys_root: Path, range_uj: int = 262143328850) -> Path:
    """A desktop's processor: one package with parts, psys, and the second door to the package."""
    zones = {"0": "package-0", "0:0": "core", "0:1": "uncore", "0:2": "dram", "1": "psys"}
    names = {f"intel-rapl:{zone}": name for zone, name in zones.items()} | {"intel-rapl-mmio:0": "package-0"}
    for folder, name in names.items():
        write(sys_root / f"class/powercap/{folder}/name", name)
        write(sys_root / f"class/powercap/{folder}/energy_uj", 1_000_000)
        write(sys_root / f"class/powercap/{folder}/max_energy_range_uj", range_uj)
    return sys_root


def battery(sys_root: Path, **files: object) -> Path:
    folder = sys_root / "class/power_supply"
    for name, value in ({"type": "Battery", "status": "Discharging"} | files).items():
        write(folder / "BAT0" / name, value)
    write(folder / "AC/type", "Mains")
    write(folder / "hidpp_battery_0/type", "Battery")
    write(folder / "hidpp_battery_0/scope", "Device")  # a mouse
    write(folder / "hidpp_battery_0/status", "Discharging")
    return sys_root


PMIC = """\
   VDD_CORE_A current(7)=1.12500000A
  DDR_VDD2_A current(3)=0.10000000A
 3V7_WL_SW_A current(0)=0.05000000A
   3V3_DAC_A current(17)=0.00010000A
   VDD_CORE_V volt(15)=0.88000000V
  DDR_VDD2_V volt(11)=1.10000000V
 3V7_WL_SW_V volt(8)=3.70000000V
   3V3_DAC_V volt(20)=3.31000000V
     EXT5V_V volt(24)=5.09066000V
      BATT_V volt(25)=0.00000000V
"""


class FakeJtop:
    """jetson-stats 4: a client whose ``power`` is the service's last data, in milliwatts."""

    class JtopException(Exception):
        pass

    def __init__(self, power: dict[str, Any], *, running: bool = True) -> None:
        self.power, self.running, self.closed = power, running, False

    def jtop(self, interval: float) -> "FakeJtop":
        return self

    def start(self) -> None:
        if not self.running:
            raise self.JtopException("The jtop.service is not active")

    def ok(self, spin: bool = False) -> bool:
        return self.running

    def close(self) -> None:
        self.closed = True


class FakeNvml:
    """nvidia-ml-py: module functions that take a handle; energy in millijoules, power in milliwatts."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, driver: bool = True, counter: bool = True, count: int = 1) -> None:
        self.driver, self.counter, self.count, self.lost = driver, counter, count, False
        self.energy_mj = dict.fromkeys(range(count), 5_000_000)
        self.power_mw = dict.fromkeys(range(count), 75_000)

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlShutdown(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index not in self.energy_mj:
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        return {"GPU-0a1b2c3d": 0, "GPU-4e5f6789": 1}[uuid]

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        return b"Tesla T4"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        if not self.counter or self.lost:
            raise self.NVMLError("GPU is lost" if self.lost else "Not Supported")
        return self.energy_mj[handle]

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        return self.power_mw[handle]


def roles(source: Source) -> dict[str, str]:
    return {rail.name: rail.role for rail in source.rails}


def in_total(source: Source) -> set[str]:
    return {rail.name for rail in source.rails if rail.in_total}


@pytest.mark.parametrize("labels", [True, False])
def test_tx2_gives_its_rails_by_name_or_by_address(tmp_path: Path, labels: bool) -> None:
    source = open_ina3221(tx2(tmp_path, labels=labels), carrier=True)
    watts = source.read().values

    assert watts == {
        label: pytest.approx(milliwatts / 1e3) for rails in TX2_MW.values() for label, milliwatts in rails.items()
    }
    assert in_total(source) == {"VDD_IN"}  # the module's input holds all other rails of the module
    wanted = {"VDD_IN": "module", "VDD_SYS_GPU": "gpu", "VDD_SYS_CPU": "cpu", "VDD_SYS_DDR": "ddr"}
    assert wanted.items() <= roles(source).items()
    assert {"VDD_SYS_SOC": "soc", "VDD_4V0_WIFI": "wifi", "VDD_MUX": "carrier"}.items() <= roles(source).items()
    assert set(roles(open_ina3221(tmp_path))) == {*TX2_MW["40"], *TX2_MW["41"]}


def test_first_tx2_kernels_name_the_folder_otherwise(tmp_path: Path) -> None:
    write(tmp_path / "bus/i2c/drivers/ina3221x/0-0041/iio_device/in_power0_input", 5300)

    assert open_ina3221(tmp_path).read().values == {"VDD_IN": 5.3}


def test_orin_multiplies_and_leaves_out_what_is_not_connected(tmp_path: Path) -> None:
    source = open_ina3221(orin(tmp_path))

    assert source.read().values == {
        "VDD_GPU_SOC": pytest.approx(6.93),
        "VDD_CPU_CV": pytest.approx(2.376),
        "VIN_SYS_5V0": pytest.approx(4.5),
        "VDDQ_VDD2_1V8AO": pytest.approx(1.0),
    }
    assert in_total(source) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"}
    assert roles(source)["VDD_GPU_SOC"] == "gpu+soc"
    assert roles(source)["VDDQ_VDD2_1V8AO"] == "ddr"


def test_odd_labels_keep_rails_apart(tmp_path: Path) -> None:
    orin(tmp_path)
    (tmp_path / "class/hwmon/hwmon0/in1_label").write_text("\n")
    (tmp_path / "class/hwmon/hwmon0/in2_label").unlink()
    (tmp_path / "class/hwmon/hwmon1/in2_label").write_text("VIN_SYS_5V0\n")

    names = {rail.name for rail in open_ina3221(tmp_path).rails}

    assert names == {"ina3221-40-1", "ina3221-40-2", "VIN_SYS_5V0@40", "VIN_SYS_5V0@41"}


def test_a_disabled_channel_is_no_rail(tmp_path: Path) -> None:
    orin(tmp_path)
    write(tmp_path / "class/hwmon/hwmon0/in1_enable", 0)

    assert "VDD_GPU_SOC" not in roles(open_ina3221(tmp_path))


def test_a_file_that_holds_no_number_is_that_rails_fault(tmp_path: Path) -> None:
    orin(tmp_path)
    (tmp_path / "class/hwmon/hwmon0/curr1_input").write_text("warn 32760 ma\n")

    reading = open_ina3221(tmp_path).read()

    assert "is no number" in reading.faults["VDD_GPU_SOC"]
    assert len(reading.values) == 3


def test_rapl_counts_packages_and_memory_once(tmp_path: Path) -> None:
    source = open_rapl(rapl(tmp_path))

    assert roles(source) == {
        "package-0": "cpu",
        "package-0/core": "cpu",
        "package-0/uncore": "gpu",
        "package-0/dram": "ddr",
        "psys": "platform",
    }
    assert in_total(source) == {"package-0", "package-0/dram"}
    assert source.read().values["package-0"] == 1.0
    assert source.rails[0].range_j == pytest.approx(262143.32885)


def test_rapl_says_how_to_allow_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rapl(tmp_path)

    def refused(path: object, flags: int) -> int:  # root, whom file modes do not stop, may run this test
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("common.metering.sysfs.os.open", refused)
    with pytest.raises(SensorError, match=r"Permission denied; only root .* sudo chmod a\+r .*/energy_uj"):
        open_rapl(tmp_path)


def test_jtop_gives_rails_and_the_modules_input() -> None:
    api = FakeJtop(
        {
            "rail": {"VDD_CPU_GPU_CV": {"power": 1820, "volt": 5000}, "VDD_SOC": {"power": 1250}},
            "tot": {"power": 5110, "name": "VDD_IN"},
        }
    )
    source = Jtop(api)

    assert source.read().values == {"VDD_CPU_GPU_CV": 1.82, "VDD_SOC": 1.25, "VDD_IN": 5.11}
    assert in_total(source) == {"VDD_IN"}
    assert roles(source)["VDD_CPU_GPU_CV"] == "cpu+gpu+cv"
    del api.power["rail"]["VDD_SOC"]
    assert source.read().faults == {"VDD_SOC": "jtop no longer shows it"}
    api.running = False
    with pytest.raises(SensorError, match="ended"):
        source.read()
    source.close()
    assert api.closed


def test_jtop_sums_where_the_board_has_no_input_rail() -> None:
    source = Jtop(FakeJtop({"rail": {"GPU": {"power": 900}, "CPU": {"power": 700}}, "tot": {"power": 1600}}))

    assert in_total(source) == {"GPU", "CPU"}


def test_jtop_without_its_service_is_told() -> None:
    with pytest.raises(SensorError, match=r"not active; is its service running \(sudo systemctl start jtop\)"):
        Jtop(FakeJtop({}, running=False))
    with pytest.raises(SensorError, match="no power rails"):
        Jtop(FakeJtop({}))


def test_nvml_counts_or_samples() -> None:
    counting, sampling = Nvml(FakeNvml(), visible="0"), Nvml(FakeNvml(counter=False), visible="0")

    assert counting.read().values == {"gpu0": 5000.0}
    assert counting.rails[0].counter
    assert sampling.read().values == {"gpu0": 75.0}
    assert not sampling.rails[0].counter
    assert counting.name == "NVML (Tesla T4)"


def test_nvml_keeps_to_the_visible_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert list(roles(Nvml(FakeNvml(count=2)))) == ["gpu0", "gpu1"]
    assert list(roles(Nvml(FakeNvml(count=2), visible="1"))) == ["gpu1"]
    assert list(roles(Nvml(FakeNvml(count=2), visible="GPU-4e5f6789"))) == ["gpu-4e5f6789"]
    for visible in ("", "-1"):
        with pytest.raises(SensorError, match="no GPU"):
            Nvml(FakeNvml(), visible=visible)


def test_nvml_tells_of_a_missing_driver_and_of_a_lost_gpu() -> None:
    with pytest.raises(SensorError, match="Driver Not Loaded"):
        Nvml(FakeNvml(driver=False))
    api = FakeNvml()
    source = Nvml(api, visible="0")
    api.lost = True

    assert source.read().faults == {"gpu0": "GPU is lost"}


def test_pmic_pairs_currents_and_voltages_by_name() -> None:
    source = Pmic(lambda: PMIC)

    assert source.read().values == {
        "VDD_CORE": pytest.approx(0.99),
        "DDR_VDD2": pytest.approx(0.11),
        "3V7_WL_SW": pytest.approx(0.185),
        "3V3_DAC": pytest.approx(0.000331),
    }
    assert roles(source) == {"VDD_CORE": "soc", "DDR_VDD2": "ddr", "3V7_WL_SW": "wifi", "3V3_DAC": "other"}
    assert in_total(source) == {"VDD_CORE", "DDR_VDD2", "3V7_WL_SW"}


@pytest.mark.parametrize("output", ["", "error=1 error_msg=Command not registered", " VDD_CORE_V volt(15)=0.7V\n"])
def test_pmic_of_an_older_board_is_refused(output: str) -> None:
    assert parse(output) == {}
    with pytest.raises(SensorError, match="only the Raspberry Pi 5"):
        Pmic(lambda: output)


def test_pmic_rail_that_vanishes_is_a_fault() -> None:
    texts = iter([PMIC, PMIC.replace("DDR_VDD2_A", "XXX_A")])
    reading = Pmic(lambda: next(texts)).read()

    assert reading.faults == {"DDR_VDD2": "not in the output of vcgencmd"}


def test_pmic_runs_vcgencmd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "vcgencmd"
    program.write_text(f"#!/bin/sh\n[ $1 = pmic_read_adc ] && cat <<END\n{PMIC}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    source = Pmic()
    reading = source.read()

    assert reading.values["VDD_CORE"] == pytest.approx(0.99)
    assert 0 < reading.child_cpu_s < 2
    program.write_text("#!/bin/sh\necho VCHI initialization failed >&2\nexit 255\n")
    with pytest.raises(SensorError, match="code 255: VCHI initialization failed"):
        source.read()
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(SensorError, match="no vcgencmd"):
        Pmic()


@pytest.mark.parametrize(
    ("files", "watts"),
    [
        ({"power_now": 12_340_000}, 12.34),
        ({"power_now": -12_340_000}, 12.34),
        ({"current_now": 1_500_000, "voltage_now": 11_400_000}, 17.1),
        ({"current_now": -1_500_000, "voltage_now": 11_400_000}, 17.1),
    ],
)
def test_battery_gives_power_or_current_times_voltage(tmp_path: Path, files: dict[str, int], watts: float) -> None:
    source = open_battery(battery(tmp_path, **files))

    assert source.read().values == {"BAT0": pytest.approx(watts)}


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging"])
def test_battery_counts_only_while_discharging(tmp_path: Path, status: str) -> None:
    source = open_battery(battery(tmp_path, power_now=12_340_000))
    write(tmp_path / "class/power_supply/BAT0/status", status)

    assert f"is {status.lower()}" in source.read().faults["BAT0"]
    with pytest.raises(SensorError, match="only while it is discharging"):
        open_battery(tmp_path)


@pytest.mark.parametrize("opens", [open_ina3221, open_rapl, open_battery])
def test_where_nothing_is_the_place_is_told(tmp_path: Path, opens: Callable[[Path], Source]) -> None:
    with pytest.raises(SensorError, match=str(tmp_path)):
        opens(tmp_path)


def test_the_model_weighs_idle_and_busy() -> None:
    state = SimpleNamespace(now_s=10.0, busy_s=100.0)
    model = ConstantPower(5, 15, busy_s=lambda: state.busy_s, clock=lambda: state.now_s, cores=4)
    state.now_s, state.busy_s = 20.0, 110.0  # 10 s, a quarter of 4 cores busy

    assert model.read().values == {"model": pytest.approx(5 * 10 + 10 * 10 / 4)}
    assert "not measured" in model.name


def test_the_model_never_shows_more_than_busy_and_loses_no_tick() -> None:
    state = SimpleNamespace(now_s=0.0, busy_s=0.0)
    model = ConstantPower(5, 15, busy_s=lambda: state.busy_s, clock=lambda: state.now_s, cores=1)
    seen = [0.0]
    for busy_s in (0.06, 0.10, 0.15, 0.20):  # ticks come in lumps
        state.now_s, state.busy_s = state.now_s + 0.05, busy_s
        seen.append(model.read().values["model"])

    assert max(after - before for before, after in pairwise(seen)) <= 15 * 0.05 + 1e-9
    assert seen[-1] == pytest.approx(15 * 0.2)


@pytest.mark.parametrize("watts", [(-1, 5), (6, 5)])
def test_the_model_refuses_nonsense(watts: tuple[float, float]) -> None:
    with pytest.raises(SensorError, match="idle <= busy"):
        ConstantPower(*watts)
