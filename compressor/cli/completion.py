"""Shell completion as click gives it: `eval "$(_COMPRESS_COMPLETE=bash_source compress)"`, also zsh and fish."""

from __future__ import annotations

import os

import click
from click.shell_completion import CompletionItem, shell_complete

VARIABLE = "_COMPRESS_COMPLETE"


def complete_file(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete a path, as `shell_complete` of an option or argument.

    Args:
        context: The context of the command.
        parameter: The option or argument.
        incomplete: What was typed.

    Returns:
        What click understands as a path.
    """
    return [CompletionItem(incomplete, type="file")]


def complete_recipe(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a shipped recipe; the shell completes a path where no name begins like this.

    Args:
        context: The context of the command.
        parameter: The option.
        incomplete: What was typed.

    Returns:
        The names, or what click understands as a path.
    """
    from compressor.recipe.read import shipped_recipes

    names = [CompletionItem(name) for name in shipped_recipes() if name.startswith(incomplete)]
    return names or complete_file(context, parameter, incomplete)


class FirstWord(click.Command):
    """Completes the first word: a command, or else the path of a model."""

    def __init__(self, commands: click.Group, compress: click.Command) -> None:
        super().__init__("compress")
        self.commands, self.compress = commands, compress

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands or options that begin like this, or leave it to the shell.

        Args:
            ctx: The context.
            incomplete: What was typed.
        """
        if incomplete.startswith("-"):
            return self.compress.shell_complete(ctx, incomplete)
        names = [
            CompletionItem(name, help=command.get_short_help_str())
            for name, command in self.commands.commands.items()
            if name.startswith(incomplete)
        ]
        return names or [CompletionItem(incomplete, type="file")]


def complete(commands: click.Group, compress: click.Command) -> int | None:
    """Answer a request of the shell.

    Args:
        commands: The group of named commands.
        compress: The command without a name.

    Returns:
        The exit code; None if the shell requests nothing.
    """
    instruction = os.environ.get(VARIABLE)
    if not instruction:
        return None
    words = os.environ.get("COMP_WORDS", "").split()[1:]
    position = os.environ.get("COMP_CWORD", "")  # fish gives the word itself
    is_first = len(words) == 0 or (position == "1" if position.isdigit() else words == [position])
    command: click.Command = commands if words and words[0] in commands.commands else compress
    return shell_complete(FirstWord(commands, compress) if is_first else command, {}, "compress", VARIABLE, instruction)
