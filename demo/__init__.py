"""The demo: `model` makes a small model folder, `silentcipher` trained its watermark, `speak` uses it with a server."""
