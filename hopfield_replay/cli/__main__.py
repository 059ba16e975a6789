import os
import sys

from hopfield_replay.cli import main

if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]  # python -m put it there: what lies in the working folder must not stand for an installed package
sys.exit(main())
