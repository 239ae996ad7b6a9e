"""
LIA's released checkpoint -> LIAPipeline folder: `python conversion/convert_lia_checkpoint.py vox.pt vox-animator`.

The same as `leo-diffusers convert`; the key map is in leo_diffusers/lia_checkpoint.py.
"""

import sys

from leo_diffusers.cli import main


if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
