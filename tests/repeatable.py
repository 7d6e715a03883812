"""What two runs of one seed share: their records but for times, and latencies that are made up."""

from typing import Any

TIMES = {
    *("time", "seconds", "cpu_seconds", "train_seconds", "train_cpu_seconds", "drawing_cpu_seconds", "search_seconds"),
    *("callback_seconds", "samples_per_second", "peak_memory"),
}


def without_times(value: Any) -> Any:
    """A record as JSON has it, but for what no seed decides."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def steady_latency(network, input_shape, device="cpu", **_):
    """A made-up latency that depends on network and image alone."""
    from common.evaluate.latency import Latency

    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Latency(parameters * 1e-5 + input_shape[-1], 0.0, str(device), "float32", "none", 1)
