"""The training of the demo model's watermark; `weights/` is its result. The server does not use this package."""
