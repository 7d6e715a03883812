"""Methods and detectors side by side: one evaluator, one cost convention, times taken in turn."""
