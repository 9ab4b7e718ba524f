"""``p2sam worker``: the engine for another program, with requests on standard input and events on standard output."""

from __future__ import annotations

import argparse

from P2SAMSlicerLib.cli.arguments import Commands
from P2SAMSlicerLib.cli.arguments import add_command as add_named_command

DESCRIPTION = """\
Serves another program, such as the module in 3D Slicer: one JSON object a line on
standard input asks for something, one JSON object a line on standard output tells
what came of it. It keeps the model and what it computed between requests, opens
no network port, and ends with its standard input. Not meant to be typed to."""


def add_command(commands: Commands) -> None:
    """Add ``worker`` to the command line."""
    add_named_command(commands, "worker", run, "serve another program over pipes (not for people)", DESCRIPTION)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from P2SAMSlicerLib.worker.server import serve

    del arguments
    return serve()
