"""The ``adamss-fl`` command: finds a subcommand's module only when it is called, so that ``--help`` is fast."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import typer
from typer.core import TyperGroup

from adamss_fl import __doc__ as SUMMARY
from adamss_fl import __version__
from adamss_fl.cli import shell
from adamss_fl.plugins import suggest

COMMANDS: dict[str, str] = {
    "phantom": "Make synthetic PET/CT hospitals with a known survival hazard.",
    "check": "Check the quality of a cohort on disk.",
    "preflight": "Compare the sites of a configuration before training, and tell what is likely to be wrong.",
    "train": "Train centrally, on one site's patients.",
    "simulate": "Run the federation on Flower's simulation engine.",
    "compare": "Measure local-only, federated and pooled training on the same test patients.",
    "cross-site": "Judge every model of a comparison at every site, and what each site gains.",
    "evaluate": "Evaluate a run's model on a cohort.",
    "predict": "Predict risk, survival curve and masks of new patients.",
    "explain": "Show what a run's network looks at, in maps, figures and numbers.",
    "provision": "Make a consortium's certificate authority, keys and kits.",
    "server": "Run the coordinator's server of a federation, from its kit.",
    "site": "Run a hospital's site from its kit, and keep its own rules: policy, approved code, pause, audit.",
    "submit": "Start a run over the real sites, or follow one that goes on.",
    "runs": "List the runs of a federation.",
    "stop": "Stop a run of a federation.",
    "report": "Write a run's one-file HTML report.",
    "plugins": "List what is installed at each extension point.",
}
"""Each command and its summary; its function is ``adamss_fl.cli.<command>.<command>``, a hyphen being an underscore.

A command that has commands of its own is a module with ``COMMANDS``, a mapping of their names to functions, in place of
the function; the module's docstring is its help.
"""


class LazyGroup(TyperGroup):
    """The group of all commands; only the one that is called is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A stand-in with the command's summary, enough to list it."""
        return click.Command(cmd_name, help=COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command itself, imported now."""
        if args and args[0] in COMMANDS:
            return args[0], load_command(args[0]), args[1:]
        if args and not args[0].startswith("-"):
            ctx.fail(f"there is no command '{args[0]}'; {suggest(args[0], COMMANDS, 'commands')}")
        return super().resolve_command(ctx, args)


class SubGroup(TyperGroup):
    """The commands of one command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command itself."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"there is no command '{args[0]}'; {suggest(args[0], self.commands, 'commands')}")
        return super().resolve_command(ctx, args)


def load_command(name: str) -> click.Command:
    """Import the module of command ``name`` and make a click command of its function, or a group of its commands."""
    function_name = name.replace("-", "_")
    module = importlib.import_module(f"adamss_fl.cli.{function_name}")
    commands: Mapping[str, Callable[..., Any]] | None = getattr(module, "COMMANDS", None)
    app = typer.Typer(add_completion=False)
    if commands is None:
        app.command(name)(shell.handled(getattr(module, function_name)))
        return typer.main.get_command(app)
    app.callback(cls=SubGroup, help=module.__doc__, invoke_without_command=True)(_help_where_alone)
    for each, function in commands.items():
        app.command(each)(shell.handled(function))
    return typer.main.get_command(app)


def _help_where_alone(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        typer.echo(f"adamss-fl {__version__}")
        ctx.exit()


def build() -> LazyGroup:
    """The group of all commands as click sees it."""
    version = click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_print_version,
        help="Print the version.",
    )
    return LazyGroup(name="adamss-fl", help=SUMMARY, params=[version])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # a hospital's machine calls nobody
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        result: Any = build().main(given, prog_name="adamss-fl", standalone_mode=False)
    except click.ClickException as error:
        return shell.usage(_usage_line(error))
    except click.Abort:
        return shell.fail(KeyboardInterrupt())
    except BrokenPipeError:  # whoever read our output has gone
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the interpreter's last flush
        return 0
    except Exception as error:  # the boundary: anything else is a defect, told in one line
        return shell.fail(error)
    return result if isinstance(result, int) else 0


def _usage_line(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    hint = f" (see '{context.command_path} --help')" if context is not None else ""
    return f"{error.format_message().rstrip('.')}{hint}"


if __name__ == "__main__":
    sys.exit(main())
