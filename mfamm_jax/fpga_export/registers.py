"""Register map of the kernel: one list for the RTL, the manifest and the documentation."""

import dataclasses

from mfamm_jax.fpga_export.kernel import Registers
from mfamm_jax.fpga_export.plan import PRICE_BITS, SIZE_BITS, VPIN_BITS, WIDEN, KernelFormat

IDENTITY = 0x4D464D4B  # "MFMK"
INTERFACE_VERSION = 1
# Byte addresses of what is not a setting.
ADDRESSES = {
    "id": (0x00, "read", "0x4D464D4B"),
    "format_id": (0x04, "read", "identifies formats and baked-in parameters; a table made for another one is refused"),
    "interface": (0x08, "read", "version of this map"),
    "control": (
        0x0C,
        "write",
        "bit 0 apply settings, 1 arm, 2 kill, 3 start loading, 4 commit loading, 5 flip pages; pulses",
    ),
    "status": (
        0x10,
        "read",
        "bit 0 armed, 1 has a state, 2 state older than max_age, 3 active page, 4-5 page valid, 6 live",
    ),
    "sticky": (
        0x14,
        "read, write 1 to clear",
        "bit 0 input saturated, 1 crossed book, 2 load error, 3 flip error, 4 price collar acted, 5 apply refused",
    ),
    "version": (0x18, "read", "version of the active table"),
    "load_data": (0x50, "write", "next word of table.bin's payload"),
    "load_crc": (0x54, "write", "CRC-32 of the payload"),
    "load_version": (0x58, "write", "version of the table, 8 bits, returned with every quote"),
    "load_format": (0x5C, "write", "format_id of the table"),
    "load_count": (0x60, "read", "words received since loading started"),
}
FIRST_SETTING = 0x20


@dataclasses.dataclass(frozen=True)
class Setting:
    """A register that takes effect with CONTROL.apply."""

    name: str
    bits: int
    signed: bool
    value: int
    address: int
    unit: str
    meaning: str

    @property
    def reset(self) -> str:
        """Value after reset, as hexadecimal digits."""
        return f"{self.value & ((1 << self.bits) - 1):x}"


def settings(form: KernelFormat, registers: Registers, max_age: int) -> list[Setting]:
    """All settings with their values after reset."""
    depth = form.depth_limit
    ticks = f"ticks x 2^{form.fraction}"
    rows = [
        ("depth_min", depth.width, True, ticks, "smallest depth of a quote; at least 1"),
        ("depth_max", depth.width, True, ticks, "largest depth of a quote"),
        ("vpin_gate", VPIN_BITS, False, "2^-12", "VPIN above which quotes widen"),
        ("vpin_widen", WIDEN.width, False, "ticks x 2^8", "widening for each unit of VPIN above the gate"),
        ("vpin_stop", VPIN_BITS + 1, False, "2^-12", "VPIN from which on nothing is quoted; 4096 = never"),
        ("order_size", SIZE_BITS, False, "lots", "size of a quote"),
        ("max_order_size", SIZE_BITS, False, "lots", "a larger order_size is not quoted"),
        ("inventory_limit", form.inventory.width, False, "lots", "no quote whose fill would pass it"),
        ("price_low", PRICE_BITS, True, "ticks", "no quote below"),
        ("price_high", PRICE_BITS, True, "ticks", "no quote above"),
        (
            "saturated_stops",
            1,
            False,
            "",
            "1 = nothing is quoted on a state outside the table's domain; 0 = its edge is",
        ),
    ]
    values = [int(getattr(registers, row[0])) for row in rows]
    rows.append(("max_age", 32, False, "cycles", "nothing is quoted on a state this old; 0 = never anything"))
    values.append(max_age)
    return [
        Setting(name, bits, signed, value, FIRST_SETTING + 4 * i, unit, meaning)
        for i, ((name, bits, signed, unit, meaning), value) in enumerate(zip(rows, values, strict=True))
    ]
