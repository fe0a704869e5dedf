"""What a sample is, which metrics there are, and in which unit each is stored.

A metric is a declaration; tables, plots and exports follow from it. This module knows nothing of
how a metric is measured and imports nothing heavy, so that reports can be made without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

SCHEMA_VERSION = 2

Status = Literal["ok", "oom", "oom_implied", "unsupported", "timeout", "error", "invalid"]
STATUSES: tuple[Status, ...] = (
    "ok", "oom", "oom_implied", "unsupported", "timeout", "error", "invalid",
)  # fmt: skip


class Sample(TypedDict):
    """One line of ``samples.jsonl``: a raw measurement, or how a cell ended.

    ``seq_len`` and ``batch_size`` count tokens and sequences; ``value`` is in ``unit``.
    ``block`` counts rounds from 0, ``process`` counts worker processes from 0 over the whole run,
    ``trial`` of a timed sample is the round of its block, which all contenders that take turns
    share; it is None where a metric has one value a process. In a training suite ``trial`` is what
    the metric runs over: the optimizer step of a curve, the document of a test, the last position
    of a bucket, the load of a recall task.
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
    value: float | None
    status: Status
    cause: str | None
    flags: list[str]


COLUMNS: tuple[str, ...] = tuple(Sample.__annotations__)


@dataclass(frozen=True)
class Metric:
    """A measured or derived quantity.

    Attributes:
        tag: its name in samples, tables and code.
        unit: the unit it is stored in (``s``, ``bytes``, ``flop``, ``tokens/s``, ``ratio``).
        title: its name for people.
        definition: one sentence that says exactly what is measured.
        better: which direction wins; None where neither does.
    """

    tag: str
    unit: str
    title: str
    definition: str
    better: Literal["lower", "higher"] | None = None


