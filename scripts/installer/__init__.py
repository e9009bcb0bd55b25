"""The installer that `make install-service` runs: download the model, write the systemd user unit, test the service.

Uses the standard library only. `cli` is the entry point; every other module implements one concept.
"""
