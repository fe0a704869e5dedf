"""The suites that time: training steps and kernels."""
