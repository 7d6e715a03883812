"""Joint-DetNAS: Upgrade Your Detector with NAS, Pruning and Dynamic Distillation (CVPR 2021)."""
