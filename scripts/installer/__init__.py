"""The installer behind `make install-service`: the model, the systemd user unit, and the proof that it answers.

Standard library only. `cli` is the way in; every other module is one idea.
"""
