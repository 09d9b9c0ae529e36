"""The engines that compute steps on a device, behind the interface in `interface.py`."""
