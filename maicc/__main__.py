"""`python -m maicc` is the command `maicc`."""

from maicc.cli import main

main()
