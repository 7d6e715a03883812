"""SM-NAS: Structural-to-Modular Neural Architecture Search for Object Detection (AAAI 2020)."""
