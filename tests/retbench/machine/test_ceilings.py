"""The machine's measured ceilings, and what counts as beyond them."""

import json

import pytest
import torch

from retbench.machine import ceilings
from retbench.machine.clock import Clock
from retbench.machine.threads import cpu_threads

MIB = 2**20


@pytest.fixture(scope="module")
def small():
    """Ceilings of small sizes, measured in a fraction of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ceilings, "CPU_WORKING_SETS", (1 * MIB, 4 * MIB))
        patch.setattr(ceilings, "CPU_MATMUL_SIZES", (128, 256))
        patch.setattr(ceilings, "_BANDWIDTH_BUDGET_S", 0.5)
        return ceilings.measure("cpu", ["float32", "bfloat16"], threads=1)


def given(*bandwidth, **matmul):
    """Ceilings as they would have been measured: (size, read, copy) and a rate a dtype."""
    keys = ("working_set_bytes", "read_bytes_per_s", "copy_bytes_per_s")
    return {
        "bandwidth": [dict(zip(keys, entry, strict=True)) for entry in bandwidth],
        "matmul_flop_per_s": matmul,
    }


# Measuring


def test_ceilings_are_a_json_document(small):
    assert json.loads(json.dumps(small)) == small


def test_each_working_set_has_a_plausible_bandwidth(small):
    assert [entry["working_set_bytes"] for entry in small["bandwidth"]] == [MIB, 4 * MIB]
    for entry in small["bandwidth"]:
        # From a loaded laptop to an L1 cache: a wrong unit or a missing factor of 1e3 falls out.
        assert 1e8 < entry["read_bytes_per_s"] < 1e13
        assert 1e8 < entry["copy_bytes_per_s"] < 1e13


def test_each_dtype_has_a_plausible_matmul_rate(small):
    assert set(small["matmul_flop_per_s"]) == {"float32", "bfloat16"}
    assert all(1e8 < rate < 1e15 for rate in small["matmul_flop_per_s"].values())


def test_reading_touches_every_byte_and_changes_none():
    buffer = torch.arange(2.0 * ceilings._ROW)
    before = buffer.clone()
    by_row, product, total = (read() for read in ceilings._reads(buffer))
    assert by_row.sum() == pytest.approx(float(buffer.double().sum()), rel=1e-5)
    assert total == pytest.approx(float(buffer.double().sum()), rel=1e-5)
    half = ceilings._ROW
    assert product == pytest.approx(float((buffer[:half] * buffer[half:]).double().sum()), rel=1e-5)
    assert buffer.equal(before)


def test_copying_writes_half_of_the_bytes(monkeypatch):
    monkeypatch.setattr(ceilings, "_fastest_s", lambda clock, operation, budget_s: operation())
    monkeypatch.setattr(ceilings, "_reads", lambda buffer: [lambda: 0.0])
    buffer = torch.arange(8.0)
    ceilings._read_and_copy_s(Clock(), buffer)
    assert buffer.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_a_dtype_without_a_matmul_is_absent(monkeypatch):
    monkeypatch.setattr(ceilings, "CPU_WORKING_SETS", ())
    monkeypatch.setattr(ceilings, "CPU_MATMUL_SIZES", (64,))
    found = ceilings.measure("cpu", ["float32", "bool"], threads=1)
    assert set(found["matmul_flop_per_s"]) == {"float32"}


def test_working_sets_leave_three_quarters_of_the_memory(monkeypatch):
    monkeypatch.setattr(ceilings, "available_memory_bytes", lambda device: 300 * MIB)
    assert ceilings._working_sets("cpu") == (4 * MIB, 16 * MIB, 64 * MIB)
    assert ceilings._working_sets("cuda") == (75 * MIB,)


def test_no_further_working_set_is_begun_when_time_is_up():
    found = ceilings._bandwidths("cpu", (MIB, 2 * MIB), deadline=0.0)
    assert [entry["working_set_bytes"] for entry in found] == [MIB]


def test_the_number_of_threads_is_left_as_it_was(small):
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    assert small["threads"] == 1


# Looking up


CACHED = given((4 * MIB, 100e9, 90e9), (64 * MIB, 40e9, 50e9), (1024 * MIB, 20e9, 10e9))


def test_the_better_of_read_and_copy_is_the_ceiling_at_a_measured_size():
    assert ceilings.bandwidth_at(CACHED, 4 * MIB) == pytest.approx(100e9)
    assert ceilings.bandwidth_at(CACHED, 64 * MIB) == pytest.approx(50e9)


def test_between_sizes_the_ceiling_is_interpolated_on_logarithms():
    middle = ceilings.bandwidth_at(CACHED, 16 * MIB)
    assert middle == pytest.approx((100e9 * 50e9) ** 0.5)


@pytest.mark.parametrize(("size", "expected"), [(1, 100e9), (0, 100e9), (2**40, 20e9)])
def test_beyond_the_measured_sizes_the_nearest_counts(size, expected):
    assert ceilings.bandwidth_at(CACHED, size) == pytest.approx(expected)


def test_a_smaller_working_set_is_never_slower_than_a_larger_one():
    noisy = given((4 * MIB, 10e9, 10e9), (64 * MIB, 50e9, 50e9))
    assert ceilings.bandwidth_at(noisy, 4 * MIB) == pytest.approx(50e9)


def test_the_peak_is_the_best_at_any_size():
    assert ceilings.peak_bandwidth(CACHED) == pytest.approx(100e9)


@pytest.mark.parametrize("unknown", [None, {}, given()])
def test_an_unknown_peak_is_none_and_condemns_nothing(unknown):
    assert ceilings.bandwidth_at(unknown, MIB) is None
    assert ceilings.peak_bandwidth(unknown) is None
    assert ceilings.matmul_rate(unknown, "float32") is None
    assert ceilings.violates_physics(1e-9, 1e18, 1e18, "float32", unknown) is None


def test_the_matmul_rate_is_that_of_the_dtype():
    rates = given(float32=1e12, bfloat16=4e12)
    assert ceilings.matmul_rate(rates, "bfloat16") == 4e12
    assert ceilings.matmul_rate(rates, "float16") is None


# Physics


@pytest.mark.parametrize(("seconds", "impossible"), [(1.0, False), (0.92, False), (0.90, True)])
def test_a_step_over_10_percent_faster_than_the_best_bandwidth_is_impossible(seconds, impossible):
    assert bool(ceilings.violates_physics(seconds, 0, 100e9, "float32", CACHED)) is impossible


@pytest.mark.parametrize(("seconds", "impossible"), [(1.0, False), (0.92, False), (0.90, True)])
def test_a_rate_over_the_best_is_impossible_beyond_the_ceilings_own_error(seconds, impossible):
    rates = given(float32=1e12)
    assert bool(ceilings.violates_physics(seconds, 1e12, 0, "float32", rates)) is impossible


def test_the_cause_names_the_figure_and_the_ceiling():
    cause = ceilings.violates_physics(1.0, 0, 200e9, "float32", CACHED)
    assert cause == (
        "needs 200 GB/s, 2 times the best bandwidth measured on this machine (100 GB/s)"
    )


def test_no_work_takes_no_time():
    assert "less than any work takes" in ceilings.violates_physics(0.0, 0, 1.0, "float32", CACHED)


def test_the_better_of_two_measurements_counts_figure_by_figure():
    quiet = {
        "device": "cpu", "threads": 2, "elapsed_s": 2.0, "matmul_flop_per_s": {"float32": 3e11},
        "bandwidth": [{"working_set_bytes": 4, "read_bytes_per_s": 9.0, "copy_bytes_per_s": 5.0}],
    }  # fmt: skip
    busy = {
        "device": "cpu", "threads": 2, "elapsed_s": 2.5,
        "matmul_flop_per_s": {"float32": 1e11, "bfloat16": 1e12},
        "bandwidth": [
            {"working_set_bytes": 4, "read_bytes_per_s": 2.0, "copy_bytes_per_s": 6.0},
            {"working_set_bytes": 8, "read_bytes_per_s": 3.0, "copy_bytes_per_s": 3.0},
        ],
    }  # fmt: skip
    merged = ceilings.merge(quiet, busy)
    assert merged["matmul_flop_per_s"] == {"float32": 3e11, "bfloat16": 1e12}
    assert merged["bandwidth"] == [
        {"working_set_bytes": 4, "read_bytes_per_s": 9.0, "copy_bytes_per_s": 6.0},
        {"working_set_bytes": 8, "read_bytes_per_s": 3.0, "copy_bytes_per_s": 3.0},
    ]
    assert ceilings.merge(None, busy) == busy
