"""Faults on purpose: processes that are killed or hang, disks that are full, bits that flip.

python -m tests.faults.kill       SIGKILL at random moments of training, preparation and figures
python -m tests.faults.storage    bit flips and truncations; a full, a read-only and a slow disk
python -m tests.faults.others     one of two processes dies or hangs
`make faults` runs all; the suite holds shorter forms (tests/test_faults.py).
"""
