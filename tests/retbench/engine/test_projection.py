"""A projection: bounds by hand, what fits, what one may ask for, and the files that it leaves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models.config import ModelConfig
from models.decoder import Decoder
from models.registry import config_for, config_from_dict, families
from retbench import report
from retbench.engine.projection import project
from retbench.errors import UserError
from retbench.machine import ceilings
from retbench.machine.devices import data_sheets
from retbench.store import open_run
from retbench.suites.projection import USABLE, Bounds

from ..conftest import Command

RESULTS = Path(__file__).parents[3] / "results"
SHEETS = {sheet.key: sheet for sheet in data_sheets()}
OTHER = """
[[device]]
key = "slow"
names = ["Slow"]
flop_per_s = { bfloat16 = 1e12 }
memory_bytes = 16e9
bandwidth_bytes_per_s = 1e11
source = "nobody"
"""


def bounds(family: str, device: str = "a100-80gb", preset: str = "6.7b") -> Bounds:
    return Bounds(config_for(family, preset), SHEETS[device], "bfloat16")


def test_a_step_takes_as_long_as_its_bytes_where_they_decide() -> None:
    # Weights of 13.3 GB in 16 bits; 8 caches of 8,192 x 32 layers x 2 x 4,096 numbers.
    moved = 13.32e9 + 8 * 8192 * 32 * 2 * 4096 * 2
    assert bounds("transformer").step_s(8, 8192) == pytest.approx(moved / 2.039e12, rel=2e-3)


def test_a_step_takes_as_long_as_its_flops_where_they_decide() -> None:
    model = bounds("retnet", "rtx-4090", "125m")
    flops = 4096 * model.model.flops_per_token(1024, "decode")
    assert flops / 165.2e12 > model.model.weight_bytes(2) / 1.008e12
    assert model.step_s(4096, 1024) >= flops / 165.2e12


def test_the_mean_over_a_generation_is_the_step_at_its_middle_where_bytes_decide() -> None:
    for family in ("retnet", "transformer"):
        own = bounds(family)
        assert own.generation_s(8, 8192) == pytest.approx(own.step_s(8, 4096), rel=1e-9)


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    own = bounds("transformer")
    most = own.largest_batch(8192)
    assert most == 14

    def held(batch: int) -> int:
        return own.model.weight_bytes(2) + own.model.state_bytes(batch, 8192, 2)

    assert held(most) <= USABLE * 80e9 < held(most + 1)
    assert bounds("transformer", "rtx-4090").figures(1, 8192)["largest_batch"] == 2
    assert bounds("transformer", "l4").figures(64, 65536)["largest_batch_tokens_per_s"] == 0


@pytest.mark.parametrize("preset", ["tiny", "1m", "10m", "125m"])
@pytest.mark.parametrize("family", families())
def test_counted_bytes_of_weights_and_state_are_those_of_a_built_model(
    family: str, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Decoder, "_initialise", lambda self, seed: None)  # sizes alone
    for name in ("normal_", "kaiming_uniform_"):
        monkeypatch.setattr(f"torch.nn.init.{name}", lambda tensor, *_, **__: tensor)
    config = config_for(family, preset)
    model = config.build(dtype=torch.bfloat16)
    assert 2 * model.num_parameters(embeddings=True) == config.weight_bytes(2)
    if config.static_state:  # else it grows with what is written
        assert model.init_state(3, 64).nbytes == config.state_bytes(3, 64, 2)


def test_a_prefill_holds_the_residual_stream_and_its_widest_operands_in_passing() -> None:
    # 4,096 of residual, and 4 x 4,096: a Transformer's feed-forward, q, k, v of a RetNet.
    for family in ("retnet", "transformer"):
        found = bounds(family).figures(8, 8192)["prefill_working_bytes"]
        assert found == 8 * 8192 * (4096 + 4 * 4096) * 2


def test_a_training_step_is_bound_by_its_flops_or_by_adamws_bytes() -> None:
    own = bounds("transformer")
    parameters = own.model.num_parameters(embeddings=True)
    long, short = own.figures(8, 8192), own.figures(1, 512)
    flops = 8 * 8192 * own.model.flops_per_token(8192, "train")
    assert long["step_bound_s"] == pytest.approx(flops / 312e12)
    # 28 bytes a parameter, and the 16-bit matrices forward and backward.
    assert short["step_bound_s"] == pytest.approx(32 * parameters / 2.039e12, rel=1e-3)
    inputs = 8 * 8192 * 32 * 4096 * 2
    assert long["training_bytes"] == 16 * parameters + inputs


def test_no_torch_is_needed_to_project_or_to_list(tmp_path: Path) -> None:
    asked = ["project", "--preset", "tiny", "--context", "64", "--hardware", "l4", "--quiet"]
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from retbench import report\n"
        "report.write_plots = lambda run, content=None: []\n"
        "from retbench.cli.app import main\n"
        f"for words in ({[*asked, '--out', str(tmp_path / 'run')]}, ['list']):\n"
        "    try: main(words)\n"
        "    except SystemExit as ended: assert ended.code == 0\n"
        "    else: assert False\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def projected(path: Path, **given: Any) -> Any:
    asked = {"preset": "tiny", "models": "retnet,transformer", "hardware": "l4", "out": str(path)}
    sizes = {"context": "64:256", "batch": "1,8", "batch_context": 128}
    return project(asked | sizes | given)


def test_a_projection_is_a_run_that_says_bound_everywhere(tmp_path: Path) -> None:
    run = projected(tmp_path / "run")
    assert set(run.statuses()["status"]) == {"bound"}
    content = report.content_of(run)
    assert content.stamp[0] == "bound, not a measurement"
    names = {table.name for table in content.tables}
    assert names >= {"ratios", "break_even", "cells", "training"}
    assert "retnet / transformer at the bound of l4, 128 tokens, batch 8: " in content.findings[0]
    report.write_plots(run, content)
    drawn = sorted((run.path / "plots").glob("*.json"))
    assert [file.stem for file in drawn] == ["batch_l4", "context_l4"]
    for file in drawn:
        assert json.loads(file.read_text())["caveat"] == "BOUND, NOT A MEASUREMENT"
    cells = next(table for table in content.tables if table.name == "cells")
    row = cells.frame.iloc[0]
    rate = row["batch_size"] / row["tpot_bound_s"] / (row["held_bytes"] / 1e9)
    titles = [column.title for column in cells.columns]
    assert float(cells.cells[0][titles.index("Tokens/s a GB")]) == pytest.approx(rate, rel=0.01)
    words = (run.path / "report.html").read_text()
    assert "faster" not in words and "equivalent" not in words


def test_where_not_one_sequence_fits_no_factor_is_named(tmp_path: Path) -> None:
    run = projected(
        tmp_path / "run", preset="6.7b", context="65536", batch_context=65536, batch="1"
    )
    (said,) = report.content_of(run).findings
    assert said.endswith("not one sequence of both fits")


def test_each_bound_is_derived_from_numbers_that_come_to_it(tmp_path: Path) -> None:
    run = projected(tmp_path / "run", preset="6.7b", batch_context=8192, hardware="a100-80gb")
    derived = next(t for t in report.content_of(run).tables if t.name == "derivation")
    rows = {(model, figure): (how, value) for model, figure, how, value in derived.cells}
    how, value = rows["transformer", "state"]
    # Keys and values of 32 layers, 4,096 numbers each, in 16 bits.
    assert (how, value) == ("4.29 GB a sequence x 8", "34.4 GB")
    assert pytest.approx(4.29e9, rel=2e-3) == 2 * 32 * 8192 * 4096 * 2
    how, value = rows["retnet", "bytes of a step"]
    matrices, read, written = map(float, re.findall(r"([\d.]+) GB of", how))
    assert read == written  # a recurrent state changes whole
    assert matrices + read + written == pytest.approx(float(value.removesuffix(" GB")), rel=0.01)
    how, _ = rows["transformer", "bytes of a step"]
    assert "34.4 GB of state read + 0 GB of it written" in how
    how, value = rows["transformer", "step at least"]
    assert how.startswith("47.7 GB / 2.04 TB/s = ") and how.endswith("the bytes take longer")
    assert f"= {value};" in how
    how, value = rows["transformer", "training step at least"]
    assert how.endswith(f"= {value}: the FLOPs take longer")
    how, value = rows["retnet", "prefill in passing"]
    tokens, residual, widest, size = (float(n.replace(",", "")) for n in re.findall(r"[\d,]+", how))
    assert f"{tokens * (residual + widest) * size / 1e9:.2f} GB" == value


def test_the_derivation_is_printed_where_it_is_asked_for(command: Command, tmp_path: Path) -> None:
    asked = ["project", "--preset", "tiny", "--context", "64", "--batch-context", "64",
             "--hardware", "l4", "--out"]  # fmt: skip
    short, long = (
        command(*asked, tmp_path / name, *more) for name, more in (("a", ()), ("b", ("--explain",)))
    )
    assert "How the bounds come about" in long.out and "largest batch" in long.out
    assert "How the bounds come about" not in short.out


def test_devices_of_ones_own_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(OTHER, encoding="utf-8-sig")
    run = projected(tmp_path / "run", hardware=f"{file},h200")
    assert list(run.meta["hardware"]) == ["slow", "h200"]
    again = file.rename(tmp_path / "again.toml")
    file.write_text(OTHER)
    with pytest.raises(UserError, match=r"again\.toml: another device is called 'slow'"):
        projected(tmp_path / "other", hardware=f"{file},{again}")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('source = "nobody"', "", "device slow lacks source"),
        ("16e9", '"16 GB"', "memory_bytes must be a number of at least 1, not '16 GB'"),
        ("1e11", "-1", "bandwidth_bytes_per_s must be a number of at least 1, not -1"),
        ("1e12", "nan", "bfloat16 must be a number of at least 1, not nan"),
        ("1e11", "1e-300", "bandwidth_bytes_per_s must be a number of at least 1, not 1e-300"),
        ("1e11", f"1{'0' * 400}", "beyond 64 bits"),
        ('"nobody"', "2024-03-18", "device slow: source must be text, not datetime.date"),
        ('"slow"', "7", "device 7: key must be text, not 7"),
        ('["Slow"]', "[1]", "device slow: names must be a list of texts"),
        ('key = "slow"', f"key{'.a' * 3000} = 1", "nested too deeply"),
        ("[[device]]", "[[device]", "line 2"),
        ("[[device]]", "[device]", "device must be a list of tables"),
        (OTHER, "", "holds no"),
        ("[[device]]", "x = " + "[" * 10_000, "nested too deeply"),
        ("bfloat16", "float64", "no bfloat16 rate of slow is known"),
        (OTHER, OTHER * 2, "device 'slow' occurs twice"),
        ("slow", "here", "another device is called 'here'"),
        ("slow", "l4", "another device is called 'l4'"),
    ],
)
def test_a_device_that_cannot_be_is_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(OTHER.replace(old, new))
    with pytest.raises(UserError, match=said):
        projected(tmp_path / "run", hardware=str(file))


def test_an_unknown_device_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown device 'h100-smx'") as raised:
        projected(tmp_path / "run", hardware="h100-smx")
    assert "h100-sxm" in str(raised.value.hint)
    with pytest.raises(UserError, match="cannot read"):
        projected(tmp_path / "run", hardware="absent.toml")


def test_this_machine_is_a_device_once_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = {"working_set_bytes": 2**20, "read_bytes_per_s": 3e10, "copy_bytes_per_s": 2e10}
    measured = {"bandwidth": [size], "matmul_flop_per_s": {"bfloat16": 5e10}}
    monkeypatch.setattr(ceilings, "measure", lambda device, dtypes, threads: measured)
    run = projected(tmp_path / "run", hardware="here,l4")
    sheet = run.meta["hardware"]["here"]
    assert sheet["flop_per_s"] == {"bfloat16": 5e10}
    assert sheet["bandwidth_bytes_per_s"] == pytest.approx(3e10)
    assert sheet["source"] == "measured on this machine" and sheet["memory_bytes"] > 1e9
    with pytest.raises(UserError, match="here cannot be measured in float16"):
        projected(tmp_path / "other", hardware="here", dtype="float16")


def measured(name: str) -> Iterator[tuple[ModelConfig, Any, dict[str, float]]]:
    """Configuration, cell and the medians of what a published run measured, of each cell."""
    run = open_run(RESULTS / name)
    frame = run.frame().query("status == 'ok' and preset != ''")
    keys = ["model", "seq_len", "batch_size", "point"]
    for (label, context, batch, _), own in frame.groupby(keys):
        config = config_from_dict(run.meta["models"][label]["config"])
        yield config, (batch, context), own.groupby("metric")["value"].median().to_dict()


def test_memory_measured_on_this_kind_of_machine_is_the_projected_within_5_percent() -> None:
    cells = list(measured("cpu-10m-inference"))
    assert len(cells) >= 9
    for config, size, found in cells:
        assert found["weights_bytes"] == pytest.approx(config.weight_bytes(4), rel=0.05)
        assert found["state_bytes"] == pytest.approx(config.state_bytes(*size, 4), rel=0.05)
        assert found["prefill_peak_bytes"] > config.prefill_working_bytes(*size, 4)
    for config, size, found in measured("cpu-1m-training"):
        if "optimizer_bytes" in found:
            kept = sum(found[f"{part}_bytes"] for part in ("weights", "gradients", "optimizer"))
            assert kept == pytest.approx(16 * config.num_parameters(embeddings=True), rel=0.05)
            assert found["step_peak_bytes"] > config.training_bytes(*size, 4)


def test_no_time_measured_is_below_its_bound() -> None:
    content = report.content_of(open_run(RESULTS / "cpu-10m-inference"))
    cells = next(table for table in content.tables if table.name == "cells").frame
    shares = cells.loc[cells["metric"] == "tpot_over_bound", "value"]
    assert len(shares) >= 9 and (shares >= 1).all()
