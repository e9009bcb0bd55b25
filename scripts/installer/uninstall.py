"""`make uninstall-service`: takes away what the installer made, and nothing else."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from . import systemd, units
from .errors import EXIT_USAGE, InstallError
from .install import Surroundings
from .part import companions
from .places import Record


def uninstall(options: Namespace, around: Surroundings) -> None:
    """Stops the service and removes units, key, script and configuration; the model only with `--delete-model`.

    Raises:
        InstallError: a unit is not the installer's own, or systemd refuses.
    """
    places, record = around.places, Record.read(around.places.record)
    foreign = units.foreign(places.unit_dir)
    if foreign and not options.yes:
        hint = "To remove it all the same: --yes"
        raise InstallError(f"{foreign[0]} was not written by this installer", hint=hint, status=EXIT_USAGE)
    running = systemd.why_not(around.environ) is None
    units.remove(places.unit_dir, around.environ, around.say, running=running)
    removable = [places.wait_script]
    removable += [places.api_key] if record.api_key else []
    with contextlib.suppress(OSError):
        removable += [places.config] if places.config.read_text(encoding="utf-8") == record.config_text else []
    models = [Path(name) for name in record.model_files if Path(name).exists()]
    if options.delete_model:
        removable += [file for model in map(Path, record.model_files) for file in (model, *companions(model))]
    _remove(removable, around)
    if models and not options.delete_model:
        around.say("kept the model (--delete-model removes it):")
        for model in models:
            around.say(f"  {model}")
    else:
        _remove([places.record, places.models_dir / ".install.lock"], around)
    for folder in (places.models_dir, places.record.parent, places.config.parent):
        with contextlib.suppress(OSError):  # not empty, or not there
            folder.rmdir()


def _remove(files: Iterable[Path], around: Surroundings) -> None:
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
            around.say(f"removed {file}")