_DECLARED = (
    # What one process measures many times.
    Metric("ttft_s", "s", "TTFT", "time to first token: from the prompt's tokens on the device "
           "to the first new token, prefill included, state allocation excluded", "lower"),
    Metric("tpot_s", "s", "TPOT", "time per output token: one decode step of the whole batch at "
           "the context, greedy choice included", "lower"),
    Metric("mean_tpot_s", "s", "Mean TPOT", "time per output token over a whole generation, from a "
           "prompt of one token to the context: the mean of decode steps at positions spread "
           "evenly over it, each with a cache no longer than it must be (of compiled and captured "
           "steps as long as the whole context, for their shapes are fixed)", "lower"),
    # What one process measures once.
    Metric("cold_start_s", "s", "Cold start", "compilation or graph capture, then the first "
           "prefill and the first decode step at these shapes, in a process whose gate has run",
           "lower"),
    Metric("import_s", "s", "Imports", "from the worker's start to its libraries imported"),
    Metric("build_s", "s", "Build", "building and initialising the model"),
    Metric("gate_s", "s", "Gate", "checking that decoding reproduces the full forward"),
    Metric("gate_error", "ratio", "Gate error", "relative L2 distance of decoded logits from the "
           "full forward's"),
    Metric("step_error", "ratio", "Step error", "relative L2 distance of the logits of the step "
           "after a prompt from those of a prefill of one token more, at the point itself"),
    Metric("cell_s", "s", "Cell time", "wall time of a cell in one process"),
    Metric("weights_bytes", "bytes", "Weights", "bytes of all parameters and buffers", "lower"),
    Metric("state_bytes", "bytes", "State", "bytes of the KV cache or retention state, summed "
           "over its tensors", "lower"),
    Metric("prefill_peak_bytes", "bytes", "Prefill peak", "peak memory during prefill; resident "
           "set above the import baseline on a CPU, allocated bytes on a GPU", "lower"),
    Metric("decode_peak_bytes", "bytes", "Decode peak", "peak memory during decoding", "lower"),
    Metric("steady_bytes", "bytes", "Steady state", "memory held between decode steps", "lower"),
    Metric("prefill_reserved_bytes", "bytes", "Reserved", "the GPU allocator's reserved bytes "
           "at the prefill peak", "lower"),
    Metric("device_used_bytes", "bytes", "Device", "memory in use on the device as the driver "
           "reports it, all processes", "lower"),
    # Analytic.
    Metric("prefill_flops", "flop", "Prefill FLOPs", "analytic FLOPs of one prefill of the batch"),
    Metric("decode_flops", "flop", "Decode FLOPs", "analytic FLOPs of one decode step of the "
           "batch"),
    Metric("decode_bytes", "bytes", "Decode bytes", "analytic bytes one decode step must move: "
           "weights once, state read, state written"),
    # What one training measures; ``trial`` is the optimizer step of a curve.
    Metric("train_loss", "nat/token", "Train loss", "cross-entropy on the training split, mean "
           "over the steps since the record before", "lower"),
    Metric("dev_loss", "nat/token", "Dev loss", "cross-entropy on the beginning of the dev split, "
           "estimated during training", "lower"),
    Metric("train_s", "s", "Training time", "time of all steps so far, evaluation excluded"),
    Metric("final_dev_loss", "nat/token", "Final dev loss", "cross-entropy on the dev split after "
           "the last step: what the learning rate is chosen by", "lower"),
    Metric("learning_rate", "1", "Learning rate", "peak of the schedule"),
    Metric("train_tokens_per_s", "tokens/s", "Training throughput", "tokens of all steps over "
           "their time, evaluation excluded", "higher"),
    Metric("parameters", "1", "Parameters", "non-embedding parameters"),
    Metric("train_tokens", "1", "Training tokens", "tokens of all steps of one training"),
    Metric("train_flops", "flop", "Training FLOPs", "analytic FLOPs, forward and backward, of one "
           "training"),
    Metric("data_order", "1", "Data order", "fingerprint of the training data and the order of "
           "its batches: equal for all models of a block"),
    # One optimizer step, timed alone; its parts are timed one by one, each waited for.
    Metric("step_s", "s", "Step", "one optimizer step on a batch that lies on the device: forward, "
           "backward, clipping and AdamW; of processes that share it the slowest one's time",
           "lower"),
    Metric("forward_s", "s", "Forward", "forward pass and loss of a step, alone", "lower"),
    Metric("backward_s", "s", "Backward", "backward pass of a step, alone; what was not kept is "
           "computed anew in it", "lower"),
    Metric("optimizer_s", "s", "Optimizer", "clipping and AdamW's update, alone", "lower"),
    Metric("batch_s", "s", "Loader", "one batch from the data loader, when nothing else is done",
           "lower"),
    Metric("gradients_bytes", "bytes", "Gradients", "bytes of all gradients", "lower"),
    Metric("optimizer_bytes", "bytes", "Optimizer state", "bytes of AdamW's moments and counters",
           "lower"),
    Metric("activations_bytes", "bytes", "Activations", "bytes that autograd keeps of a forward "
           "pass for the backward, the weights not counted", "lower"),
    Metric("step_peak_bytes", "bytes", "Step peak", "peak memory over whole steps; resident set "
           "above the import baseline on a CPU, allocated bytes on a GPU", "lower"),
    Metric("step_flops", "flop", "Step FLOPs", "analytic FLOPs of forward and backward (three "
           "times the forward) of a batch; what is computed anew is not counted twice"),
    # What the trained model is then tested on; ``trial`` is the document.
    Metric("test_nats", "nat", "Test loss", "negative log-likelihood of a test document, every "
           "token but its first scored once", "lower"),
    Metric("test_tokens", "1", "Test tokens", "tokens scored in a test document"),
    Metric("test_bytes", "bytes", "Test bytes", "UTF-8 bytes of a test document"),
    Metric("position_loss", "nat/token", "Loss by position", "cross-entropy over the positions of "
           "a bucket, that ends before position `trial` of the window", "lower"),
    Metric("accuracy", "ratio", "Accuracy", "share of the answers whose likeliest token is right, "
           "at a length and a load", "higher"),
    Metric("answers", "1", "Answers", "answers asked for at a length and a load"),
    # What the kernels suite measures of one operation.
    Metric("kernel_s", "s", "Time", "one call of the operation on inputs that are on the device: "
           "forward, or forward and backward to the gradients of its inputs", "lower"),
    Metric("kernel_first_s", "s", "First call", "the first call at these shapes in a process: "
           "compilation and autotuning included", "lower"),
    Metric("kernel_error", "ratio", "Error", "relative L2 distance from float64 of some rows of "
           "the output and, in training, of the gradients of all inputs: the largest of them",
           "lower"),
    Metric("kernel_peak_bytes", "bytes", "Peak", "peak memory during the calls above what "
           "was held before them: outputs, gradients and what is kept in between; resident set on "
           "a CPU, allocated bytes on a GPU", "lower"),
    Metric("kernel_flops", "flop", "FLOPs", "analytic FLOPs that the function needs, whatever an "
           "implementation does: of attention those of the causal pairs, of retention those of "
           "the pairs or of the recurrence, whichever is less; three times as many for forward "
           "and backward"),
    Metric("kernel_bytes", "bytes", "Bytes", "analytic bytes that must move: inputs and output "
           "once, in training their gradients too, all in the type of the inputs"),
    # Derived from the above when a report is made.
    Metric("prefill_tokens_per_s", "tokens/s", "Prefill throughput", "prompt tokens of the batch "
           "over the median TTFT", "higher"),
    Metric("decode_tokens_per_s", "tokens/s", "Decode throughput", "batch size over the median "
           "TPOT", "higher"),
    Metric("prefill_mfu", "ratio", "Prefill MFU", "model FLOPs utilisation: analytic prefill "
           "FLOPs over TTFT over the peak matmul rate", "higher"),
    Metric("step_tokens_per_s", "tokens/s", "Throughput", "tokens of a step over the median step "
           "time", "higher"),
    Metric("process_tokens_per_s", "tokens/s", "Throughput per process", "tokens of a step over "
           "the median step time and over the processes that share it", "higher"),
    Metric("step_mfu", "ratio", "MFU", "model FLOPs utilisation: analytic step FLOPs over step "
           "time over the peak matmul rate", "higher"),
    Metric("decode_bandwidth", "bytes/s", "Achieved bandwidth", "analytic decode bytes over TPOT",
           "higher"),
    Metric("kernel_flop_per_s", "flop/s", "Rate", "analytic FLOPs over the median time of a call",
           "higher"),
    Metric("kernel_bandwidth", "bytes/s", "Bandwidth", "analytic bytes over the median time of a "
           "call", "higher"),
    Metric("kernel_share", "ratio", "Of the ceiling", "the time that the machine's measured matmul "
           "rate or its bandwidth at that size allows, whichever is longer, over the median time "
           "of a call", "higher"),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.tag: metric for metric in _DECLARED}


def sample_key(sample: Sample | dict[str, Any]) -> tuple[int, str, str]:
    """The coordinates of a cell in one block: ``(block, model, point)``."""
    return sample["block"], sample["model"], sample["point"]
