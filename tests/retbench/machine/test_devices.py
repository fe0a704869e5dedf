"""The table of data sheets: devices are found by torch's name, and figures are of one scale."""

from __future__ import annotations

import pytest

from retbench.machine.devices import DataSheet, data_sheet, data_sheets

SHEETS = [pytest.param(sheet, id=sheet.key) for sheet in data_sheets()]


def test_a_device_is_found_by_the_name_that_torch_gives_it() -> None:
    hopper = data_sheet("NVIDIA H100 80GB HBM3")
    assert hopper is not None
    assert hopper.flop_per_s["bfloat16"] == pytest.approx(1979e12 / 2, rel=1e-3)  # without sparsity


@pytest.mark.parametrize(
    "name", [None, "", "NVIDIA H100 NVL", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "Tesla T4"]
)
def test_a_device_that_is_not_in_the_table_has_no_figures(name: str | None) -> None:
    assert data_sheet(name) is None


def test_no_two_devices_share_a_name() -> None:
    names = [name.casefold() for sheet in data_sheets() for name in sheet.names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("sheet", SHEETS)
def test_figures_are_in_flop_per_second_and_bytes(sheet: DataSheet) -> None:
    """A slip of a unit, or a rate with sparsity, falls out of the range of its neighbours."""
    rates = sheet.flop_per_s
    narrow = {rates[dtype] for dtype in ("bfloat16", "float16") if dtype in rates}
    assert len(narrow) <= 1 and all(rate > rates.get("float32", 0) for rate in narrow)
    least = 100 if sheet.names else 10  # a host's processor, or a chip that shares its memory
    assert least < max(rates.values()) / sheet.bandwidth_bytes_per_s < 600
    assert 16e9 <= sheet.memory_bytes <= 480e9
    assert sheet.l2_bytes is None or 4e6 < sheet.l2_bytes < 200e6
    assert sheet.source
