"""What a sample is, and which metrics there are: each one declaration that all reports follow.

This module knows nothing of how a metric is measured and imports nothing heavy.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypedDict, get_args

SCHEMA_VERSION = 3

Status = Literal["ok", "oom", "oom_implied", "unsupported", "timeout", "error", "invalid", "bound"]
STATUSES: tuple[Status, ...] = get_args(Status)


class Sample(TypedDict):
    """One line of ``samples.jsonl``: a raw measurement, or how a cell ended.

    ``seq_len`` and ``batch_size`` count tokens and sequences; ``value`` is in ``unit``.
    ``block`` counts rounds from 0, ``process`` counts worker processes from 0 over the whole run,
    ``trial`` of a timed sample is the round of its block, which all contenders that take turns
    share. ``index`` is what any other metric runs over: the optimizer step of a curve, the document
    of a test, the position that a bucket ends before, the load of a recall task. Both are None
    where a metric has one value a process.
    ``model`` is the contender's label. ``implementation`` names what really ran (the retention
    form, the attention backend, the source of a memory figure).
    """

    suite: str
    point: str
    model: str
    preset: str
    implementation: str
    mode: str
    phase: str
    metric: str
    unit: str
    seq_len: int
    batch_size: int
    dtype: str
    device: str
    block: int
    process: int
    trial: int | None
    index: int | None
    value: float | None
    status: Status
    cause: str | None
    flags: list[str]


COLUMNS: tuple[str, ...] = tuple(Sample.__annotations__)


Kind = Literal["time", "memory", "energy", "rate", "analytic", "quality", "input"]


@dataclass(frozen=True)
class Metric:
    """A measured or derived quantity: all that a report knows of it.

    Attributes:
        tag: its name in samples, tables and code.
        unit: the unit it is stored in (``s``, ``bytes``, ``flop``, ``tokens/s``, ``ratio``).
        title: its name for people.
        kind: what it is. A rate is work over time, or its share of what a machine allows;
            analytic figures are computed and exact; an input is what a training or a test was
            given.
        definition: one sentence that says exactly what is measured.
        better: which direction wins; None where neither does.
        compared: its place among the metrics that models are compared by; None for any other.
        crosses: whether the context is looked for at which two models are equal in it.
        most: the largest value of a share; None of what is none.
        formula: what a derived metric is computed by, see :attr:`needs`; None of a measured one.
    """

    tag: str
    unit: str
    title: str
    kind: Kind
    definition: str
    better: Literal["lower", "higher"] | None = None
    compared: int | None = None
    crosses: bool = True
    most: float | None = None
    formula: Callable[..., float] | None = None

    @property
    def centre(self) -> Literal["median", "max"]:
        """What of the values of all processes is a cell's: memory is the largest's (M14)."""
        return "max" if self.kind == "memory" else "median"

    @cached_property
    def range(self) -> tuple[float, float]:
        """The least and the largest value that a sample may have: what is given can be counted."""
        if self.kind == "input":
            return 0.0, 2.0**63
        most = sys.float_info.max
        return (-most, most) if self.most is None else (0.0, self.most)

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """The arguments of the formula, by name: metrics, and what is known of the cell.

        Of a cell are known ``tokens`` and ``batch_size``, and where there are any: ``processes``
        that share its work, ``matmul_rate`` of them all in FLOP/s as measured, ``peak_rate`` as
        their maker states it, and ``bandwidth``, in bytes/s as a function of the bytes that are
        moved.
        """
        return () if self.formula is None else tuple(inspect.signature(self.formula).parameters)


_DECLARED = (
    # What one process measures many times.
    Metric("ttft_s", "s", "TTFT", "time",
           "time to first token: from the prompt's tokens on the device to the first new token, "
           "prefill included, state allocation excluded", "lower", compared=3),
    Metric("tpot_s", "s", "TPOT", "time",
           "time per output token: one decode step of the whole batch at the context, greedy "
           "choice included", "lower", compared=1),
    Metric("mean_tpot_s", "s", "Mean TPOT", "time",
           "time per output token over a whole generation, from a prompt of one token to the "
           "context: the mean of decode steps at positions spread evenly over it, each with a "
           "cache no longer than it must be (of compiled and captured steps as long as the whole "
           "context, for their shapes are fixed)", "lower", compared=2),
    # What one process measures once.
    Metric("cold_start_s", "s", "Cold start", "time",
           "compilation or graph capture, then the first prefill and the first decode step at "
           "these shapes", "lower"),
    Metric("import_s", "s", "Imports", "time", "from the worker's start to its libraries imported"),
    Metric("build_s", "s", "Build", "time", "building and initialising the model"),
    Metric("gate_s", "s", "Gate", "time", "checking that decoding reproduces the full forward"),
    Metric("gate_error", "ratio", "Gate error", "quality",
           "relative L2 distance of decoded logits from the full forward's, at the worst position; "
           "a fifth of that of its worst 16 logits, where that is more"),
    Metric("step_error", "ratio", "Step error", "quality",
           "relative L2 distance of the logits of the step after a prompt from those of a prefill "
           "of one token more, at the point itself, of the worst sequence; a fifth of that of its "
           "worst 16 logits, where that is more"),
    Metric("cell_s", "s", "Cell time", "time", "wall time of a cell in one process"),
    Metric("weights_bytes", "bytes", "Weights", "memory",
           "bytes of all parameters and buffers", "lower"),
    Metric("state_bytes", "bytes", "State", "memory",
           "bytes of the KV cache or retention state, summed over its tensors",
           "lower", compared=8),
    Metric("prefill_peak_bytes", "bytes", "Prefill peak", "memory",
           "peak memory during prefill; resident set above the import baseline on a CPU, "
           "allocated bytes on a GPU", "lower", compared=6, crosses=False),
    Metric("decode_peak_bytes", "bytes", "Decode peak", "memory",
           "peak memory during decoding; of a CUDA graph its whole memory pool",
           "lower", compared=7),
    Metric("steady_bytes", "bytes", "Steady state", "memory",
           "memory held between decode steps, a CUDA graph's pool included", "lower"),
    Metric("prefill_reserved_bytes", "bytes", "Reserved", "memory",
           "the GPU allocator's reserved bytes at the prefill peak", "lower"),
    Metric("device_used_bytes", "bytes", "Device", "memory",
           "memory in use on the device as the driver reports it, all processes", "lower"),
    # What the device's own counter says, of calls that follow each other for a while.
    Metric("token_j", "J", "Energy per token", "energy",
           "energy of the whole device per output token: of a decode step at the context, over its "
           "sequences; idle power included", "lower", compared=11, crosses=False),
    Metric("mean_token_j", "J", "Mean energy per token", "energy",
           "energy of the whole device per output token over a whole generation, at the positions "
           "of the mean TPOT; idle power included", "lower", compared=12, crosses=False),
    Metric("prefill_j", "J", "Prefill energy", "energy",
           "energy of the whole device per prefill of the batch, idle power included",
           "lower", compared=13, crosses=False),
    Metric("idle_w", "W", "Idle power", "energy",
           "power of the whole device while the process that holds the model waits"),
    # Analytic.
    Metric("prefill_flops", "flop", "Prefill FLOPs", "analytic",
           "analytic FLOPs that one prefill of the batch needs, whichever form runs"),
    Metric("prefill_hardware_flops", "flop", "Prefill hardware FLOPs", "analytic",
           "analytic FLOPs of one prefill of the batch in the form that runs, masked products "
           "among them"),
    Metric("prefill_bytes", "bytes", "Prefill bytes", "analytic",
           "analytic bytes one prefill must move: weights read once, state written once"),
    Metric("decode_flops", "flop", "Decode FLOPs", "analytic",
           "analytic FLOPs of one decode step of the batch"),
    Metric("decode_bytes", "bytes", "Decode bytes", "analytic",
           "analytic bytes one decode step must move: weights once, state read, state written"),
    # Of a projection: arithmetic alone.
    Metric("held_bytes", "bytes", "Weights and state", "analytic",
           "bytes of all weights and of the state: the least memory that decoding needs", "lower"),
    Metric("prefill_working_bytes", "bytes", "Prefill in passing", "analytic",
           "the least that a prefill of whole prompts holds beside weights and state: the residual "
           "stream, and the widest that one operation of a layer reads", "lower"),
    Metric("training_bytes", "bytes", "Training memory", "analytic",
           "the least memory of an optimizer step: weights, gradients and AdamW's moments in "
           "float32, and the input of every layer, from which the backward pass computes anew "
           "what else it needs", "lower"),
    Metric("step_bytes", "bytes", "Step bytes", "analytic",
           "analytic bytes an optimizer step must move: 28 a parameter by AdamW in float32, and "
           "every matrix read forward and backward"),
    Metric("mean_tpot_bound_s", "s", "Mean TPOT bound", "analytic",
           "mean of the TPOT bound over a generation from nothing to the context", "lower"),
    Metric("largest_batch", "1", "Largest batch", "analytic",
           "the most sequences whose state fits beside the weights into 95% of the memory",
           "higher"),
    Metric("largest_batch_tokens_per_s", "tokens/s", "Throughput at the largest batch", "analytic",
           "the largest batch over its TPOT bound", "higher"),
    # What one training measures; ``index`` is the optimizer step of a curve.
    Metric("train_loss", "nat/token", "Train loss", "quality",
           "cross-entropy on the training split, mean over the steps since the record before",
           "lower"),
    Metric("dev_loss", "nat/token", "Dev loss", "quality",
           "cross-entropy on the beginning of the dev split, estimated during training", "lower"),
    Metric("train_s", "s", "Training time", "time",
           "time of all steps so far, evaluation excluded"),
    Metric("final_dev_loss", "nat/token", "Final dev loss", "quality",
           "cross-entropy on the dev split after the last step: what the learning rate is chosen "
           "by", "lower"),
    Metric("learning_rate", "1", "Learning rate", "input", "peak of the schedule"),
    Metric("train_tokens_per_s", "tokens/s", "Training throughput", "rate",
           "tokens of all steps over their time, evaluation excluded", "higher"),
    Metric("parameters", "1", "Parameters", "input", "non-embedding parameters"),
    Metric("train_tokens", "1", "Training tokens", "input", "tokens of all steps of one training"),
    Metric("train_flops", "flop", "Training FLOPs", "analytic",
           "analytic FLOPs, forward and backward, that one training needs, whichever form runs"),
    Metric("data_order", "1", "Data order", "input",
           "fingerprint of the training data and the order of its batches: equal for all models "
           "of a block"),
    # One optimizer step, timed alone; its parts are timed one by one, each waited for.
    Metric("step_s", "s", "Step", "time",
           "one optimizer step on a batch that lies on the device: forward, backward, clipping "
           "and AdamW; of processes that share it the slowest one's time", "lower", compared=4),
    Metric("forward_s", "s", "Forward", "time", "forward pass and loss of a step, alone", "lower"),
    Metric("backward_s", "s", "Backward", "time",
           "backward pass of a step, alone; what was not kept is computed anew in it", "lower"),
    Metric("optimizer_s", "s", "Optimizer", "time", "clipping and AdamW's update, alone", "lower"),
    Metric("batch_s", "s", "Loader", "time",
           "one batch from the data loader, when nothing else is done", "lower"),
    Metric("gradients_bytes", "bytes", "Gradients", "memory", "bytes of all gradients", "lower"),
    Metric("optimizer_bytes", "bytes", "Optimizer state", "memory",
           "bytes of AdamW's moments and counters", "lower"),
    Metric("activations_bytes", "bytes", "Activations", "memory",
           "bytes that autograd keeps of a forward pass for the backward, the weights not counted",
           "lower", compared=10),
    Metric("step_peak_bytes", "bytes", "Step peak", "memory",
           "peak memory over whole steps; resident set above the import baseline on a CPU, "
           "allocated bytes on a GPU", "lower", compared=9),
    Metric("step_j", "J", "Step energy", "energy",
           "energy of the whole device per optimizer step, idle power included",
           "lower", compared=14, crosses=False),
    Metric("step_flops", "flop", "Step FLOPs", "analytic",
           "analytic FLOPs that forward and backward (three times the forward) of a batch need, "
           "whichever form runs"),
    Metric("step_hardware_flops", "flop", "Step hardware FLOPs", "analytic",
           "analytic FLOPs of forward and backward of a batch in the form that runs, masked "
           "products and what is computed anew among them"),
    # What the trained model is then tested on; ``index`` is the document.
    Metric("test_nats", "nat", "Test loss", "quality",
           "negative log-likelihood of a test document, every token but its first scored once",
           "lower"),
    Metric("test_tokens", "1", "Test tokens", "input", "tokens scored in a test document"),
    Metric("test_bytes", "bytes", "Test bytes", "input", "UTF-8 bytes of a test document"),
    Metric("position_loss", "nat/token", "Loss by position", "quality",
           "cross-entropy over the positions of a bucket, that ends before position `index` of "
           "the window", "lower"),
    Metric("last_loss", "nat/token", "Loss of the last tokens", "quality",
           "cross-entropy of the last tokens of every training window of a document, 128 or an "
           "eighth of the window, predicted from at most so many tokens: the same ones at any "
           "context (arXiv 2307.08621, table 8)", "lower"),
    Metric("ar_hit_loss", "nat/token", "AR-hit loss", "quality",
           "cross-entropy of the tokens of a document that complete a bigram seen before in the "
           "window, in training windows that stand alone (arXiv 2312.04927)", "lower"),
    Metric("first_occur_loss", "nat/token", "First-occurrence loss", "quality",
           "cross-entropy of a document's other tokens, in the same windows", "lower"),
    Metric("accuracy", "ratio", "Accuracy", "quality",
           "share of the answers whose likeliest token is right, at a length and a load", "higher",
           most=1.0),
    Metric("answers", "1", "Answers", "input", "answers asked for at a length and a load"),
    # What the kernels suite measures of one operation.
    Metric("kernel_s", "s", "Time", "time",
           "one call of the operation, forward, or forward and backward to the gradients of its "
           "inputs; the same inputs call after call, so that caches are warm", "lower",
           compared=5),
    Metric("kernel_first_s", "s", "First call", "time",
           "the first call at these shapes in a process: compilation and autotuning included",
           "lower"),
    Metric("kernel_error", "ratio", "Error", "quality",
           "relative L2 distance from float64 of some rows of the output and, in training, of the "
           "gradients of all inputs: the largest of any row, or block of a gradient's rows, in any "
           "head and sequence", "lower"),
    Metric("kernel_peak_bytes", "bytes", "Peak", "memory",
           "peak memory during the calls above what was held before them: outputs, gradients and "
           "what is kept in between; resident set on a CPU, allocated bytes on a GPU", "lower"),
    Metric("kernel_flops", "flop", "FLOPs", "analytic",
           "analytic FLOPs that the function needs, whatever an implementation does: of attention "
           "those of the causal pairs, of retention those of the pairs or of the recurrence, "
           "whichever is less; three times as many for forward and backward"),
    Metric("kernel_bytes", "bytes", "Bytes", "analytic",
           "analytic bytes that must move: inputs and output once, in training their gradients "
           "too, all in the type of the inputs"),
    # Derived when a report is made: a rate is work over the median time (M9), a bound takes the
    # ceilings that the run measured, or there is none (M15). MFU and HFU as in arXiv 2204.02311,
    # appendix B: over the peak that the maker states, where it is known.
    Metric("prefill_tokens_per_s", "tokens/s", "Prefill throughput", "rate",
           "prompt tokens of the batch over the median TTFT", "higher",
           formula=lambda tokens, ttft_s: tokens / ttft_s),
    Metric("decode_tokens_per_s", "tokens/s", "Decode throughput", "rate",
           "batch size over the median TPOT", "higher",
           formula=lambda batch_size, tpot_s: batch_size / tpot_s),
    Metric("prefill_mfu", "ratio", "Prefill MFU", "rate",
           "model FLOPs utilisation: prefill FLOPs over TTFT over the device's dense peak, as its "
           "maker states it", "higher",
           formula=lambda ttft_s, prefill_flops, peak_rate: prefill_flops / peak_rate / ttft_s),
    Metric("prefill_hfu", "ratio", "Prefill HFU", "rate",
           "hardware FLOPs utilisation: prefill hardware FLOPs over TTFT over the same peak",
           "higher", formula=lambda ttft_s, prefill_hardware_flops, peak_rate:
               prefill_hardware_flops / peak_rate / ttft_s),
    Metric("prefill_matmul_share", "ratio", "Prefill, share of matmul rate", "rate",
           "share of the measured matmul rate: prefill FLOPs over TTFT over the fastest matrix "
           "product measured on this machine", "higher",
           formula=lambda ttft_s, prefill_flops, matmul_rate:
               prefill_flops / matmul_rate / ttft_s),
    Metric("prefill_hardware_share", "ratio", "Prefill, hardware share", "rate",
           "prefill hardware FLOPs over TTFT over the fastest matrix product measured on this "
           "machine", "higher",
           formula=lambda ttft_s, prefill_hardware_flops, matmul_rate:
               prefill_hardware_flops / matmul_rate / ttft_s),
    Metric("step_tokens_per_s", "tokens/s", "Throughput", "rate",
           "tokens of a step over the median step time", "higher",
           formula=lambda tokens, step_s: tokens / step_s),
    Metric("process_tokens_per_s", "tokens/s", "Throughput per process", "rate",
           "tokens of a step over the median step time and over the processes that share it",
           "higher", formula=lambda tokens, processes, step_s: tokens / processes / step_s),
    Metric("step_mfu", "ratio", "MFU", "rate",
           "model FLOPs utilisation: step FLOPs over step time over the dense peak of the devices "
           "that share it, as their maker states it", "higher",
           formula=lambda step_s, step_flops, peak_rate: step_flops / peak_rate / step_s),
    Metric("step_hfu", "ratio", "HFU", "rate",
           "hardware FLOPs utilisation: step hardware FLOPs over step time over the same peak",
           "higher", formula=lambda step_s, step_hardware_flops, peak_rate:
               step_hardware_flops / peak_rate / step_s),
    Metric("step_matmul_share", "ratio", "Share of matmul rate", "rate",
           "share of the measured matmul rate: step FLOPs over step time over the fastest matrix "
           "product measured on this machine, of all processes", "higher",
           formula=lambda step_s, step_flops, matmul_rate: step_flops / matmul_rate / step_s),
    Metric("step_hardware_share", "ratio", "Hardware share", "rate",
           "step hardware FLOPs over step time over the fastest matrix product measured on this "
           "machine, of all processes", "higher",
           formula=lambda step_s, step_hardware_flops, matmul_rate:
               step_hardware_flops / matmul_rate / step_s),
    Metric("capacity_tokens_per_s", "tokens/s", "Throughput there", "rate",
           "tokens a second of all sequences, of decoding or of training steps, at the largest "
           "batch size tried that fits", "higher"),
    Metric("prefill_above_weights_bytes", "bytes", "Prefill above weights", "memory",
           "prefill peak less the weights: the state, and what a prefill uses in passing", "lower",
           formula=lambda prefill_peak_bytes, weights_bytes: prefill_peak_bytes - weights_bytes),
    Metric("decode_above_weights_bytes", "bytes", "Decode above weights", "memory",
           "decode peak less the weights: the state, and what a step uses in passing", "lower",
           formula=lambda decode_peak_bytes, weights_bytes: decode_peak_bytes - weights_bytes),
    Metric("decode_bandwidth", "bytes/s", "Achieved bandwidth", "rate",
           "analytic decode bytes over TPOT", "higher",
           formula=lambda tpot_s, decode_bytes: decode_bytes / tpot_s),
    Metric("kernel_flop_per_s", "flop/s", "Rate", "rate",
           "analytic FLOPs over the median time of a call", "higher",
           formula=lambda kernel_s, kernel_flops: kernel_flops / kernel_s),
    Metric("kernel_bandwidth", "bytes/s", "Bandwidth", "rate",
           "analytic bytes over the median time of a call", "higher",
           formula=lambda kernel_s, kernel_bytes: kernel_bytes / kernel_s),
    Metric("kernel_share", "ratio", "Of the ceiling", "rate",
           "the time that the machine's measured matmul rate or its bandwidth at that size "
           "allows, whichever is longer, over the median time of a call", "higher",
           formula=lambda kernel_s, kernel_flops, kernel_bytes, matmul_rate, bandwidth: max(
               kernel_flops / matmul_rate, kernel_bytes / bandwidth(kernel_bytes)) / kernel_s),
    Metric("tpot_bound_s", "s", "TPOT bound", "analytic",
           "analytic decode bytes over the machine's measured bandwidth at that size, or analytic "
           "decode FLOPs over its measured matmul rate, whichever is longer: no step that reads "
           "them all from memory can be faster", "lower",
           formula=lambda decode_bytes, decode_flops, bandwidth, matmul_rate: max(
               decode_bytes / bandwidth(decode_bytes), decode_flops / matmul_rate)),
    Metric("decode_intensity", "ratio", "Decode bound by", "analytic",
           "the time that a step's FLOPs take at the measured matmul rate over that of its bytes "
           "at the measured bandwidth: above 1 FLOPs bound it, below 1 bytes",
           formula=lambda decode_bytes, decode_flops, bandwidth, matmul_rate:
               decode_flops / matmul_rate * bandwidth(decode_bytes) / decode_bytes),
    Metric("tpot_over_bound", "ratio", "x bound", "rate",
           "TPOT over its bound: how many times as long a step takes as moving its bytes, or "
           "computing its FLOPs, would; the rest is dispatch of operations and synchronisation",
           "lower",
           formula=lambda tpot_s, tpot_bound_s: tpot_s * (1 / tpot_bound_s)),
    Metric("ttft_bound_s", "s", "TTFT bound", "analytic",
           "analytic prefill FLOPs over the machine's measured matmul rate, or analytic prefill "
           "bytes over its measured bandwidth at that size, whichever is longer: no prefill can "
           "be faster", "lower",
           formula=lambda prefill_bytes, prefill_flops, bandwidth, matmul_rate: max(
               prefill_bytes / bandwidth(prefill_bytes), prefill_flops / matmul_rate)),
    Metric("prefill_intensity", "ratio", "Prefill bound by", "analytic",
           "the time that a prefill's FLOPs take at the measured matmul rate over that of its "
           "bytes at the measured bandwidth: above 1 FLOPs bound it, below 1 bytes",
           formula=lambda prefill_bytes, prefill_flops, bandwidth, matmul_rate:
               prefill_flops / matmul_rate * bandwidth(prefill_bytes) / prefill_bytes),
    Metric("step_bound_s", "s", "Step bound", "analytic",
           "analytic step FLOPs over the machine's measured matmul rate: no step can be faster",
           "lower",
           formula=lambda step_flops, matmul_rate: step_flops / matmul_rate),
    Metric("step_bound_tokens_per_s", "tokens/s", "Throughput bound", "analytic",
           "tokens of a step over the step bound", "higher",
           formula=lambda tokens, step_bound_s: tokens / step_bound_s),
    Metric("decode_bound_tokens_per_s", "tokens/s", "Decode throughput bound", "analytic",
           "batch size over the TPOT bound", "higher",
           formula=lambda batch_size, tpot_bound_s: batch_size / tpot_bound_s),
    Metric("prefill_bound_tokens_per_s", "tokens/s", "Prefill throughput bound", "analytic",
           "prompt tokens of the batch over the TTFT bound", "higher",
           formula=lambda tokens, ttft_bound_s: tokens / ttft_bound_s),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.tag: metric for metric in _DECLARED}

IN_SUITE: dict[str, dict[str, str]] = {
    "training": {
        "cold_start_s": "the first step at these shapes, compilation included",
        "gate_s": "checking that no model sees the future or another sequence, and that its "
        "gradients are its formula's",
        "gate_error": "relative L2 distance of the loss's gradient at a token's embedding from the "
        "formula's in float64, exceeded by one token in ten, or by half the tokens of some part",
    },
    "projection": {
        "tpot_bound_s": "of a decode step: its bytes over the data sheet's bandwidth, or its FLOPs "
        "over the data sheet's dense rate, whichever is longer",
        "ttft_bound_s": "of a prefill: the bytes of weights and state over the bandwidth, or its "
        "FLOPs over the rate, whichever is longer",
        "step_bound_s": "of an optimizer step on one device: three forwards' FLOPs over the rate, "
        "or its bytes over the bandwidth, whichever is longer; nothing is computed anew",
    },
}
"""What words of every suite mean in one of them: definitions by suite and tag."""


TIMES_IN: dict[str, tuple[str, ...]] = {
    "inference": ("tpot_s", "mean_tpot_s", "ttft_s"),
    "training": ("step_s",),
    "kernels": ("kernel_s",),
}
"""The times that a suite compares, by its name: tags."""


def compared(kind: Kind | None = None) -> tuple[str, ...]:
    """The tags of the metrics that models are compared by, in their order; of one kind or all."""
    places = {metric.tag: metric.compared for metric in _DECLARED if kind in (None, metric.kind)}
    return tuple(sorted(filter(places.get, places), key=lambda tag: places[tag] or 0))


def sample_key(sample: Sample | dict[str, Any]) -> tuple[int, str, str]:
    """The coordinates of a cell in one block: ``(block, model, point)``."""
    return sample["block"], sample["model"], sample["point"]
