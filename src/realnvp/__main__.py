"""python -m realnvp is the command realnvp; torchrun and accelerate launch start it so."""

from realnvp.cli import entry

entry()
