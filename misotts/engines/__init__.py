"""The engines that make frames on the device, behind the interface in `interface.py`."""
