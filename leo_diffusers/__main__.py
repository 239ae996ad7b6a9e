"""`python -m leo_diffusers`: the `leo-diffusers` command."""

import sys

from .cli import main


if __name__ == "__main__":
    sys.exit(main())
