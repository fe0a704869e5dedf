"""The table of data sheets: devices are found by torch's name, and figures are of one scale."""

from __future__ import annotations

import pytest

from retbench.machine.devices import DataSheet, data_sheet, data_sheets

SHEETS = [pytest.param(sheet, id=sheet.key) for sheet in data_sheets()]
KNOWN = {sheet.key: sheet for sheet in data_sheets()}


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


@pytest.mark.parametrize(
    ("key", "rate"),
    [
        ("a100-80gb", 624e12),
        ("h100-sxm", 1979e12),
        ("h200", 1979e12),
        ("b200", 4.5e15),
        ("gb200", 5e15),
        ("l4", 242e12),
        ("l40s", 733e12),
        ("rtx-4090", 330.4e12),
        ("rtx-5090", 419e12),
        ("mi300x", 2614.9e12),
    ],
)
def test_a_rate_in_16_bits_is_half_of_that_with_sparsity(key: str, rate: float) -> None:
    """Where a data sheet has both, accumulated in float32."""
    assert KNOWN[key].flop_per_s["bfloat16"] == pytest.approx(rate / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("key", "bits", "bits_per_s"),
    [
        ("a100-40gb", 5120, 2.43e9),
        ("a100-80gb", 5120, 3.186e9),
        ("h100-sxm", 5120, 5.238e9),
        ("h100-pcie", 5120, 3.186e9),
        ("l4", 192, 12.5e9),
        ("l40s", 384, 18e9),
        ("rtx-4090", 384, 21e9),
        ("rtx-5090", 512, 28e9),
        ("mi250x", 4096, 3.2e9),
        ("mi300x", 8192, 5.2e9),
        ("ryzen-7840hs", 128, 5.6e9),
    ],
)
def test_bandwidth_is_that_of_a_bus_at_the_rate_of_its_pins(
    key: str, bits: int, bits_per_s: float
) -> None:
    stated = KNOWN[key].bandwidth_bytes_per_s
    assert stated == pytest.approx(bits * bits_per_s / 8, rel=1e-3)
