"""``p2sam models``: the weights on this computer."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from P2SAMSlicerLib.cli.arguments import Commands, add_progress_argument
from P2SAMSlicerLib.cli.arguments import add_command as add_named_command
from P2SAMSlicerLib.cli.table import format_table
from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models import store
from P2SAMSlicerLib.models.adapter import is_adapter, read_card
from P2SAMSlicerLib.models.catalogue import catalogue_entry
from P2SAMSlicerLib.progress import terminal_progress
from P2SAMSlicerLib.resources import resource_path

DESCRIPTION = """\
Lists, downloads, verifies and removes the weights of the models. The default model
comes with a Python package and needs no download. Weights lie in the user's data
folder, or in the one that the environment variable P2SAM_MODEL_DIR names."""


def add_command(commands: Commands) -> None:
    """Add ``models`` to the command line."""
    parser = commands.add_parser("models", help="list, download, verify and remove weights", description=DESCRIPTION)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add_named_command(actions, "list", run_list, "all models, and which are on this computer", "Lists all models.")
    download = add_named_command(
        actions,
        "download",
        run_download,
        "fetch a model's weights",
        "Downloads weights and verifies their SHA-256. An interrupted download goes on where it stopped.",
    )
    download.add_argument("model", metavar="ID")
    download.add_argument("--sha256", metavar="HASH", help="that the file must have, where none is on record")
    download.add_argument("--allow-unverified", action="store_true", help="take a file whose hash nobody knows")
    add_progress_argument(download)
    verify = add_named_command(
        actions, "verify", run_verify, "compute a file's SHA-256", "Computes the SHA-256 of a model's weights and compares it."
    )
    verify.add_argument("model", metavar="ID")
    remove = add_named_command(
        actions, "remove", run_remove, "delete downloaded weights", "Deletes what was downloaded of a model."
    )
    remove.add_argument("model", metavar="ID")
    path = add_named_command(
        actions,
        "path",
        run_path,
        "where weights lie",
        "Prints the folder of downloaded weights, or the file of a model; exit status 1 if it is not there.",
    )
    path.add_argument("model", metavar="ID", nargs="?")
    card = add_named_command(
        actions,
        "card",
        run_card,
        "what an adapter was made from",
        "Prints the card of an adapted model or of an adapter file: base, method, licence, data with attribution, settings and"
        " figures.",
    )
    card.add_argument("model", metavar="ID_OR_FILE")


def run_list(_arguments: argparse.Namespace) -> int:
    """Run ``models list``."""
    rows = []
    for each in store.list_models():
        entry = each.entry
        size = each.bytes or entry.bytes
        rows.append(
            [
                entry.id + (" (default)" if entry.default else ""),
                each.origin or "not here",
                f"{size / 1e6:.0f} MB" if size else "?",
                "yes" if entry.verified else "no" if entry.sha256 else "no hash",
                ", ".join(entry.trained_prompts),
                entry.licence,
                entry.title,
            ]
        )
    print(format_table(["id", "on this computer", "size", "verified", "trained with", "licence", "model"], rows))
    print("verified: this project has seen the file itself, computed its SHA-256 and run the model with it")
    return 0


def run_download(arguments: argparse.Namespace) -> int:
    """Run ``models download``."""
    with terminal_progress(as_json=arguments.json_progress) as progress:
        path = store.download(arguments.model, progress, sha256=arguments.sha256, allow_unverified=arguments.allow_unverified)
    print(path)
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Run ``models verify``."""
    verified = store.verify(arguments.model)
    print(f"{verified.sha256}  {verified.path}")
    print("the SHA-256 is the one on record" if verified.known else "no SHA-256 is on record to compare it with")
    return 0


def run_remove(arguments: argparse.Namespace) -> int:
    """Run ``models remove``."""
    freed = store.remove(arguments.model)
    print(f"{arguments.model}: removed, {freed / 1e6:.0f} MB freed")
    return 0


def run_path(arguments: argparse.Namespace) -> int:
    """Run ``models path``."""
    if arguments.model is None:
        print(store.model_dir())
        return 0
    there = store.find(arguments.model)
    print(there or store.path(arguments.model))
    if there is None:
        print(f"p2sam: {arguments.model}: not there yet", file=sys.stderr)
    return 0 if there else 1


def run_card(arguments: argparse.Namespace) -> int:
    """Run ``models card``."""
    card = read_card(_adapter_file(arguments.model))
    print(f"{card.title}\nbase: {card.base}, SHA-256 {card.base_sha256}\nmethod: {card.method}")
    print(f"trained with: {', '.join(card.trained_prompts)}\nlicence: {card.licence}\ndata: {card.data or 'not stated'}")
    for name, value in card.training.items():
        print(f"{name.replace('_', ' ')}: {json.dumps(value)}")
    return 0


def _adapter_file(name: str) -> Path:
    if is_adapter(Path(name)):
        return Path(name)
    adapter = catalogue_entry(name).adapter
    if adapter is None:
        raise ModelError(f"{name}: is not an adapted model; 'p2sam models list' says what is known of it")
    return resource_path(f"Models/{adapter}")
