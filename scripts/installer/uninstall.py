"""`make uninstall-service`: remove what the installer created, and list what is left."""

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
from .plan import Session


def uninstall(options: Namespace, session: Session) -> None:
    """Stop the service and delete unit, key and configuration; delete models only with `--delete-model`.

    Raises:
        InstallError: a unit was not written by the installer, or systemctl failed.
    """
    places, record = session.places, Record.read(session.places.record)
    foreign = units.foreign(places.unit_dir)
    if foreign and not options.yes:
        hint = "To delete it anyway, add --yes."
        raise InstallError(f"{foreign[0]} was not written by this installer", hint=hint, status=EXIT_USAGE)
    if not (units.present(places.unit_dir) or places.record.exists()):
        session.say("nothing is installed")
    running = systemd.problem(session.environ) is None
    units.remove(places.unit_dir, session.environ, session.say, running=running)
    removable = [places.presets, places.wait_script]
    removable += [places.api_key] if record.api_key else []
    with contextlib.suppress(OSError):
        unchanged = places.config.read_text(encoding="utf-8", errors="replace") == record.config_text
        removable += [places.config] if unchanged else []
    if options.delete_model:
        removable += [file for model in map(Path, record.model_files) for file in (model, *companions(model))]
    _remove(removable, session)
    _offer_leftovers(options, record, session)
    if not any(Path(name).exists() for name in record.model_files):
        _remove([places.record, places.models_dir / ".install.lock"], session)
    folders = {Path(name).parent for name in record.model_files}
    for folder in (*sorted(folders, reverse=True), places.models_dir, places.record.parent, places.config.parent):
        with contextlib.suppress(OSError):  # not empty, or not there
            folder.rmdir()


def _offer_leftovers(options: Namespace, record: Record, session: Session) -> None:
    """List the remaining models, backups, corrupt and partial files; delete all but the models if the user agrees."""
    models = [Path(name) for name in record.model_files if Path(name).exists()]
    if models:
        session.say("kept the downloaded models (--delete-model deletes them):")
        for model in models:
            session.say(f"  {model}")
    leftovers = _leftovers(session.places, record)
    if leftovers:
        session.say("kept backups, corrupt files and partial downloads (--purge deletes them):")
        for file in leftovers:
            session.say(f"  {file}")
        answer = "y" if options.purge else session.ask("Delete these, too? [y/N] ")
        if (answer or "").strip().lower() in ("y", "yes"):
            _remove(leftovers, session)
    if record.linger and systemd.lingers(session.environ):
        user = session.environ.get("USER") or str(os.getuid())
        session.say(f"your services still run without a login; to disable that: loginctl disable-linger {user}")


def _leftovers(places: Places, record: Record) -> list[Path]:
    paths = [path for name in units.ALL_UNITS for path in places.unit_dir.glob(f"{name}.backup-*")]
    folders = {places.models_dir, *(Path(name).parent for name in record.model_files)}
    for folder in sorted(folders):
        for pattern in ("*.corrupt", "*.corrupt-*", "*.part", "*.part.json"):
            paths += sorted(folder.glob(pattern))
    return paths


def _remove(files: Iterable[Path], session: Session) -> None:
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
            session.say(f"removed {file}")
