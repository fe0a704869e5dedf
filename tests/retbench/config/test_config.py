"""A configuration: where its values come from, what is refused, and that it can be stored."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retbench import suites
from retbench.config import values
from retbench.config.run import CAPTURED_MODES, DTYPES, MODES, PROFILES, RunConfig
from retbench.engine.resolve import explicit, resolve
from retbench.errors import UserError
from retbench.machine import host
from retbench.suites.inference import InferenceConfig
from retbench.suites.scaling import ScalingConfig


def refused(**asked: object) -> str:
    """The message with which a configuration is refused; it must be one line."""
    with pytest.raises(UserError) as caught:
        resolve(**{"device": "cpu", **asked})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def toml(folder: Path, text: str) -> Path:
    file = folder / "run.toml"
    file.write_text(text)
    return file


sizes = st.sets(st.integers(1, 2**40), min_size=1, max_size=4).map(lambda s: tuple(sorted(s)))
names = st.text(min_size=1).map(lambda text: text.replace("\0", "").strip()).filter(bool)
int64 = st.integers(-(2**63), 2**63 - 1)
scalars = st.booleans() | int64 | st.floats(allow_nan=False, allow_infinity=False) | names
shared = dict(
    models=st.lists(names, min_size=1, max_size=3, unique=True).map(tuple),
    preset=names,
    context=sizes,
    batch=sizes,
    device=st.sampled_from(["cpu", "cuda"]),
    profile=st.sampled_from(sorted(PROFILES)),
    seed=st.integers(0, 2**63 - 1),
    threads=st.integers(1, 1024),
    ffn=st.sampled_from(["gelu", "swiglu"]),
    timeout_s=st.floats(1e-9, 1e9),
    memory_limit_gib=st.none() | st.floats(1e-9, 1e9),
    out=st.none() | names,
    plugins=st.lists(names, max_size=2).map(tuple),
    overrides=st.dictionaries(st.from_regex(r"([a-z-]+\.)?[a-z_]+", fullmatch=True), scalars),
)
configs = st.builds(
    InferenceConfig,
    dtype=st.sampled_from(DTYPES),
    mode=st.sampled_from(MODES),
    minutes=st.floats(0, 1e9),
    batch_context=st.integers(1, 2**40),
    new_tokens=st.integers(1, 2**20),
    **shared,
) | st.builds(
    ScalingConfig,
    data=st.none() | names,
    tokenizer=st.sampled_from(["char", "bpe:300", "gpt2"]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    mode=st.sampled_from(["eager", "compile"]),
    steps=st.integers(1, 2**40),
    learning_rates=st.sets(st.floats(1e-9, 1e3), min_size=1).map(lambda s: tuple(sorted(s))),
    presets=st.lists(names, min_size=1, max_size=3, unique=True).map(tuple),
    training=st.dictionaries(st.from_regex(r"[a-z_]+", fullmatch=True), scalars),
    **shared,
)


@given(configs)
def test_a_configuration_survives_json_exactly(config: RunConfig) -> None:
    assert suites.configuration(json.loads(json.dumps(config.to_json()))) == config


def test_a_configuration_cannot_be_changed() -> None:
    config = resolve(device="cpu", overrides={"max_len": 65536})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.overrides["max_len"] = 1  # type: ignore[index]


def test_a_stored_configuration_that_lacks_a_field_is_refused() -> None:
    document = resolve(device="cpu").to_json()
    del document["mode"]
    with pytest.raises(UserError, match="lacks mode"):
        suites.configuration(document)


def test_a_value_that_the_suite_has_no_use_for_is_refused() -> None:
    with pytest.raises(UserError, match="lr: the suite inference has no use for it"):
        resolve("inference", lr="1e-3", device="cpu")
    with pytest.raises(UserError, match="new-tokens: the suite perplexity has no use"):
        resolve("perplexity", new_tokens=4, device="cpu")
    assert "steps" not in resolve("inference", device="cpu").to_json()


def test_the_cpu_default_reaches_4k_tokens_in_float32() -> None:
    config = resolve(device="cpu")
    assert (config.preset, config.dtype, config.mode) == ("10m", "float32", "eager")
    assert config.models == ("retnet", "transformer", "transformer-gqa")
    assert config.context == (1024, 2048, 4096)
    assert config.batch == (1,)
    assert config.profile == "quick"


def test_the_gpu_default_is_the_papers_size_with_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cuda_available", lambda: True)
    config = resolve()
    assert (config.device, config.preset, config.dtype) == ("cuda", "1.3b", "bfloat16")
    assert config.mode == "cudagraph"
    assert (config.context[0], config.context[-1]) == (512, 65536)
    assert (config.batch[0], config.batch[-1]) == (1, 1024)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("512,2048,8192", (512, 2048, 8192)),
        ("512:4096", (512, 1024, 2048, 4096)),
        ("500:3000", (512, 1024, 2048)),
        ("300,512:1024,100", (100, 300, 512, 1024)),
        ("64:64", (64,)),
        (64, (64,)),
        ([256, 128, 256], (128, 256)),
    ],
)
def test_contexts_are_lists_ranges_of_powers_of_two_or_both(
    written: object, read: tuple[int, ...]
) -> None:
    assert resolve(device="cpu", context=written).context == read


@pytest.mark.parametrize(
    "written", ["", "abc", "0", "-5", "512:", "1:2:3", "700:1000", "9:8", "1.5"]
)
def test_a_context_that_is_no_size_is_refused(written: str) -> None:
    assert refused(context=written).startswith("context: ")


@pytest.mark.parametrize(
    "asked",
    [
        {"batch": [0]},
        {"batch": [True]},
        {"batch_context": 0},
        {"new_tokens": -1},
        {"threads": 0},
        {"seed": -1},
        {"timeout": 0.0},
        {"timeout": float("nan")},
        {"memory_limit": -1.0},
        {"memory_limit": 10**400},
        {"minutes": 10**400},
        {"seed": "1"},
    ],
)
def test_a_number_out_of_range_or_of_the_wrong_type_is_refused(asked: dict[str, object]) -> None:
    name = next(iter(asked)).replace("_", "-")
    assert refused(**asked).startswith(f"{name}: must ")


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ({"suite": "inferense"}, "'inference'"),
        ({"models": "retnt"}, "'retnet'"),
        ({"preset": "10"}, "'10m'"),
        ({"profile": "quik"}, "'quick'"),
        ({"mode": "cudagraphs"}, "'cudagraph'"),
        ({"dtype": "bfloat"}, "'bfloat16'"),
        ({"device": "gpu", "mode": "eager"}, "'cpu'"),
        ({"ffn": "swigl"}, "'swiglu'"),
        ({"contxt": "512"}, "'context'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    asked: dict[str, object], nearest: str
) -> None:
    assert f"did you mean {nearest}?" in refused(**asked)


def test_a_model_named_twice_is_refused() -> None:
    assert "'retnet' is named twice" in refused(models="retnet,retnet")


def test_heads_that_do_not_divide_are_refused() -> None:
    assert "n_heads = 7 does not divide d_model = 384" in refused(overrides=["n_heads=7"])


def test_an_override_that_the_model_lacks_is_refused() -> None:
    assert "no option 'hedas'" in refused(overrides=["retnet.hedas=4"])


def test_an_override_of_a_model_that_does_not_run_is_refused() -> None:
    message = refused(models="retnet,transformer", overrides=["retnt.max_len=4096"])
    assert "no model 'retnt'; did you mean 'retnet'?" in message


@pytest.mark.parametrize("suite", ["inference", "perplexity"])
def test_an_override_beyond_64_bits_is_refused(suite: str) -> None:
    name = "training" if suite == "perplexity" else "overrides"
    assert "weight_decay must be within 64 bits" in refused(
        suite=suite, **{name: [f"weight_decay=1{'0' * 400}"]}
    )


def test_an_override_of_many_brackets_is_text() -> None:
    assert "d_model must be int, not '[[[[" in refused(overrides=["d_model=" + "[" * 100_000])


@pytest.mark.parametrize("infinite", [["rope_base=1e999"], {"rope_base": float("inf")}])
def test_an_override_that_could_not_be_stored_is_refused(infinite: object) -> None:
    assert "rope_base must be finite" in refused(overrides=infinite)


def test_the_feed_forward_kind_cannot_differ_between_models() -> None:
    assert "use --ffn" in refused(overrides=["retnet.ffn=swiglu"])


@pytest.mark.parametrize(
    "asked", [{"context": "512:131072"}, {"batch": "1,2", "batch_context": 131072}]
)
def test_a_context_beyond_what_a_model_can_hold_is_refused(asked: dict[str, object]) -> None:
    message = refused(**asked)
    assert "131072 and 8 new tokens exceed the 131072 tokens that retnet can hold" in message
    assert resolve(device="cpu", overrides=["max_len=131080"], **asked).context  # as it suggests


def test_cuda_graphs_on_a_cpu_are_refused() -> None:
    for mode in CAPTURED_MODES:
        assert f"mode {mode} is impossible on device cpu: CUDA graphs need a GPU" in refused(
            mode=mode
        )


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cuda_available", lambda: False)
    assert "there is no GPU" in refused(device="cuda")


def test_overrides_of_one_family_leave_the_others_alone() -> None:
    config = resolve(device="cpu", overrides=["max-len=65536", "retnet.n_heads=3"])
    assert config.overrides_for("retnet") == {"ffn": "gelu", "max_len": 65536, "n_heads": 3}
    assert config.overrides_for("transformer") == {"ffn": "gelu", "max_len": 65536}


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = toml(tmp_path, 'preset = "tiny"\nnew-tokens = 4\nseed = 3\n[set]\nmax-len = 65536\n')
    config = resolve(device="cpu", config_file=file, seed=5, overrides=["retnet.n_heads=2"])
    assert (config.preset, config.new_tokens, config.seed) == ("tiny", 4, 5)
    assert config.overrides == {"max_len": 65536, "retnet.n_heads": 2}


def test_a_table_in_the_file_overrides_one_family(tmp_path: Path) -> None:
    file = toml(tmp_path, "[set.transformer-gqa]\nmax_len = 65536\n")
    assert resolve(device="cpu", config_file=file).overrides == {"transformer-gqa.max_len": 65536}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('preset = "tiny"\ncontext = [512,\n\nseed 3', ":4: not valid TOML"),
        ("seed = 1\n\n# why\ncontxt = 512\n", ":4: unknown key 'contxt'; did you mean 'context'?"),
        ('preset = "tiny"\nseed = "one"\n', ":2: seed: must be a whole number, not 'one'"),
        ("timeout = true\n", ":1: timeout: must be a number"),
        ("seed = 1\n[set]\nsizes = [1]\n", ":2: set: sizes must be a number"),
        ("context = " + "[" * 10_000, ": nested too deeply"),
        (f"preset{'.a' * 3000} = 1", ": nested too deeply"),
        (f"[set]\nb{'.a' * 3000} = 1", ": nested too deeply"),
        (f"seed = {'9' * 5000}", ": a number is too long"),
        (f"timeout = 1{'0' * 400}", ": a number is beyond 64 bits"),
        (f"context = [1, 0x1{'0' * 16}]", ": a number is beyond 64 bits"),
        ('seed = 1\nout = "a\\u0000b"', r":2: out: 'a\x00b' holds a zero byte"),
        ("batch-context = 1\nbatch_context = 2\n", ":2: batch_context is given twice"),
        ("timeout = 1\ntimeout_s = 2\n", ":2: timeout_s: timeout_s is given twice"),
        ('\npreset = "tinny"\n', ":2: unknown preset 'tinny'; did you mean 'tiny'?"),
        ('\nmodels = ["retnt"]\n', ":2: unknown model 'retnt'; did you mean 'retnet'?"),
        ('device = "cpu"\nmode = "cudagraph"\n', ":2: mode cudagraph is impossible"),
        ("seed = 1\n[set.retnt]\nn_heads = 2\n", ":3: set: retnt.n_heads: the run has no model"),
        ('plugin = "nowhere.py"\n', ":1: plugin nowhere.py: no file"),
        ('profile = "quik"\n', ":1: profile: unknown profile 'quik'; did you mean 'quick'?"),
    ],
)
def test_a_mistake_in_the_file_is_reported_with_its_line(
    tmp_path: Path, text: str, expected: str
) -> None:
    file = toml(tmp_path, text)
    assert f"{file}{expected}" in refused(config_file=file)


def test_a_mistake_of_a_flag_names_no_line_of_the_file(tmp_path: Path) -> None:
    file = toml(tmp_path, 'preset = "tiny"\n')
    assert refused(config_file=file, preset="tinny").startswith("unknown preset")


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    file = toml(tmp_path, '\ufeffpreset = "tiny"\n')
    assert resolve(device="cpu", config_file=file).preset == "tiny"


def test_a_file_that_is_not_utf8_is_reported_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(b'seed = 1\npreset = "\xff"\n')
    assert f"{file}:2: not UTF-8" in refused(config_file=file)


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    assert f"cannot read the configuration {tmp_path / name}" in refused(
        config_file=tmp_path / name
    )


def test_what_was_asked_for_is_compared_with_what_is_stored() -> None:
    stored = resolve(device="cpu", preset="tiny", context="512:1024")
    same = explicit(preset="tiny", context="1024,512").values
    assert stored.contradictions(same) == []
    assert stored.contradictions(explicit(seed=7).values) == ["seed was 0, not 7"]
    assert stored.contradictions(explicit(seed=7).values, but=["seed"]) == []


# When a run is to end.


@pytest.mark.parametrize("written", ["2%", "0.02", 0.02, " 2 % "])
def test_a_precision_is_a_share_or_a_percentage(written: object) -> None:
    assert resolve(device="cpu", precision=written).precision == pytest.approx(0.02)


@pytest.mark.parametrize("name", ["precision", "margin"])
@pytest.mark.parametrize("written", ["0", 0, "-1%", "100%", 1.0, "2%%", "two", True, "nan"])
def test_a_share_that_is_none_is_refused(name: str, written: object) -> None:
    assert refused(**{name: written}).startswith(f"{name}: ")


@pytest.mark.parametrize("written", [-1, True, "5", float("inf")])
def test_minutes_that_are_none_are_refused(written: object) -> None:
    assert refused(minutes=written).startswith("minutes: ")


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_the_minutes_are_those_of_the_profile_unless_they_are_given(profile: str) -> None:
    assert resolve(device="cpu", profile=profile).minutes == PROFILES[profile].minutes
    assert resolve(device="cpu", profile=profile, minutes=0).minutes == 0.0


@pytest.mark.parametrize("name", ["minutes", "precision", "margin"])
def test_a_suite_that_is_not_timed_has_no_use_for_an_end(name: str) -> None:
    assert "the suite perplexity has no use for it" in refused(suite="perplexity", **{name: 0.5})


def test_a_configuration_goes_to_other_processes_as_it_is() -> None:
    config = resolve(device="cpu", overrides=["retnet.decay=eq8"])
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_tilde_is_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert values.path("~/x") == "/home/me/x"
    assert values.path("a~/x") == "a~/x"
    monkeypatch.setattr("os.path.expanduser", str)
    with pytest.raises(UserError, match="out: there is no home folder for '~/x'"):
        values.folder("~/x")
