"""DetOFA: Efficient Training of Once-for-All Networks for Object Detection using Path Filter (ICCV-W 2023)."""
