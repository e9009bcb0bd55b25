"""`make uninstall-service`: takes away what the installer made, and nothing else; lists what it leaves."""

from __future__ import annotations

import contextlib
import os
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from . import systemd, units
from .errors import EXIT_USAGE, InstallError
from .part import companions
from .places import Places, Record
from .plan import Surroundings


def uninstall(options: Namespace, around: Surroundings) -> None:
    """Stops the service and removes unit, key and configuration; the model only with `--delete-model`.

    Raises:
        InstallError: a unit is not the installer's own, or systemd refuses.
    """
    places, record = around.places, Record.read(around.places.record)
    foreign = units.foreign(places.unit_dir)
    if foreign and not options.yes:
        hint = "To remove it all the same: --yes"
        raise InstallError(f"{foreign[0]} was not written by this installer", hint=hint, status=EXIT_USAGE)
    if not (units.present(places.unit_dir) or places.record.exists()):
        around.say("nothing is installed")
    running = systemd.why_not(around.environ) is None
    units.remove(places.unit_dir, around.environ, around.say, running=running)
    removable = [places.presets, places.wait_script]
    removable += [places.api_key] if record.api_key else []
    with contextlib.suppress(OSError):
        unchanged = places.config.read_text(encoding="utf-8", errors="replace") == record.config_text
        removable += [places.config] if unchanged else []
    if options.delete_model:
        removable += [file for model in map(Path, record.model_files) for file in (model, *companions(model))]
    _remove(removable, around)
    _offer_leftovers(options, record, around)
    if not any(Path(name).exists() for name in record.model_files):
        _remove([places.record, places.models_dir / ".install.lock"], around)
    folders = {Path(name).parent for name in record.model_files}
    for folder in (*sorted(folders, reverse=True), places.models_dir, places.record.parent, places.config.parent):
        with contextlib.suppress(OSError):  # not empty, or not there
            folder.rmdir()


def _offer_leftovers(options: Namespace, record: Record, around: Surroundings) -> None:
    """Lists the models, backups and set-aside files that are left, and removes the latter two if that is wanted."""
    models = [Path(name) for name in record.model_files if Path(name).exists()]
    if models:
        around.say("kept the model (--delete-model removes it):")
        for model in models:
            around.say(f"  {model}")
    left = _leftovers(around.places, record)
    if left:
        around.say("kept backups, and files that were set aside or are half downloaded (--purge removes them):")
        for file in left:
            around.say(f"  {file}")
        answer = "y" if options.purge else around.ask("Remove these, too? [y/N] ")
        if (answer or "").strip().lower() in ("y", "yes"):
            _remove(left, around)
    if record.linger and systemd.lingers(around.environ):
        user = around.environ.get("USER") or str(os.getuid())
        around.say(f"your services still run without a login; to end that: loginctl disable-linger {user}")


def _leftovers(places: Places, record: Record) -> list[Path]:
    found = [path for name in units.ALL_UNITS for path in places.unit_dir.glob(f"{name}.backup-*")]
    folders = {places.models_dir, *(Path(name).parent for name in record.model_files)}
    for folder in sorted(folders):
        for pattern in ("*.corrupt", "*.corrupt-*", "*.part", "*.part.json"):
            found += sorted(folder.glob(pattern))
    return found


def _remove(files: Iterable[Path], around: Surroundings) -> None:
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
            around.say(f"removed {file}")
