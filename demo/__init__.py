"""The demo: `model` makes its model folder, `voice` and `silentcipher` trained it, `speak` uses it with a server."""
