"""The command `jaxmlip`: picks a command, and turns errors into messages and exit codes."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from jaxmlip.cli.errors import Failure
from jaxmlip.errors import UserError

COMMANDS = {
    "train": "train a potential on labelled structures",
    "finetune": "bring a model to what has been observed, and keep its labels",
    "generate": "make a training set by design, and label it",
    "audit": "what is wrong with the labels of a data set",
    "clean": "find labelled structures that look wrong",
    "tradeoff": "how large a model, how much regularisation, whether more frames would help",
    "evaluate": "errors of a model on labelled structures",
    "md": "molecular dynamics with a model",
    "relax": "relax a structure with a model",
    "demo": "train, test and simulate silicon in a few minutes, with a report",
    "info": "versions, devices, soundness of the compiler; what a model file holds",
}
USAGE = "usage: jaxmlip COMMAND [FILE.toml] [options]\n\n" + "\n".join(
    f"  jaxmlip {name:9} {text}" for name, text in COMMANDS.items()
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0, or 2 where the user can mend it, 130 after Ctrl-C, 1 for any other failure."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE + "\n\n`jaxmlip COMMAND --help` lists the options of a command.")
        return 0 if argv else 2
    if argv[0] == "--version":
        from jaxmlip import __version__

        print(__version__)
        return 0
    return guarded(argv[0], argv[1:])


def guarded(name: str, argv: Sequence[str]) -> int:
    """Run one command and say what went wrong, if anything did."""
    # Programs from the cache name features of the processor that XLA does not know again, and says so at great length.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        if name not in COMMANDS:
            from jaxmlip.cli.config import suggestion

            raise UserError(f"unknown command `{name}`{suggestion(name, COMMANDS)}")
        from jaxmlip.cli import settings

        if name != "info":
            settings.prepare()
        return importlib.import_module(f"jaxmlip.cli.{name}").main(argv) or 0
    except UserError as error:
        return complain(name, str(error), 2)
    except KeyboardInterrupt as error:
        return complain(name, str(error) or "interrupted; whatever was written is whole.", 130)
    except BrokenPipeError:  # whoever read our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return complain(name, f"{where}the disk is full. What was written before is whole.", 1)
        if error.errno in (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.EROFS, errno.EEXIST):
            return complain(name, f"{where}{error.strerror}.", 2)
        traceback.print_exc()
        return complain(name, f"{where}{error.strerror or error}", 1)
    except (MemoryError, RecursionError) as error:
        return complain(name, f"out of memory ({type(error).__name__}): try a smaller system or batch.", 1)
    except Failure as error:
        return complain(name, str(error), 1)
    except Exception as error:
        traceback.print_exc()
        return complain(name, f"failed: {type(error).__name__} (above). This is a bug; please report it.", 1)


def complain(name: str, message: str, code: int) -> int:
    """Print a message on standard error and return the exit code."""
    print(f"jaxmlip {name}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
