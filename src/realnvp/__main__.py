"""python -m realnvp is the command realnvp; torchrun starts it so."""

from realnvp.cli import entry

entry()
