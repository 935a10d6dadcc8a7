"""The `nestling` command, and the one place where errors become a line and an exit code.

Exit codes: 0 done, 1 a check failed, 2 wrong input, 130 interrupted.
"""

import logging
import os
import sys
from collections.abc import Sequence

import click

from nestling.cli.bench_command import bench
from nestling.cli.data_command import data
from nestling.cli.demo_command import demo, demo_stream
from nestling.cli.doctor_command import doctor
from nestling.cli.governing.contract_command import contract
from nestling.cli.governing.version_commands import diff, rollback, validate, versions
from nestling.cli.learn_command import learn
from nestling.cli.output import Commands
from nestling.cli.plan_command import plan
from nestling.cli.predict_command import predict
from nestling.cli.report_command import report
from nestling.cli.tune_command import tune
from nestling.core.errors import NestlingError

WRONG_INPUT = 2
INTERRUPTED = 130


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nestling")
def nestling() -> None:
    """Nested learning: parts of one model learn at different speeds, and what is old stays.

    \b
    Example:
      nestling demo --out runs/demo
    """


for _command in (
    *(demo, demo_stream, learn, predict, plan, tune, report, bench, data),
    *(contract, versions, diff, rollback, validate, doctor),
):
    nestling.add_command(_command)


def main() -> None:
    """Run the command line; the console script."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(args: Sequence[str]) -> int:
    """Run one command and say how it went.

    Args:
        args: what follows `nestling` on the command line.

    Returns: the exit code. Errors that the user can mend are one line on stderr.
    """
    # A console script does not search the working directory, where the user's model lies.
    if (folder := os.getcwd()) not in sys.path:
        sys.path.insert(0, folder)
    _show_messages()
    try:
        code = nestling.main(args=list(args), prog_name="nestling", standalone_mode=False)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "nestling"
        return _refuse(f"{error.format_message()} (see {where} --help)")
    except click.ClickException as error:
        return _refuse(error.format_message())
    except click.exceptions.Exit as error:
        return int(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except NestlingError as error:
        return _refuse(f"{type(error).__name__}: {error}")
    except BrokenPipeError:
        # Whoever read our output has gone; python must not try to flush to them at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return WRONG_INPUT
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _refuse(f"{what}; choose a file or folder that can be read and written")
    return code if isinstance(code, int) else 0


def _show_messages() -> None:
    """What the library says, as lines on stderr."""
    logger = logging.getLogger("nestling")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("nestling: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING)


def _refuse(message: str) -> int:
    click.echo("nestling: " + " ".join(message.split()), err=True)
    return WRONG_INPUT


if __name__ == "__main__":
    main()
