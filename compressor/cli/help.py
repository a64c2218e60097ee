"""Help in groups: options under headings, commands in one line each, and the nearest name for an unknown one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from compressor.errors import RecipeError, did_you_mean

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
GROUPS = ("Input", "Output", "Device", "Training", "Measurement", "Other")
"""Headings of the help, in their order."""

Function = Callable[..., object]


class GroupedOption(click.Option):
    """An option that help lists under a heading."""

    def __init__(self, *declarations: Any, group: str, **attributes: Any) -> None:
        super().__init__(*declarations, **attributes)
        self.group = group


class GroupedHelp(click.Command):
    """A command whose help lists the options by group, one line each."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each group of options.

        Args:
            ctx: The context of the command.
            formatter: What the help text is written to.
        """
        for group in GROUPS:
            options = [
                parameter
                for parameter in self.get_params(ctx)
                if isinstance(parameter, click.Option) and getattr(parameter, "group", "Other") == group
            ]
            rows = [row for row in (option.get_help_record(ctx) for option in options) if row is not None]
            if rows:
                with formatter.section(group):
                    formatter.write_dl(rows)


class CommandGroup(click.Group):
    """A group of commands that answers an unknown name with the nearest known one, and lists each in a full line."""

    command_class = GroupedHelp

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first word names.

        Args:
            ctx: The context of the group.
            args: The words of the command line after the group's name.

        Returns:
            The name, the command, and the words that remain.

        Raises:
            RecipeError: There is no such command.
        """
        if args[0] not in self.commands:
            hint = f"{did_you_mean(args[0], self.commands)}one of: {', '.join(self.commands)}"
            raise RecipeError("usage/unknown-command", ctx.command_path, f"there is no command {args[0]}", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line for each command.

        Args:
            ctx: The context of the group.
            formatter: What the help text is written to.
        """
        write_commands(self, formatter)


def write_commands(group: click.Group, formatter: click.HelpFormatter) -> None:
    """Write a section with one line for each command of a group.

    Args:
        group: The group of commands.
        formatter: What the help text is written to.
    """
    with formatter.section("Commands"):
        formatter.write_dl([(name, command.get_short_help_str(limit=100)) for name, command in group.commands.items()])


def option(group: str, *declarations: str, **attributes: Any) -> Callable[[Function], Function]:
    """Declare an option of a command.

    Args:
        group: The heading of GROUPS that help lists it under.
        declarations: The option's names.
        attributes: What click.option takes.

    Returns:
        A decorator.
    """
    return click.option(*declarations, cls=GroupedOption, group=group, **attributes)
